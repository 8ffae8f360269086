"""Raw files of behaviours -> `Behaviours`, in bounded memory: a stream of chunks into flat files, then a counting sort.

Memory holds the vocabularies, some numbers a user and an item, and a chunk; events are memory-mapped files in a scratch
folder, about 13 bytes an event and 4 for each field, twice. It must outlive what is returned.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64

from ctr_models.encode import VocabularyConfig
from ctr_models.encoders import Vocabulary
from ctr_models.schema import RESERVED
from ctr_models.values import RawColumn, texts_of
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.data.behaviours import (
    ITEM,
    BehaviourCounts,
    Behaviours,
    BehaviourSource,
    BehaviourSpec,
    ItemTableSpec,
    fit_item_column,
)
from llm_rec.data.chunks import CHUNK_ROWS, Chunk, read_chunks
from llm_rec.data.columns import FittedColumn
from llm_rec.data.log_encoding import described_file
from llm_rec.data.log_spec import ColumnSpec, TableFile
from llm_rec.errors import DataError

_BLOCK = 1 << 21  # events sorted at a time


def behaviours_fingerprint(source: BehaviourSource) -> str:
    """The fingerprint of what `read_behaviours` makes of these files, wherever they lie. Reads them once."""
    table = source.spec.items
    files = source.files if table is None else (*source.files, table.file)
    # the item file's bytes count, not its place
    plain = to_plain(source.spec)
    if isinstance(plain, dict):
        plain["items"] = None if table is None else [table.item, to_plain(table.columns)]
    return fingerprint("behaviours", {"spec": plain}, *(described_file(file) for file in files))


def read_behaviours(source: BehaviourSource, scratch: Path, *, chunk_rows: int = CHUNK_ROWS) -> Behaviours:
    """Read the files of `source`; what is returned lies in the folder `scratch`.

    Raises `DataError` naming file, column and row for a missing column, a null user or item, a time or a label that is
    none, a time that falls where the order is required, and when no event is left.
    """
    files, spec = source
    raw = _Raw.write(files, spec, scratch, chunk_rows)
    if not raw.rows:
        raise DataError(f"{files[0].path}: no event is left of {raw.rows_read} rows; check `where` and the columns")
    user_events = _counted(raw.users, len(raw.user_texts))
    kept = user_events >= spec.min_events
    if not kept.any():
        raise DataError(
            f"{files[0].path}: none of {len(kept)} users has {spec.min_events} events (the most is "
            f"{user_events.max()}); lower min_events"
        )
    offsets = np.concatenate([[0], np.cumsum(user_events[kept])]).astype(np.int64)
    events = _sorted_by_user(raw, kept, offsets, scratch)
    names = [text for text, keep in zip(raw.user_texts, kept.tolist(), strict=True) if keep]
    _order_times(events, offsets, names, spec, files[0].path)
    columns, latest, ids = _fields(raw, events, spec, scratch)
    return Behaviours(
        offsets,
        ids,
        events.times if spec.gaps else None,
        events.labels if spec.label is not None else None,
        Vocabulary(tuple(names)),
        columns,
        np.concatenate([np.zeros(RESERVED, dtype=np.int64), _counted(raw.ids[:, 0], len(raw.texts[0]))]),
        latest,
        BehaviourCounts(
            rows=raw.rows_read,
            kept_rows=raw.rows,
            users=len(kept),
            kept_users=int(kept.sum()),
            items=len(raw.texts[0]),
        ),
        behaviours_fingerprint(source),
    )


@dataclass(frozen=True, eq=False)
class _Events:
    """Events as flat files; ids are codes from 0 until fields are known."""

    users: Int32[np.ndarray, "events"]
    ids: Int32[np.ndarray, "events fields"]
    times: Int64[np.ndarray, "events"]
    labels: np.ndarray


@dataclass(eq=False)
class _Codes:
    """Texts numbered from 0 by first appearance."""

    code_of: dict[str | None, int] = field(default_factory=dict)

    def of(self, raw: RawColumn) -> Int32[np.ndarray, "rows"]:
        """Codes of a chunk. Values of an arrow column come in order of first appearance."""
        codes = [self.code_of.setdefault(text, len(self.code_of)) for text in texts_of(raw.values)]
        return raw.spread(np.array(codes, dtype=np.int32))


@dataclass(frozen=True, eq=False)
class _Raw(_Events):
    """Kept rows in the order of the files, with the texts of users and of each field."""

    user_texts: list[str | None]
    texts: list[list[str | None]]
    rows_read: int

    @property
    def rows(self) -> int:
        return len(self.users)

    @classmethod
    def write(cls, files: Sequence[TableFile], spec: BehaviourSpec, scratch: Path, chunk_rows: int) -> "_Raw":
        users, fields = _Codes(), [_Codes() for _ in range(1 + len(spec.fields))]
        sources = [spec.item, *(column for _, column in spec.fields)]
        rows_read = rows = 0
        types = {"users": np.int32, "ids": np.int32, "times": np.int64, "labels": np.uint8}
        names = {name: np.dtype(kind) for name, kind in types.items()}
        paths = {name: scratch / f"raw-{name}.bin" for name in names}
        streams = {name: path.open("wb") for name, path in paths.items()}
        try:
            for chunk in read_chunks(files, spec.sources, chunk_rows):
                kept = _kept_rows(chunk, spec)
                rows_read, rows = rows_read + len(chunk), rows + int(kept.sum())
                users.of(chunk.column(spec.user, kept)).tofile(streams["users"])
                codes = [codes.of(chunk.column(name, kept)) for codes, name in zip(fields, sources, strict=True)]
                np.stack(codes, axis=1).tofile(streams["ids"])
                _integers(chunk, spec.time)[kept].tofile(streams["times"])
                _labels(chunk, spec.label)[kept].tofile(streams["labels"])
        finally:
            for stream in streams.values():
                stream.close()
        arrays = {name: _mapped(path, names[name], rows) for name, path in paths.items()}
        return cls(
            arrays["users"],
            arrays["ids"].reshape(rows, len(fields)),
            arrays["times"],
            arrays["labels"],
            list(users.code_of),
            [list(codes.code_of) for codes in fields],
            rows_read,
        )


def _mapped(path: Path, dtype: np.dtype, rows: int) -> np.ndarray:
    """An empty file cannot be mapped."""
    return np.memmap(path, dtype=dtype, mode="r+") if rows else np.zeros(0, dtype=dtype)


def _kept_rows(chunk: Chunk, spec: BehaviourSpec) -> Bool[np.ndarray, "rows"]:
    kept = np.ones(len(chunk), dtype=bool)
    for column in (spec.user, spec.item):
        raw = chunk.column(column)
        null = np.array([text is None for text in texts_of(raw.values)], dtype=bool)
        chunk.refuse(raw.spread(null), column, "is no id", "repair or remove these rows")
    if spec.where is not None:
        column, wanted = spec.where
        raw = chunk.column(column)
        kept &= raw.spread(np.array([text in wanted for text in texts_of(raw.values)], dtype=bool))
    if spec.time_characters is not None:
        raw = chunk.column(spec.time)
        lengths = np.array([len(text or "") for text in texts_of(raw.values)], dtype=np.int64)
        kept &= raw.spread(lengths == spec.time_characters)
    return kept


def _integers(chunk: Chunk, column: str) -> Int64[np.ndarray, "rows"]:
    """Whole numbers, exact up to 64 bits."""
    raw = chunk.column(column)
    texts = texts_of(raw.values)
    bad = np.array([text is None or not text.lstrip("-").isdecimal() for text in texts], dtype=bool)
    chunk.refuse(raw.spread(bad), column, "is no whole number", "repair or remove these rows")
    return raw.spread(np.array([int(text or 0) for text in texts], dtype=np.int64))


def _labels(chunk: Chunk, column: str | None) -> np.ndarray:
    if column is None:
        return np.ones(len(chunk), dtype=np.uint8)
    labels = _integers(chunk, column)
    chunk.refuse((labels < 0) | (labels > 1), column, "is no label", "repair it: labels are 0 and 1")
    return labels.astype(np.uint8)


def _counted(codes: Int32[np.ndarray, "rows"], number: int) -> Int64[np.ndarray, "codes"]:
    counts = np.zeros(number, dtype=np.int64)
    for start in range(0, len(codes), _BLOCK):
        counts += np.bincount(codes[start : start + _BLOCK], minlength=number)
    return counts


def _sorted_by_user(
    raw: _Raw, kept: Bool[np.ndarray, "users"], offsets: Int64[np.ndarray, "kept_users_plus_one"], scratch: Path
) -> _Events:
    """Events of the kept users, each user's in the order of the files: a counting sort, block by block."""
    number, width = int(offsets[-1]), raw.ids.shape[1]
    new_user = np.where(kept, np.cumsum(kept) - 1, -1)
    events = _Events(
        np.memmap(scratch / "users.bin", dtype=np.int32, mode="w+", shape=(number,)),
        np.memmap(scratch / "ids.bin", dtype=np.int32, mode="w+", shape=(number, width)),
        np.memmap(scratch / "times.bin", dtype=np.int64, mode="w+", shape=(number,)),
        np.memmap(scratch / "labels.bin", dtype=np.uint8, mode="w+", shape=(number,)),
    )
    cursor = offsets[:-1].copy()  # where each user's next event goes
    for start in range(0, raw.rows, _BLOCK):
        block = slice(start, start + _BLOCK)
        users = new_user[raw.users[block]]
        order = np.argsort(users, kind="stable")
        order = order[np.searchsorted(users[order], 0) :]  # users that are left out come first
        found, firsts, numbers = np.unique(users[order], return_index=True, return_counts=True)
        places = np.repeat(cursor[found] - firsts, numbers) + np.arange(len(order))
        cursor[found] += numbers
        events.users[places] = users[order]
        events.ids[places] = raw.ids[block][order]
        events.times[places] = raw.times[block][order]
        events.labels[places] = raw.labels[block][order]
    return events


def _order_times(
    events: _Events,
    offsets: Int64[np.ndarray, "users_plus_one"],
    names: Sequence[str | None],
    spec: BehaviourSpec,
    path: Path,
) -> None:
    """Require or make the order of every user's times, in blocks of whole users."""
    for start, stop in _user_blocks(offsets):
        users, times = events.users[start:stop], events.times[start:stop]
        fallen = np.flatnonzero((np.diff(times) < 0) & (np.diff(users) == 0))
        if not len(fallen):
            continue
        if spec.order == "require":
            event = int(fallen[0])
            raise DataError(
                f"{path}: column {spec.time!r}: user {names[users[event]]!r} has time {times[event]} and then "
                f"{times[event + 1]}; events of a user must be in order of time: sort the file, or set order to sort"
            )
        order = np.lexsort((times, users))  # stable: equal times keep the order of the rows
        for array in (events.ids, events.times, events.labels):
            array[start:stop] = array[start:stop][order]


def _user_blocks(offsets: Int64[np.ndarray, "users_plus_one"]) -> Iterator[tuple[int, int]]:
    start = 0
    while start < offsets[-1]:
        stop = int(offsets[np.searchsorted(offsets, start + _BLOCK, side="right") - 1])
        stop = stop if stop > start else int(offsets[np.searchsorted(offsets, start, side="right")])
        yield start, stop
        start = stop


def _fields(
    raw: _Raw, events: _Events, spec: BehaviourSpec, scratch: Path
) -> tuple[tuple[FittedColumn, ...], Int32[np.ndarray, "item_ids fields"], Int32[np.ndarray, "events fields"]]:
    """Fields with their encoders, the ids of each item's last row in the files, and the ids of all events."""
    named = [(ITEM, spec.item), *spec.fields]
    columns = [
        FittedColumn(ColumnSpec(name=name, column=column, encoder=VocabularyConfig()), Vocabulary(tuple(texts)))
        for (name, column), texts in zip(named, raw.texts, strict=True)
    ]
    extra = [] if spec.items is None else _item_columns(spec.items, raw.texts[0])
    latest = np.zeros((len(raw.texts[0]) + RESERVED, len(columns) + len(extra)), dtype=np.int32)
    for start in range(0, raw.rows, _BLOCK):
        block = raw.ids[start : start + _BLOCK]
        items, last = np.unique(block[::-1, 0], return_index=True)
        latest[items + RESERVED, : len(columns)] = block[len(block) - 1 - last] + RESERVED
    for place, (_, ids) in enumerate(extra, start=len(columns)):
        latest[RESERVED:, place] = ids
    found = np.memmap(scratch / "fields.bin", dtype=np.int32, mode="w+", shape=(len(events.ids), latest.shape[1]))
    for start in range(0, len(found), _BLOCK):
        block = events.ids[start : start + _BLOCK] + RESERVED
        found[start : start + _BLOCK, : len(columns)] = block
        found[start : start + _BLOCK, len(columns) :] = latest[block[:, 0], len(columns) :]
    return (*columns, *(column for column, _ in extra)), latest, found


def _item_columns(
    table: ItemTableSpec, items: Sequence[str | None]
) -> list[tuple[FittedColumn, Int32[np.ndarray, "items"]]]:
    """Fields of the items that occur, from a table that may hold more of them, or fewer (null)."""
    code_of = {text: code for code, text in enumerate(items)}
    sources = list(dict.fromkeys(column.source for column in table.columns))
    values = {name: np.full(len(items), None, dtype=object) for name in sources}
    for chunk in read_chunks((table.file,), [table.item, *sources]):
        raw = chunk.column(table.item)
        codes = raw.spread(np.array([code_of.get(text, -1) for text in texts_of(raw.values)], dtype=np.int64))
        for name in sources:
            cells = chunk.column(name)
            texts = cells.spread(np.array(texts_of(cells.values), dtype=object))
            values[name][codes[codes >= 0]] = texts[codes >= 0]
    return [fit_item_column(column, values[column.source]) for column in table.columns]
