"""Behaviour logs: who did what when, as flat arrays in users' time order, read from files of any size.

For logs that are too large for tables in memory (Taobao, Tmall, KuaiRand). Ids go by first appearance, every item of
the log has one, and nothing is dropped but what the spec says. For a log of a few million events with a catalog, see
`llm_rec.data.interactions`; `behaviours_of` brings it into this form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from ctr_models.encode import VocabularyConfig, build_fitter
from ctr_models.encoders import Vocabulary
from ctr_models.schema import Categorical
from ctr_models.values import RawColumn
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.data.catalog import Catalog
from llm_rec.data.columns import FittedColumn
from llm_rec.data.interactions import Interactions
from llm_rec.data.log_spec import ColumnSpec, TableFile
from llm_rec.errors import DataError

ITEM = "item"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemTableSpec:
    """A file with one row an item: `item` is its id there, each of `columns` a field with one id."""

    file: TableFile
    item: str
    columns: tuple[ColumnSpec, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviourSpec:
    """What the columns of raw files of behaviours mean, and which rows count.

    `fields` are (name of the field, column) of what an event has besides its item. `where` keeps rows whose column has
    one of the given texts; `time_characters` keeps rows whose time has so many characters as written. `order="require"`
    refuses a file in which a user's time falls, "sort" sorts each user's events by time (equal times keep the order of
    the rows). Users with fewer than `min_events` events are left out, after items were counted. `label` is a column of
    0 and 1, where rows were shown rather than clicked. `items` brings further fields from a file of items. Without
    `gaps`, times order events and are not kept: for times whose difference is no time.
    """

    user: str
    item: str
    time: str
    fields: tuple[tuple[str, str], ...] = ()
    where: tuple[str, tuple[str, ...]] | None = None
    time_characters: int | None = None
    order: Literal["require", "sort"] = "require"
    min_events: int = 1
    label: str | None = None
    items: ItemTableSpec | None = None
    gaps: bool = True

    def __post_init__(self) -> None:
        if self.min_events < 1:
            raise ValueError(f"min_events must be at least 1, got {self.min_events}")

    @property
    def sources(self) -> list[str]:
        """The raw columns that are read, each once."""
        optional = [name for name in (self.label, self.where[0] if self.where else None) if name is not None]
        return list(dict.fromkeys([self.user, self.item, self.time, *(c for _, c in self.fields), *optional]))


class BehaviourSource(NamedTuple):
    """Raw files and what they mean: what `llm_rec.data.behaviour_files.read_behaviours` takes."""

    files: tuple[TableFile, ...]
    spec: BehaviourSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class BehaviourCounts:
    """What reading saw. Copies of public logs are often cut or made up: compare these with the published figures."""

    rows: int
    kept_rows: int
    users: int
    kept_users: int
    items: int


@dataclass(frozen=True, eq=False)
class Behaviours:
    """Events of U users, each user's in time order: user `u` owns events `offsets[u]` to `offsets[u + 1]`.

    `ids` are those of `columns` (the item's first), `frequencies` how often each item id occurs in the whole log, users
    that were left out included, and `latest` the ids that the item came with last. `labels` is None where every event
    is a click.
    """

    offsets: Int64[np.ndarray, "users_plus_one"]
    ids: Int32[np.ndarray, "events fields"]
    times: Int64[np.ndarray, "events"] | None
    labels: UInt8[np.ndarray, "events"] | None
    users: Vocabulary
    columns: tuple[FittedColumn, ...]
    frequencies: Int64[np.ndarray, "item_ids"]
    latest: Int32[np.ndarray, "item_ids fields"]
    counts: BehaviourCounts
    fingerprint: str
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.ids)

    def users_of(self, events: Int64[np.ndarray, "events"]) -> Int64[np.ndarray, "events"]:
        """The user that owns each event."""
        return np.searchsorted(self.offsets, events, side="right").astype(np.int64) - 1

    def blocks(self, events: int) -> list[tuple[int, int]]:
        """Ranges of users with about so many events each, so that none is cut in two."""
        cuts = np.searchsorted(self.offsets, np.arange(0, len(self) + events, events))
        cuts = np.unique(np.concatenate([cuts, [0, self.num_users]]).clip(max=self.num_users))
        return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))


def behaviours_of(log: Interactions, catalog: Catalog, columns: Sequence[ColumnSpec] = ()) -> Behaviours:
    """An interaction log as behaviours: the id of an item is its catalog row + 1, `columns` are those of the catalog.

    `DataError` for a column that the catalog lacks, or that has several ids an item.
    """
    from llm_rec.data import tables

    tables.require_columns(catalog.columns, [column.source for column in columns], "catalog")
    items = FittedColumn(ColumnSpec(name=ITEM, encoder=VocabularyConfig()), Vocabulary(catalog.item_ids))
    fitted, known = [items], [np.arange(2, len(catalog) + 2, dtype=np.int32)]
    for column in columns:
        found, ids = fit_item_column(column, np.array(catalog.columns[column.source], dtype=object))
        fitted.append(found)
        known.append(ids)
    latest = np.zeros((len(catalog) + 2, len(fitted)), dtype=np.int32)
    latest[2:] = np.stack(known, axis=1)
    counts = BehaviourCounts(
        rows=log.num_events,
        kept_rows=log.num_events,
        users=log.num_users,
        kept_users=log.num_users,
        items=len(catalog),
    )
    ids = latest[np.asarray(log.items) + 1]
    settings = {"columns": to_plain([column.spec for column in fitted])}
    return Behaviours(
        np.asarray(log.offsets),
        ids,
        log.times,
        None,
        Vocabulary(log.user_ids),
        tuple(fitted),
        np.bincount(ids[:, 0], minlength=len(latest)).astype(np.int64),
        latest,
        counts,
        fingerprint("behaviours", log.fingerprint, settings, latest.tobytes()),
        {"catalog": catalog.fingerprint, "interactions": log.fingerprint},
    )


def fit_item_column(column: ColumnSpec, values: np.ndarray) -> tuple[FittedColumn, Int32[np.ndarray, "items"]]:
    """A field of one id an item, fitted on all items; `DataError` when the encoder gives something else."""
    fitter = build_fitter(column.encoder)
    raw = RawColumn(values, np.arange(len(values)))
    try:
        fitter.observe(raw)
        encoder = fitter.finish()
        ids = encoder.transform(raw)
    except ValueError as error:
        raise DataError(f"item column {column.source!r}: {error}") from error
    if not isinstance(encoder.field(column.name), Categorical):
        raise DataError(
            f"item column {column.source!r} is no field with one id an item; give it a vocabulary, or length 1"
        )
    return FittedColumn(column, encoder), ids.reshape(-1).astype(np.int32)
