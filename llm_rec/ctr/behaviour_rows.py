"""Click-log rows from behaviour logs: by a rule of offsets with sampled negatives, or impressions as they were.

`OffsetRowsConfig` is the sample rule of DARE (arXiv 2410.02604) as its released code has it, each number a setting.
Its test items occur in other users' train rows, its negatives are popular items that the user never clicks, in the
future neither, and AUCs of about .9 are a property of this rule: compare figures with others of the same rule alone.
`ImpressionRowsConfig` is for logs that know what was shown: nothing is sampled, and parts follow each other in time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, assert_never

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from ctr_models.encode import VocabularyConfig
from ctr_models.schema import RESERVED, Schema
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.sampled_rows import Rows
from llm_rec.ctr.untouched import UntouchedByFrequency
from llm_rec.data.behaviours import Behaviours
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter, FittedColumn, holds
from llm_rec.data.event_store import EventStore
from llm_rec.data.log_encoding import lay_out
from llm_rec.data.log_spec import PARTS, ColumnSpec, Part
from llm_rec.errors import DataError

USER, LABEL = "user", "label"
_BLOCK = 1 << 22  # events looked at at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class OffsetRowsConfig:
    """Positives by their place from the end of a user's events: the last is at offset 1.

    Users with at least `min_events` events have `train_positives` at offsets `train_first`, `train_first +
    train_step`, .., one positive for validation and one for test. Each looks back on all events before it, and has
    `negatives` that are drawn by how often items occur in the whole log. With `user_field` the user's id is a field.
    """

    min_events: int = 210
    train_first: int = 3
    train_step: int = 5
    train_positives: int = 19
    validation_offset: int = 2
    test_offset: int = 1
    negatives: int = 2
    user_field: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("train_positives", self.train_positives, 1),
            ("train_step", self.train_step, 1),
            ("test_offset", self.test_offset, 1),
            ("negatives", self.negatives, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not self.test_offset < self.validation_offset < self.train_first:
            raise ValueError(
                "offsets must go test < validation < train_first, or train rows see what is asked later; got "
                f"{self.test_offset}, {self.validation_offset}, {self.train_first}"
            )
        furthest = self.offsets("train")[-1]
        if self.min_events < furthest:
            raise ValueError(f"the first train positive is at offset {furthest}, beyond min_events {self.min_events}")

    def offsets(self, part: Part) -> tuple[int, ...]:
        """Offsets of a part, the last event being 1."""
        if part == "train":
            return tuple(self.train_first + self.train_step * place for place in range(self.train_positives))
        return (self.validation_offset,) if part == "validation" else (self.test_offset,)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImpressionRowsConfig:
    """Every impression is a row, with its own label; what the user clicked at an earlier time is its history.

    The latest `test` share of all impressions is the test part, the `validation` share before them that of validation;
    impressions at one time are in one part. With `user_field` the user's id is a field.
    """

    validation: float = 0.1
    test: float = 0.1
    user_field: bool = True

    def __post_init__(self) -> None:
        if min(self.validation, self.test) <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation and test must be above 0 and leave rows to train on, got {self.validation} and {self.test}"
            )


BehaviourRowsConfig: TypeAlias = OffsetRowsConfig | ImpressionRowsConfig


def write_behaviour_rows(
    log: Behaviours, path: Path | str, config: BehaviourRowsConfig, *, overwrite: bool = False
) -> ClickLog:
    """Write the rows of `log` by the rule of `config` as the click log `path`; groups are users (from 0).

    The store holds the clicks of all users of `log`. `DataError` when the rule leaves no row. The same rows that are
    there already are kept.
    """
    name = behaviour_rows_fingerprint(log.fingerprint, config)
    if not overwrite and holds(Path(path), name):
        return ClickLog.load(path)
    columns = _columns(log, user_field=config.user_field)
    store, starts = _store(log)
    schema = Schema(
        fields=tuple(column.encoder.field(column.spec.name, column.spec.table) for column in columns),
        labels=(LABEL,),
        group=USER,
        history=tuple(column.spec.name for column in log.columns),
    )
    rows = _planned(log, config, starts)
    details: dict[str, Plain] = {"rule": to_plain(config, tagged=True), "read": to_plain(log.counts)}
    with write_artifact(
        Path(path), kind=KIND, fingerprint=name, inputs=log.inputs, details=details, overwrite=overwrite
    ) as folder:
        with ClickWriter(folder, schema, columns, rows.sizes, events=store) as writer:
            for chunk in rows.chunks:
                laid = _laid_out(columns, chunk, user_field=config.user_field)
                writer.append(chunk.part, replace(laid, windows=chunk.windows, times=chunk.times, events=store))
        details.update(writer.details())
    return ClickLog.load(path)


def behaviour_rows_fingerprint(log: str, config: BehaviourRowsConfig) -> str:
    """The fingerprint of the click log made of the behaviours with the fingerprint `log`."""
    return fingerprint(KIND, log, {"rule": to_plain(config, tagged=True)})


def offset_rows(log: Behaviours, config: OffsetRowsConfig) -> dict[Part, Rows]:
    """Positives and negatives of every part, `items` being item ids. Draws of a part depend on seed and part alone."""
    chosen = np.flatnonzero(np.diff(log.offsets) >= config.min_events)
    if not len(chosen):
        most = int(np.diff(log.offsets).max(initial=0))
        raise DataError(f"no user has min_events = {config.min_events} events (the most is {most}); lower min_events")
    rows: dict[Part, Rows] = {}
    for place, part in enumerate(PARTS):
        events = log.offsets[chosen + 1][:, None] - np.array(config.offsets(part))[::-1]  # oldest first
        users, events = np.repeat(chosen, events.shape[1]), events.ravel()
        drawn = _negatives(log, users, config.negatives, np.random.default_rng([config.seed, place]))
        positives = np.asarray(log.ids[events, 0], dtype=np.int64)[:, None]
        rows[part] = Rows(users, events, np.concatenate([positives, drawn], axis=1))
    return rows


def _negatives(
    log: Behaviours, users: Int64[np.ndarray, "positives"], number: int, rng: np.random.Generator
) -> Int64[np.ndarray, "positives number"]:
    """Block of users by block, so that distinct pairs of all users need not be held; draws do not see the blocks."""
    drawn = np.zeros((len(users), number), dtype=np.int64)
    if not number:
        return drawn
    size = len(log.frequencies)
    for first, last in log.blocks(_BLOCK):
        rows = slice(*np.searchsorted(users, [first, last]).tolist())
        events = slice(int(log.offsets[first]), int(log.offsets[last]))
        owners = np.repeat(np.arange(last - first), np.diff(log.offsets[first : last + 1]))
        pairs = np.unique(owners * size + log.ids[events, 0])
        sampler = UntouchedByFrequency(pairs, last - first, log.frequencies, first_user=first)
        drawn[rows] = sampler.draw(users[rows] - first, number, rng)
    return drawn


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Rows of one part."""

    part: Part
    users: Int64[np.ndarray, "rows"]
    ids: Int32[np.ndarray, "rows fields"]
    labels: Float32[np.ndarray, "rows 1"]
    windows: Int64[np.ndarray, "rows 2"]
    times: Int64[np.ndarray, "rows"] | None


class _Planned(NamedTuple):
    """How many rows each part will have, and the rows, made as they are written."""

    sizes: dict[Part, int]
    chunks: Iterator[_Chunk]


def _planned(log: Behaviours, config: BehaviourRowsConfig, starts: Int64[np.ndarray, "users"]) -> _Planned:
    match config:
        case OffsetRowsConfig():
            if log.labels is not None:
                raise DataError("these behaviours are impressions with labels; take the rule for impressions")
            rows = offset_rows(log, config)
            return _Planned({part: len(found) for part, found in rows.items()}, _offset_chunks(log, rows, starts))
        case ImpressionRowsConfig():
            if log.labels is None or log.times is None:
                raise DataError("these behaviours are clicks alone, or have no times; take the rule of offsets")
            cuts = _cuts(log.times, config)
            return _Planned(_part_sizes(log.times, cuts), _impression_chunks(log, log.times, log.labels, cuts, starts))
        case _:
            assert_never(config)


def _offset_chunks(log: Behaviours, rows: Mapping[Part, Rows], starts: Int64[np.ndarray, "users"]) -> Iterator[_Chunk]:
    for part, found in rows.items():
        for chunk in found.chunks():
            own = chunk.labels > 0
            ids = np.where(own, log.ids[chunk.events], log.latest[chunk.items])
            windows = np.stack([starts[chunk.users], chunk.events + 1], axis=1)
            yield _Chunk(part, chunk.users, ids, chunk.labels, windows, _times(log, chunk.events))


def _cuts(times: Int64[np.ndarray, "events"], config: ImpressionRowsConfig) -> Int64[np.ndarray, "2"]:
    """The last times of train and of validation: 8 bytes an impression for as long as it takes."""
    places = [round(len(times) * (1 - share)) for share in (config.validation + config.test, config.test)]
    ordered = np.partition(times, [max(0, place - 1) for place in places])
    return ordered[[max(0, place - 1) for place in places]]


def _part_sizes(times: Int64[np.ndarray, "events"], cuts: Int64[np.ndarray, "2"]) -> dict[Part, int]:
    sizes = np.zeros(len(PARTS), dtype=np.int64)
    for start in range(0, len(times), _BLOCK):
        sizes += np.bincount(np.searchsorted(cuts, times[start : start + _BLOCK]), minlength=len(PARTS))
    for part, size in zip(PARTS, sizes, strict=True):
        if not size:
            raise DataError(f"no impression is left for the {part} part; too many have one time, choose other shares")
    return {part: int(size) for part, size in zip(PARTS, sizes, strict=True)}


def _impression_chunks(
    log: Behaviours,
    times: Int64[np.ndarray, "events"],
    labels: UInt8[np.ndarray, "events"],
    cuts: Int64[np.ndarray, "2"],
    starts: Int64[np.ndarray, "users"],
) -> Iterator[_Chunk]:
    """Blocks of whole users. A window ends before the first of the impressions that the user had at the row's time."""
    for first_user, last_user in log.blocks(_BLOCK >> 2):
        start, stop = int(log.offsets[first_user]), int(log.offsets[last_user])
        users = np.repeat(np.arange(first_user, last_user), np.diff(log.offsets[first_user : last_user + 1]))
        clock, clicks = np.asarray(times[start:stop]), np.asarray(labels[start:stop], dtype=np.int64)
        new = np.ones(len(users), dtype=bool)
        new[1:] = (np.diff(users) != 0) | (np.diff(clock) != 0)
        run = np.maximum.accumulate(np.where(new, np.arange(len(users)), 0))
        before = np.cumsum(clicks) - clicks + starts[first_user]  # the store's number of each row's next click
        windows = np.stack([starts[users], before[run]], axis=1)
        place = np.searchsorted(cuts, clock)
        for number, part in enumerate(PARTS):
            rows = np.flatnonzero(place == number)
            yield _Chunk(
                part,
                users[rows],
                np.asarray(log.ids[start:stop][rows]),
                clicks[rows].astype(np.float32)[:, None],
                windows[rows],
                clock[rows],
            )


def _times(log: Behaviours, events: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"] | None:
    return None if log.times is None else np.asarray(log.times[events])


def _store(log: Behaviours) -> tuple[EventStore, Int64[np.ndarray, "users"]]:
    """All clicks (memory: 4 bytes a field and 8 for the time of each), and the first of every user, from 1."""
    clicks = slice(None) if log.labels is None else np.flatnonzero(log.labels)
    before = np.arange(len(log) + 1) if log.labels is None else np.concatenate([[0], np.cumsum(log.labels)])
    store = EventStore.of(np.asarray(log.ids[clicks]), None if log.times is None else np.asarray(log.times[clicks]))
    starts = before[log.offsets[:-1]].astype(np.int64) + 1
    store.check(starts)
    return store, starts


def _columns(log: Behaviours, *, user_field: bool) -> tuple[FittedColumn, ...]:
    if not user_field:
        return log.columns
    return (FittedColumn(ColumnSpec(name=USER, encoder=VocabularyConfig()), log.users), *log.columns)


def _laid_out(columns: tuple[FittedColumn, ...], chunk: _Chunk, *, user_field: bool) -> ClickColumns:
    encoded = [chunk.ids[:, place] for place in range(chunk.ids.shape[1])]
    if user_field:
        encoded = [chunk.users + RESERVED, *encoded]
    return lay_out(columns, encoded, chunk.labels, chunk.users)
