"""Click-log rows from an interaction log: what happened is a positive, items the user never touched are negatives.

Every event of a part is a row with label 1, followed by its sampled negatives with label 0, drawn uniformly from the
items that the user touched in no part. Such negatives are not impressions: a model of these rows ranks, but its
probabilities mean "against a random item", and are not click rates.

With `similarity` rows have one more field, how near user and item are in a frozen space (`llm_rec.ctr.similarity`).

With `history_fields` every row looks back on what its user did before, in the whole log: a train row on earlier train
events, as the parts of a split follow each other, a test row on those of validation too, and none on its own event.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int64

from ctr_models.encode import VocabularyConfig
from ctr_models.encoders import Vocabulary
from ctr_models.schema import PADDING, RESERVED, UNKNOWN, Categorical, Field, Schema
from ctr_models.values import RawColumn
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.sampled_rows import Rows
from llm_rec.ctr.similarity import RowSimilarity, SimilarityConfig, row_similarity
from llm_rec.ctr.untouched import UntouchedInDomain, UntouchedItems
from llm_rec.data.catalog import Catalog
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter, FittedColumn, holds
from llm_rec.data.event_store import EventStore
from llm_rec.data.interactions import Interactions
from llm_rec.data.log_encoding import build_fitters, lay_out
from llm_rec.data.log_spec import ColumnSpec, Part, check_domain
from llm_rec.data.splits import Split
from llm_rec.errors import DataError
from semantic_ids.code_table import CodeTable

Side = Literal["user", "item"]
USER: Side = "user"
ITEM: Side = "item"
LABEL = "label"


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRowsConfig:
    """What becomes a row, and which fields it has besides `user` and `item`.

    `negatives` a positive in training, `evaluation_negatives` (None: as many) in validation and test. `user_columns`
    and `item_columns` are fields of the user table and of the catalog's columns; `code_name` starts the names of the
    fields of semantic codes, one a book. `item_ids="train"` gives ids to items with at least `min_count` train
    positives and UNKNOWN to all others, which then differ by their other fields alone; "catalog" gives every item the
    id catalog row + 1, so that cold items have embeddings that only negatives trained.

    With `last_train` only so many of each user's last train events become rows; the others still are history, and what
    encoders are fitted on.

    `history_fields` name the fields that past events have, `item` first, then fields of item columns or codes with one
    id an item (a list column becomes one by its first piece, `MultiValueConfig(length=1)`). Past events have the ids of
    the candidate's field: what is UNKNOWN as a candidate is UNKNOWN in the past.

    `domain` names a user or item column, one of the fields, whose values are domains. Where items have domains,
    negatives are drawn from that of their positive.
    """

    negatives: int = 1
    evaluation_negatives: int | None = None
    min_count: int = 1
    item_ids: Literal["train", "catalog"] = "train"
    user_columns: tuple[ColumnSpec, ...] = ()
    item_columns: tuple[ColumnSpec, ...] = ()
    code_name: str = "code"
    history_fields: tuple[str, ...] = ()
    last_train: int | None = None
    similarity: SimilarityConfig | None = None
    domain: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.history_fields and self.history_fields[0] != ITEM:
            raise ValueError(f"history_fields must begin with {ITEM!r}, got {list(self.history_fields)}")
        for name, value in (("negatives", self.negatives), ("evaluation_negatives", self.evaluation_negatives or 0)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if self.last_train is not None and self.last_train < 1:
            raise ValueError(f"last_train must be at least 1, got {self.last_train}")

    def number(self, part: Part) -> int:
        """Negatives a positive of `part`."""
        if part == "train" or self.evaluation_negatives is None:
            return self.negatives
        return self.evaluation_negatives


def sample_rows(
    split: Split, config: LogRowsConfig, domains: Int64[np.ndarray, "items"] | None = None
) -> dict[Part, Rows]:
    """Positives and negatives of every part; the draws of a part depend on the seed and that part alone. With
    `domains` of the items (from 0) a negative has that of its positive.
    """
    log = split.log
    events: dict[Part, np.ndarray] = {
        "train": _train_events(split, config.last_train),
        "validation": split.validation,
        "test": split.test,
    }
    draw = _drawer(log, domains) if any(config.number(part) for part in events) else None
    rows: dict[Part, Rows] = {}
    for place, (part, positives) in enumerate(events.items()):
        if not len(positives):
            raise DataError(f"the {part} part of the split has no events; use another split")
        users, items = log.users_of(positives), log.items[positives][:, None]
        if draw is not None:
            drawn = draw(users, items[:, 0], config.number(part), np.random.default_rng([config.seed, place]))
            items = np.concatenate([items, drawn], axis=1)
        rows[part] = Rows(users, positives.astype(np.int64), items.astype(np.int64))
    return rows


def _drawer(
    log: Interactions, domains: Int64[np.ndarray, "items"] | None
) -> Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]:
    """Draws negatives of (users, positives, number, generator)."""
    if domains is not None:
        return UntouchedInDomain(log, domains).draw
    everywhere = UntouchedItems(log)
    return lambda users, positives, number, rng: everywhere.draw(users, number, rng)


def _train_events(split: Split, last: int | None) -> Int64[np.ndarray, "positives"]:
    events = np.flatnonzero(split.in_train)
    return events if last is None else events[events >= split.train_ends[split.log.users_of(events)] - last]


def write_log_rows(
    split: Split,
    catalog: Catalog,
    path: Path | str,
    config: LogRowsConfig,
    *,
    users: Mapping[str, Sequence[str | None]] | None = None,
    codes: CodeTable | None = None,
    embeddings: Float32[np.ndarray, "items_plus_one width"] | None = None,
    user_vectors: Float32[np.ndarray, "users width"] | None = None,
    overwrite: bool = False,
) -> ClickLog:
    """Sample rows, fit encoders on the train positives, and write the click log `path`; groups are users (from 0).

    `users` holds the user columns in the order of the log's users (`user_columns`). With `codes`, every book is one
    more categorical field, after the others. `embeddings` are the item vectors of the field of `similarity`, which
    comes last, and `user_vectors` those of the log's users in their order (None: means of their train events). Train
    positives of an item, for slices by frequency, are ``log.train_counts("item", label="label")``. Raises `DataError`
    for a column that is not there, a code table or vectors of other items, an empty part, a row of no domain or of one
    without train positives, and a user without an untouched item. The same rows that are there already are kept.
    """
    _check_inputs(split, catalog, config, users or {}, codes)
    similarity = row_similarity(split, config.similarity, embeddings, user_vectors)
    fitted = _fit(split, catalog, config, users or {}, codes)
    domain = _domain_field(fitted, config)
    by_item = None if domain is None or domain.by == USER else domain.by_entity.astype(np.int64)
    rows = sample_rows(split, config, by_item)
    if domain is not None:
        _check_domains(domain, rows, split, catalog)
    columns = (*(field.column for field in fitted), *(() if similarity is None else (similarity.column,)))
    events = _event_store(split.log, fitted, config)
    schema = Schema(
        fields=tuple(column.encoder.field(column.spec.name, column.spec.table) for column in columns),
        labels=(LABEL,),
        group=USER,
        history=config.history_fields,
        domain=config.domain,
    )
    # what the writer knows is added before the block ends, which is when the manifest is written
    details: dict[str, Plain] = {"interactions": split.log.fingerprint, "settings": _settings(config)}
    contents = [field.by_entity.tobytes() for field in fitted]
    samples = [array.tobytes() for part in rows.values() for array in (part.users, part.items)]
    spaces = [] if similarity is None else [similarity.source.users.tobytes(), similarity.source.items.tobytes()]
    name = fingerprint(KIND, split.log.fingerprint, {"config": _settings(config)}, *contents, *samples, *spaces)
    if not overwrite and holds(Path(path), name):
        return ClickLog.load(path)
    sizes = {part: len(found) for part, found in rows.items()}
    inputs = {"catalog": catalog.fingerprint, "interactions": split.log.fingerprint}
    with write_artifact(
        Path(path), kind=KIND, fingerprint=name, inputs=inputs, details=details, overwrite=overwrite
    ) as folder:
        with ClickWriter(folder, schema, columns, sizes, events=events) as writer:
            for part, found in rows.items():
                for chunk in _encoded_chunks(part, found, fitted, similarity, split.log, events):
                    writer.append(part, chunk)
        details.update(writer.details())
    return ClickLog.load(path)


def user_columns(
    path: Path | str, log: Interactions, columns: Sequence[str], *, user: str = "user_id"
) -> dict[str, list[str | None]]:
    """Columns of a table of users, one value a user of the log in its order; None where the table lacks the user."""
    from llm_rec.data import tables

    path = Path(path)
    frame = tables.read_table(path, tables.file_format(path), [user, *columns], ids=[user])
    ids = tables.id_strings(frame[user], str(path))
    tables.refuse_rows(tables.repeated(ids), ids, f"{path}: column {user!r}: duplicate id", "keep one row a user")
    row_of = {id_: row for row, id_ in enumerate(ids)}
    found: dict[str, list[str | None]] = {}
    for name in columns:
        texts = tables.clean_texts(frame[name])
        found[name] = [texts[row_of[id_]] or None if id_ in row_of else None for id_ in log.user_ids]
    return found


@dataclass(frozen=True, eq=False)
class _EntityField:
    """A field that is known by user or by item: its encoder, and the encoded value of every user or item."""

    column: FittedColumn
    by: Side
    by_entity: np.ndarray


def _fit(
    split: Split,
    catalog: Catalog,
    config: LogRowsConfig,
    users: Mapping[str, Sequence[str | None]],
    codes: CodeTable | None,
) -> list[_EntityField]:
    """Encoders see the entity of every train positive, so counts are counts of events."""
    log, train = split.log, np.flatnonzero(split.in_train)
    seen = {"user": log.users_of(train), "item": log.items[train] - 1}
    values: dict[Side, dict[str, Sequence[str | None]]] = {
        USER: {USER: log.user_ids, **users},
        ITEM: {ITEM: catalog.item_ids, **catalog.columns},
    }
    ids = VocabularyConfig(min_count=config.min_count)
    specs: list[tuple[Side, ColumnSpec]] = [(USER, ColumnSpec(name=USER, encoder=ids))]
    specs += [(ITEM, ColumnSpec(name=ITEM, encoder=ids))]
    specs += [(USER, column) for column in config.user_columns] + [(ITEM, column) for column in config.item_columns]
    raws = [np.array(values[side][spec.source], dtype=object) for side, spec in specs]
    fitters = build_fitters([spec for _, spec in specs])
    for (side, spec), raw, fitter in zip(specs, raws, fitters, strict=True):
        with _naming(side, spec):
            fitter.observe(RawColumn(raw, seen[side]))
    fields = []
    for (side, spec), raw, fitter in zip(specs, raws, fitters, strict=True):
        encoder = fitter.finish()
        if spec is specs[1][1] and config.item_ids == "catalog":
            encoder = Vocabulary(catalog.item_ids)
        with _naming(side, spec):
            encoded = encoder.transform(RawColumn(raw, np.arange(len(raw))))
        fields.append(_EntityField(FittedColumn(spec, encoder), side, encoded))
    return [*fields, *([] if codes is None else _code_fields(codes, config.code_name))]


def _domain_field(fields: Sequence[_EntityField], config: LogRowsConfig) -> _EntityField | None:
    return next((field for field in fields if field.column.spec.name == config.domain), None)


def _check_domains(domain: _EntityField, rows: Mapping[Part, Rows], split: Split, catalog: Catalog) -> None:
    """Every row has a domain, and one that train positives have."""
    values = domain.column.encoder.state["values"]
    nulls = [place for place, value in enumerate(values) if value is None] if isinstance(values, list) else []
    null = RESERVED + nulls[0] if nulls else -1
    for part, found in rows.items():
        entities = found.users if domain.by == USER else found.items.ravel() - 1
        ids = domain.by_entity[entities]
        bad = np.flatnonzero((ids == UNKNOWN) | (ids == null))
        if len(bad):
            entity = int(entities[bad[0]])
            name = split.log.user_ids[entity] if domain.by == USER else catalog.item_ids[entity]
            what = "no domain" if ids[bad[0]] == null else "a domain without train positives"
            raise DataError(
                f"{domain.by} {name!r} of the {part} part has {what} in column {domain.column.spec.source!r}; "
                f"leave such {domain.by}s out"
            )


def _code_fields(codes: CodeTable, name: str) -> list[_EntityField]:
    """Code c of a book is id c + 2: a vocabulary of all codes, whether an item has them or not."""
    fields = []
    for book, size in enumerate(codes.codebook_sizes):
        spec = ColumnSpec(name=f"{name}_{book}", encoder=VocabularyConfig())
        encoder = Vocabulary(tuple(str(code) for code in range(size)))
        ids = codes.items[:, book].astype(np.int64) + RESERVED
        fields.append(_EntityField(FittedColumn(spec, encoder), ITEM, ids))
    return fields


def _encoded_chunks(
    part: Part,
    rows: Rows,
    fields: Sequence[_EntityField],
    similarity: RowSimilarity | None,
    log: Interactions,
    events: EventStore | None,
) -> Iterator[ClickColumns]:
    columns = [field.column for field in fields]
    columns += [] if similarity is None else [similarity.column]
    for chunk in rows.chunks():
        encoded = [field.by_entity[chunk.users if field.by == USER else chunk.items - 1] for field in fields]
        encoded += [] if similarity is None else [similarity.of(part, chunk, log)]
        laid = lay_out(columns, encoded, chunk.labels, chunk.users)
        if events is not None:
            windows = np.stack([log.offsets[chunk.users], chunk.events], axis=1) + 1  # the store counts from 1
            times = None if log.times is None else log.times[chunk.events]
            laid = replace(laid, windows=windows, times=times, events=events)
        yield laid


def _event_store(log: Interactions, fields: Sequence[_EntityField], config: LogRowsConfig) -> EventStore | None:
    """All events of the log; windows say which of them a row may see."""
    if not config.history_fields:
        return None
    by_name = {
        field.column.spec.name: field for field in fields if field.by == ITEM and isinstance(_kind(field), Categorical)
    }
    for name in config.history_fields:
        if name not in by_name:
            raise DataError(
                f"history_fields names {name!r}, but items have no such field with one id; there are "
                f"{', '.join(by_name)}; a list column has one with length 1"
            )
    ids = np.empty((log.num_events + 1, len(config.history_fields)), dtype=np.int32)
    ids[0] = PADDING
    for place, name in enumerate(config.history_fields):
        ids[1:, place] = by_name[name].by_entity.reshape(-1)[log.items - 1]
    store = EventStore(ids, None if log.times is None else np.concatenate([[0], log.times]).astype(np.int64))
    store.check(log.offsets[:-1] + 1)
    return store


def _kind(field: _EntityField) -> Field:
    return field.column.encoder.field(field.column.spec.name)


def _settings(config: LogRowsConfig) -> Plain:
    """The config in the manifest and the fingerprint: without what is newer than them, where it is not used."""
    settings = to_plain(config)
    if isinstance(settings, dict):
        newer = {
            "history_fields": config.history_fields,
            "last_train": config.last_train,
            "similarity": config.similarity,
            "domain": config.domain,
        }
        return {name: value for name, value in settings.items() if newer.get(name, True)}
    return settings


@contextmanager
def _naming(side: Side, spec: ColumnSpec) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise DataError(f"{side} column {spec.source!r}: {error}") from error


def _check_inputs(
    split: Split,
    catalog: Catalog,
    config: LogRowsConfig,
    users: Mapping[str, Sequence[str | None]],
    codes: CodeTable | None,
) -> None:
    from llm_rec.data import tables

    if config.domain is not None:
        try:
            check_domain(config.domain, (*config.user_columns, *config.item_columns))
        except ValueError as error:
            raise DataError(str(error)) from error
    if catalog.fingerprint != split.log.catalog:
        raise DataError(
            f"the log was made from catalog {split.log.catalog}, but the catalog given here is {catalog.fingerprint}; "
            "use the catalog of the log"
        )
    tables.require_columns(users, [column.source for column in config.user_columns], "user columns")
    tables.require_columns(catalog.columns, [column.source for column in config.item_columns], "catalog")
    for name, values in users.items():
        if len(values) != split.log.num_users:
            raise DataError(
                f"user column {name!r} has {len(values)} values, but the log has {split.log.num_users} users; "
                "give one value a user in the order of the log"
            )
    if codes is not None and codes.num_items != len(catalog):
        raise DataError(
            f"the code table holds {codes.num_items} items, but the catalog has {len(catalog)}; encode the same catalog"
        )
