"""Histories of batches: what a loop over rows would gather, in every order of rows."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.schema import Categorical, Schema
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches, join, to_batch
from llm_rec.ctr.histories import GAP_BUCKETS, gap_buckets
from llm_rec.ctr.subsample import SubsampleConfig, subsample_log
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.data.event_store import EventStore
from llm_rec.errors import DataError

SCHEMA = Schema(
    fields=(Categorical(name="item", size=1000), Categorical(name="kind", size=9)),
    group="user",
    history=("item", "kind"),
)


def world(sizes, *, timed, seed=0):
    """Users with so many events; a row before each event and one after the last. Row r has item r + 2."""
    rng = np.random.default_rng(seed)
    total = sum(sizes)
    ids = np.stack([rng.integers(1, 900, total), rng.integers(0, 9, total)], axis=1).astype(np.int32)
    times = np.concatenate([np.sort(rng.integers(0, 5000, size)) for size in sizes]) if timed else None
    firsts = np.cumsum([0, *sizes[:-1]])
    windows = [
        [first + 1, first + 1 + end] for first, size in zip(firsts, sizes, strict=True) for end in range(size + 1)
    ]
    number = len(windows)
    return ClickColumns(
        ids=np.stack([np.arange(number) + 2, np.ones(number)], axis=1).astype(np.int32),
        numbers=np.zeros((number, 0), dtype=np.float32),
        dense=np.zeros((number, 0), dtype=np.float32),
        labels=(np.arange(number)[:, None] % 2).astype(np.float32),
        groups=np.arange(number),
        windows=np.array(windows, dtype=np.int64),
        times=None if times is None else np.full(number, 6000),
        events=EventStore.of(ids, times),
    )


def looped(columns, row, length):
    """The newest events of a row, one at a time, without padding: (ids, gaps)."""
    first, end = columns.windows[row].tolist()
    ids, gaps = [], []
    for event in range(max(first, end - length), end):
        ids.append(columns.events.ids[event].tolist())
        if columns.times is not None:
            before, bucket = int(columns.times[row] - columns.events.times[event]), 1
            while before:
                before, bucket = before // 2, bucket + 1
            gaps.append(min(bucket, GAP_BUCKETS))
    return ids, gaps


def check(batch, columns, length):
    """`batch` holds rows that their item names."""
    history, longest = batch.history, 0
    assert history.ids.dtype == torch.int64
    for place, item in enumerate(batch.ids[:, 0].tolist()):
        ids, gaps = looped(columns, item - 2, length)
        longest = max(longest, len(ids))
        kept = history.mask[place]
        assert history.ids[place][kept].tolist() == ids
        assert kept.tolist() == [False] * (len(kept) - len(ids)) + [True] * len(ids)
        assert not history.ids[place][~kept].any()
        if columns.times is not None:
            assert history.gaps[place][kept].tolist() == gaps
            assert not history.gaps[place][~kept].any()
    assert history.ids.shape[1] == max(1, longest)
    assert (history.gaps is None) == (columns.times is None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 15), st.booleans(), st.integers(0, 9))
def test_a_batch_holds_what_a_loop_gathers(sizes, length, timed, seed):
    columns = world(sizes, timed=timed, seed=seed)
    order = np.random.default_rng(seed).permutation(len(columns))[: max(1, seed * 3)]
    check(to_batch(columns.select(order), length), columns, length)


def log_of(columns, folder):
    with ClickWriter(folder, SCHEMA, (), {"train": len(columns)}, events=columns.events) as writer:
        writer.append("train", columns)
    return ClickLog(folder, SCHEMA, (), {"train": len(columns)}, "none")


@pytest.mark.parametrize("shuffle", ["none", "rows", "blocks"])
def test_rows_keep_their_histories_in_every_order(shuffle, tmp_path):
    columns = world([7, 0, 30, 12], timed=True)
    config = ClickBatchConfig(batch_size=11, shuffle=shuffle, block_rows=4, window_blocks=3)
    source = ClickBatches(log_of(columns, tmp_path), "train", config, history_length=9)
    seen = []
    for batch in source.epoch(1):
        check(batch, columns, 9)
        seen += batch.ids[:, 0].tolist()
    assert sorted(seen) == list(range(2, len(columns) + 2))


def test_without_a_length_there_is_no_history(tmp_path):
    columns = world([3], timed=False)
    assert to_batch(columns).history is None
    assert next(ClickBatches(log_of(columns, tmp_path), "train", ClickBatchConfig()).epoch(1)).history is None


def test_rows_share_one_store():
    columns = world([3, 4], timed=False)
    pieces = [columns.select(slice(0, 2)), columns.select(np.array([5, 1]))]
    assert all(piece.events is columns.events for piece in [*pieces, join(pieces)])
    assert join(pieces).windows.tolist() == [*columns.windows[:2].tolist(), *columns.windows[[5, 1]].tolist()]
    assert columns.select(slice(0, 2)).windows.base is columns.windows


def test_batches_own_their_memory():
    columns = world([5], timed=True)
    before = columns.events.ids.copy()
    batch = to_batch(columns, 3)
    batch.history.ids.fill_(77)
    assert np.array_equal(columns.events.ids, before)


def test_fewer_rows_look_back_on_the_same_events(tmp_path):
    columns = world([9, 14], timed=True)
    with tempfile.TemporaryDirectory() as folder:
        log = log_of(columns, Path(folder))
        kept = subsample_log(log, tmp_path / "kept", SubsampleConfig(positives=0.5)).part("train")
    assert len(kept) < len(columns)
    check(to_batch(kept, 6), columns, 6)


def test_gaps_are_doublings():
    gaps = np.array([0, 1, 2, 3, 4, 7, 8, 2**38 - 1, 2**38, 2**62])
    assert gap_buckets(gaps).tolist() == [1, 2, 3, 3, 4, 4, 5, 39, 40, 40]


def test_what_has_no_history_says_so(tmp_path):
    columns = world([3], timed=False)
    bare = ClickColumns(columns.ids, columns.numbers, columns.dense, columns.labels)
    with pytest.raises(DataError, match="these rows have no histories; encode the log with history fields"):
        to_batch(bare, 5)
    schema = Schema(fields=SCHEMA.fields)
    with ClickWriter(tmp_path, schema, (), {"train": len(bare)}) as writer:
        writer.append("train", bare)
    log = ClickLog(tmp_path, schema, (), {"train": len(bare)}, "none")
    with pytest.raises(DataError, match="rows have no histories; encode the log with history fields"):
        ClickBatches(log, "train", ClickBatchConfig(), history_length=3)
    with pytest.raises(DataError, match="length of a history must be at least 1, got -1"):
        to_batch(columns, -1)
