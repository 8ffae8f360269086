"""The past events of rows as arrays of a batch: one gather from the log's store, for any length."""

import numpy as np
import torch
from jaxtyping import Int64

from ctr_models.batch import HistoryBatch
from llm_rec.data.columns import ClickColumns
from llm_rec.errors import DataError

GAP_BUCKETS = 40  # ids of gaps are 0 (padding) and 1 .. GAP_BUCKETS; from 2 ** 38 units on (8,700 years of seconds,
# 8.7 years of milliseconds) all are in the last


def history_batch(columns: ClickColumns, length: int) -> HistoryBatch:
    """The newest `length` events before each row, oldest first, padded on the left with 0.

    Columns that no row of the batch fills are left out (one stays), so short histories cost little. `gaps` are there
    when the log knows times. `DataError` when the rows have no histories.
    """
    if columns.events is None or columns.windows is None:
        raise DataError("these rows have no histories; encode the log with history fields")
    events = event_numbers(np.asarray(columns.windows), length)
    ids = torch.from_numpy(np.take(columns.events.ids, events, axis=0)).to(torch.int64)
    if columns.times is None or columns.events.times is None:
        return HistoryBatch(ids)
    gaps = gap_buckets(np.asarray(columns.times)[:, None] - columns.events.times[events])
    return HistoryBatch(ids, torch.from_numpy(np.where(events > 0, gaps, 0)))


def event_numbers(windows: Int64[np.ndarray, "rows 2"], length: int) -> Int64[np.ndarray, "rows columns"]:
    """The events in the columns of a batch, 0 (the store's padding) where the window has none.

    >>> event_numbers(np.array([[1, 3], [3, 8], [8, 8]]), 4).tolist()
    [[0, 0, 1, 2], [4, 5, 6, 7], [0, 0, 0, 0]]
    """
    if length < 1:
        raise DataError(f"length of a history must be at least 1, got {length}")
    starts, ends = windows[:, :1], windows[:, 1:]
    longest = int(min(length, max(1, (ends - starts).max(initial=0))))
    numbers: np.ndarray = ends + np.arange(-longest, 0)
    numbers *= numbers >= starts
    return numbers


def gap_buckets(gaps: Int64[np.ndarray, "*axes"]) -> Int64[np.ndarray, "*axes"]:
    """1 for no time at all, then one bucket a doubling (1; 2 and 3; 4 to 7; ..), at most `GAP_BUCKETS`.

    >>> gap_buckets(np.array([0, 1, 2, 3, 4, 7, 8, 2**62])).tolist()
    [1, 2, 3, 3, 4, 4, 5, 40]
    """
    doublings = np.frexp(np.maximum(gaps, 0).astype(np.float64))[1]
    buckets: np.ndarray = np.minimum(doublings.astype(np.int64) + 1, GAP_BUCKETS)
    return buckets
