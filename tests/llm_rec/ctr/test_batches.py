"""Batches: every row once, in an order that seed, epoch and step fix."""

import atexit
import itertools
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.schema import Categorical, Dense, Numeric, Schema
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.errors import DataError
from llm_rec.training.task import BatchSource

SCHEMA = Schema(
    fields=(
        Categorical(name="a", size=1000),
        Categorical(name="b", size=9),
        Numeric(name="n"),
        Dense(name="d", width=2),
    ),
    group="a",
)


@cache
def log_of(rows):
    """Row r holds r in every column."""
    number = np.arange(rows)
    columns = ClickColumns(
        ids=np.stack([number, number % 9], axis=1).astype(np.int32),
        numbers=number[:, None].astype(np.float32),
        dense=np.stack([number, -number], axis=1).astype(np.float32),
        labels=(number[:, None] % 2).astype(np.float32),
        groups=number.astype(np.int64),
    )
    folder = Path(tempfile.mkdtemp(prefix="click-log-"))
    atexit.register(shutil.rmtree, folder)
    with ClickWriter(folder, SCHEMA, (), {"train": rows}) as writer:
        writer.append("train", columns)
    return ClickLog(folder, SCHEMA, (), {"train": rows}, "none")


def batches_of(rows, seed=0, **settings):
    return ClickBatches(log_of(rows), "train", ClickBatchConfig(**settings), seed=seed)


def rows_of(batches):
    return [batch.ids[:, 0].tolist() for batch in batches]


settings_of = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 12),
        "shuffle": st.sampled_from(["none", "rows", "blocks"]),
        "block_rows": st.integers(1, 9),
        "window_blocks": st.integers(1, 4),
        "drop_last": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 60), settings_of, st.integers(1, 3), st.integers(0, 5), st.data())
def test_an_epoch_is_every_row_once_and_can_start_at_any_step(rows, options, epoch, seed, data):
    if options["drop_last"]:
        rows = max(rows, options["batch_size"])
    source = batches_of(rows, seed=seed, **options)
    found = rows_of(source.epoch(epoch))
    assert len(found) == len(source)
    assert {len(batch) for batch in found[:-1]} <= {options["batch_size"]}
    flat = list(itertools.chain(*found))
    assert len(set(flat)) == len(flat)
    assert len(flat) == (len(source) * options["batch_size"] if options["drop_last"] else rows)
    first = data.draw(st.integers(0, len(source)))
    assert rows_of(source.epoch(epoch, first)) == found[first:]
    assert rows_of(batches_of(rows, seed=seed, **options).epoch(epoch)) == found


@pytest.mark.parametrize("shuffle", ["rows", "blocks"])
def test_epochs_and_seeds_have_orders_of_their_own(shuffle):
    options = {"batch_size": 50, "shuffle": shuffle, "block_rows": 10, "window_blocks": 4}
    orders = [rows_of(batches_of(200, seed=s, **options).epoch(e)) for s, e in ((0, 1), (0, 2), (1, 1))]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_blocks_are_read_whole_and_mixed_inside_their_window():
    flat = list(
        itertools.chain(
            *rows_of(batches_of(100, batch_size=7, shuffle="blocks", block_rows=5, window_blocks=4).epoch(1))
        )
    )
    windows = [sorted({row // 5 for row in flat[start : start + 20]}) for start in range(0, 100, 20)]
    assert [len(window) for window in windows] == [4] * 5
    assert sorted(itertools.chain(*windows)) == list(range(20))
    assert windows != [list(range(start, start + 4)) for start in range(0, 20, 4)]
    assert flat[:20] != sorted(flat[:20])


def test_the_columns_of_a_row_stay_together_and_own_their_memory():
    source = batches_of(30, batch_size=8)
    log_columns = source.columns
    for batch in source.epoch(1):
        row = batch.ids[:, 0]
        assert batch.ids.dtype == torch.int64
        assert torch.equal(batch.ids[:, 1], row % 9)
        assert torch.equal(batch.numbers[:, 0], row.float())
        assert torch.equal(batch.dense, torch.stack([row, -row], 1).float())
        assert torch.equal(batch.labels[:, 0], (row % 2).float())
        assert torch.equal(batch.groups, row)
        batch.labels.add_(5)
    assert log_columns.labels.max() == 1


def test_the_ordered_pass_keeps_the_order():
    assert list(itertools.chain(*rows_of(batches_of(10, batch_size=4, shuffle="none").epoch(1)))) == list(range(10))


def test_it_is_a_source_of_batches():
    assert isinstance(batches_of(3), BatchSource)


def test_wrong_sizes_are_refused():
    message = "the train part has 3 rows, which is no full batch of 4; lower batch_size or switch drop_last off"
    with pytest.raises(DataError, match=message):
        batches_of(3, batch_size=4, drop_last=True)
    for name in ("batch_size", "block_rows", "window_blocks"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            ClickBatchConfig(**{name: 0})
