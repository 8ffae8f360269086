"""Histories that a caller gives with raw rows: lists of raw values, encoded by the fields of the candidates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int32, Int64

from ctr_models.schema import Schema
from ctr_models.values import RawColumn, list_column
from llm_rec.data.columns import ClickColumns, FittedColumn
from llm_rec.data.event_store import EventStore
from llm_rec.errors import DataError


@dataclass(frozen=True, eq=False)
class RawHistories:
    """The past of every row, oldest first: for each raw column of the schema's history one list of values a row.

    Rows of one user may name one history: `rows` says which list each row has (None: list r is row r's). `times` are
    lists of the events' times and `now` the rows' times, for models that look at gaps; in the unit of training.
    """

    columns: Mapping[str, Sequence[Sequence[object]]]
    rows: Int64[np.ndarray, "rows"] | None = None
    times: Sequence[Sequence[int]] | None = None
    now: Sequence[int] | np.ndarray | None = None


def with_histories(
    columns: ClickColumns, histories: RawHistories, schema: Schema, fitted: Sequence[FittedColumn]
) -> ClickColumns:
    """Encoded rows with their pasts. Values that training did not know are UNKNOWN, as for candidates.

    `DataError` when a column is missing, lists have other lengths than those of the first column, `rows` names a list
    that is not there, times fall, or times and `now` do not come together.
    """
    if not schema.history:
        raise DataError("this model was trained on rows without histories; leave them out")
    by_name = {column.spec.name: column for column in fitted}
    sources = [by_name[name].spec.source for name in schema.history]
    for source in sources:
        if source not in histories.columns:
            raise DataError(f"histories have no column {source!r}; a model of this log needs {', '.join(sources)}")
    raws = [list_column(histories.columns[source]) for source in sources]
    lengths = _lengths(raws[0])
    for source, raw in zip(sources[1:], raws[1:], strict=True):
        _same_lengths(sources[0], lengths, source, _lengths(raw))
    ids = [_encoded(by_name[name], raw) for name, raw in zip(schema.history, raws, strict=True)]
    times = None
    if (histories.times is None) != (histories.now is None):
        raise DataError("times of events and the rows' times (now) go together; give both or none")
    if histories.times is not None:
        _same_lengths(sources[0], lengths, "times", np.array([len(row) for row in histories.times], dtype=np.int64))
        times = np.array([time for row in histories.times for time in row], dtype=np.int64)
    chosen = np.arange(len(lengths)) if histories.rows is None else np.asarray(histories.rows, dtype=np.int64)
    if len(chosen) != len(columns) or (len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(lengths)):
        raise DataError(
            f"{len(columns)} rows and {len(lengths)} histories do not fit; give every row one history, or say by "
            "`rows` which one each row has"
        )
    starts = np.cumsum(lengths) - lengths + 1  # the store counts from 1
    store = EventStore.of(np.stack(ids, axis=1), times)
    store.check(starts)
    now = None if histories.now is None else np.asarray(histories.now, dtype=np.int64)
    if now is not None and len(now) != len(columns):
        raise DataError(f"{len(columns)} rows have {len(now)} times (now); give one a row")
    windows = np.stack([starts, starts + lengths], axis=1)[chosen].astype(np.int64)
    return replace(columns, windows=windows, times=now, events=store)


def _encoded(column: FittedColumn, raw: RawColumn) -> Int32[np.ndarray, "events"]:
    flat = RawColumn(raw.values, raw.codes)
    try:
        return column.encoder.transform(flat).reshape(-1).astype(np.int32)
    except ValueError as error:
        raise DataError(f"histories: column {column.spec.source!r}: {error}") from error


def _lengths(raw: RawColumn) -> Int64[np.ndarray, "lists"]:
    return np.zeros(0, dtype=np.int64) if raw.lengths is None else raw.lengths


def _same_lengths(
    first: str, lengths: Int64[np.ndarray, "lists"], name: str, others: Int64[np.ndarray, "others"]
) -> None:
    if len(lengths) != len(others):
        raise DataError(f"histories: {first!r} has {len(lengths)} lists and {name!r} has {len(others)}; give as many")
    differ = np.flatnonzero(lengths != others)
    if len(differ):
        row = int(differ[0])
        raise DataError(
            f"history {row}: {first!r} has {lengths[row]} events and {name!r} has {others[row]}; give every event a "
            "value of each"
        )
