"""Information of past categories about clicks: tables by hand, naive loops, and counting in any cut of the rows."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.schema import Categorical, Schema
from llm_rec.analysis.category_information import (
    CategoryCounter,
    category_rows,
    information_map,
    min_max,
    table_information,
)
from llm_rec.analysis.mutual_information import Cells, mutual_information
from llm_rec.errors import DataError

CATEGORIES, LENGTH = 5, 4


def rows_of(seed=0, rows=300, length=LENGTH):
    """Random rows, left padded; ids 1 to 4."""
    rng = np.random.default_rng(seed)
    history = rng.integers(1, CATEGORIES, (rows, length))
    history[np.arange(length) < length - rng.integers(0, length + 1, (rows, 1))] = 0
    return rng.integers(1, CATEGORIES, rows), history, rng.random(rows) < 0.3


def counted(target, history, clicked, *, length=LENGTH, pieces=1):
    counter = CategoryCounter(CATEGORIES, length)
    for part in zip(*(np.array_split(array, pieces) for array in (target, history, clicked)), strict=True):
        counter.update(*part)
    return counter.counts()


def naive(target, history, clicked, t, c, p):
    """The equation in words of one row at a time, with zero counts as 1e-5."""
    table = dict.fromkeys(product((0, 1), (0, 1)), 0)
    for goal, past, click in zip(target, history, clicked, strict=True):
        if goal == t:
            table[int(past[len(past) - p] == c), int(click)] += 1
    s = sum(table.values())
    total = 0.0
    for (x, y), number in table.items():
        row = sum(n for cell, n in table.items() if cell[0] == x)
        column = sum(n for cell, n in table.items() if cell[1] == y)
        number, row, column = number or 1e-5, row or 1e-5, column or 1e-5
        total += number / s * math.log2(number * s / (row * column))
    return total


def test_a_table_worked_out_by_hand():
    # n = 10, X = (4, 6), Y = (4, 6)
    bits = 0.3 * math.log2(30 / 16) + 2 * 0.1 * math.log2(10 / 24) + 0.5 * math.log2(50 / 36)
    assert table_information(np.array([[3, 1], [1, 5]])) == pytest.approx(bits)
    assert bits == pytest.approx(0.2564, abs=5e-5)
    codes, labels = (np.repeat(part.ravel(), [3, 1, 1, 5]) for part in np.indices((2, 2)))
    assert mutual_information(Cells.of(codes, labels)) == pytest.approx(bits * math.log(2))
    assert table_information(np.array([[[8, 4], [4, 2]], [[0, 0], [0, 0]]])) == pytest.approx([0, 0], abs=1e-12)


def test_zero_counts_are_one_hundred_thousandth():
    assert table_information(np.array([[4, 0], [0, 4]])) == pytest.approx(
        2 * 0.5 * math.log2(2) + 2 * 1e-5 / 8 * math.log2(1e-5 * 8 / 16)
    )
    assert 0 < table_information(np.array([[5, 3], [0, 0]])) < 1e-4  # an event that never occurs says nothing


def test_all_cells_equal_a_loop_over_rows():
    target, history, clicked = rows_of()
    counts = counted(target, history, clicked)
    for t, c, p in product(range(1, CATEGORIES), range(1, CATEGORIES), range(1, LENGTH + 1)):
        found = counts.information(np.array([t]), np.array([c]), np.array([p]))
        assert found == pytest.approx([naive(target, history, clicked, t, c, p)])
    everything = counts.information(*np.ix_([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]))
    assert everything.shape == (4, 4, 4)
    assert everything[1, 2, 3] == pytest.approx(naive(target, history, clicked, 2, 3, 4))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), pieces=st.integers(1, 40))
def test_counting_in_batches_equals_counting_at_once(seed, pieces):
    rows = rows_of(seed, rows=60)
    whole, cut = counted(*rows), counted(*rows, pieces=pieces)
    for name in ("keys", "counts", "targets"):
        assert np.array_equal(getattr(whole, name), getattr(cut, name))


def test_counts_go_on_after_they_were_read_and_only_what_occurs_is_kept():
    target, history, clicked = rows_of()
    counter = CategoryCounter(CATEGORIES, LENGTH)
    counter.update(target, history, clicked)
    first = counter.counts()
    counter.update(target, history, clicked)
    assert np.array_equal(counter.counts().counts, 2 * first.counts)
    assert np.array_equal(counter.counts().targets, 2 * first.targets)
    assert first.targets.sum() == len(target)
    assert first.counts.sum() == (history > 0).sum()


def test_a_vocabulary_too_large_for_a_table_is_counted_by_sorting():
    target, history, clicked = rows_of()
    wide = CategoryCounter(1_000_000, LENGTH)
    wide.update(target * 200_000, np.where(history > 0, history * 200_000, 0), clicked)
    t, c, p = np.ix_([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4])
    found = wide.counts().information(t * 200_000, c * 200_000, p)
    assert np.array_equal(found, counted(target, history, clicked).information(t, c, p))


def test_only_the_newest_positions_count_and_short_histories_serve():
    target, history, clicked = rows_of(length=7)
    cut = counted(target, history[:, -LENGTH:], clicked)
    assert np.array_equal(counted(target, history, clicked).keys, cut.keys)
    short = counted(target, history[:, -2:], clicked)
    t, c, p = np.array([2]), np.array([3]), np.array([2])
    assert np.array_equal(short.tables(t, c, p), cut.tables(t, c, p))
    assert short.events(t, c, np.array([3])).tolist() == [[0, 0]]


def test_top_targets_and_behaviours_are_the_most_frequent_ones():
    target = np.array([1, 3, 3, 3, 1, 2])
    history = np.array([[0, 4], [2, 1], [2, 2], [2, 4], [0, 0], [0, 1]])
    counts = counted(target, history, np.zeros(6, dtype=bool))
    assert counts.top_targets(2).tolist() == [3, 1]
    assert counts.top_targets(9).tolist() == [3, 1, 2]
    assert counts.top_behaviours(3, 2).tolist() == [2, 1]
    assert counts.top_behaviours(3, 9).tolist() == [2, 1, 4]
    assert counts.top_behaviours(4, 3).tolist() == []


def test_the_map_has_a_row_for_each_pair_and_a_column_for_each_position():
    target, history, clicked = rows_of()
    counts = counted(target, history, clicked)
    found = information_map(counts, np.array([2, 4]), np.array([2, 1]), 3)
    expected = [[naive(target, history, clicked, t, c, p) for p in (1, 2, 3)] for t, c in ((2, 2), (4, 1))]
    assert np.allclose(found, expected)
    assert min_max(found).min() == 0
    assert min_max(found).max() == 1
    assert min_max(np.full((2, 2), 7.0)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_a_planted_correlation_is_the_largest_cell():
    rng = np.random.default_rng(1)
    target, history = rng.integers(1, CATEGORIES, 4000), rng.integers(1, CATEGORIES, (4000, LENGTH))
    clicked = rng.random(4000) < np.where((target == 2) & (history[:, -3] == 4), 0.8, 0.3)
    found = information_map(counted(target, history, clicked), np.full(4, 2), np.arange(1, 5), LENGTH)
    assert np.unravel_index(found.argmax(), found.shape) == (3, 2)
    assert found.max() > 50 * found[:, [0, 1, 3]].max()  # another category at that position says something too


def schema(history=("item", "category")):
    fields = (Categorical(name="user", size=9), Categorical(name="category", size=6), Categorical(name="item", size=20))
    return Schema(fields=fields, history=history)


def batch(history=True):
    past = torch.tensor([[[0, 0], [7, 3]], [[5, 2], [6, 4]]])
    return FeatureBatch(
        ids=torch.tensor([[2, 4, 11], [3, 5, 12]]),
        numbers=torch.zeros(2, 0),
        dense=torch.zeros(2, 0),
        labels=torch.tensor([[1.0], [0.0]]),
        history=HistoryBatch(past) if history else None,
    )


def test_rows_of_a_batch_are_the_named_field_of_candidate_and_past():
    rows = category_rows(batch(), schema(), "category")
    assert rows.target.tolist() == [4, 5]
    assert rows.history.tolist() == [[0, 3], [2, 4]]
    assert rows.clicked.tolist() == [True, False]
    assert category_rows(batch(), schema(), "item").history.tolist() == [[0, 7], [5, 6]]


def test_refusals_name_the_value_and_the_repair():
    with pytest.raises(DataError, match=r"the history has no field 'brand' \(it has: item, category\); name one of"):
        category_rows(batch(), schema(), "brand")
    with pytest.raises(DataError, match=r"no field 'item' \(it has: none\)"):
        category_rows(batch(), schema(()), "item")
    with pytest.raises(DataError, match="the batch has no history; read it with one"):
        category_rows(batch(history=False), schema(), "item")
    with pytest.raises(ValueError, match="must be at least 1, got num_categories 5 and length 0"):
        CategoryCounter(5, 0)
    with pytest.raises(ValueError, match="too many to number; shorten length"):
        CategoryCounter(2**31, 2)
    counter = CategoryCounter(CATEGORIES, LENGTH)
    clicked = np.array([True])
    with pytest.raises(ValueError, match=r"target categories must lie in 0\.\.4, got 5 to 5"):
        counter.update(np.array([5]), np.array([[1]]), clicked)
    with pytest.raises(ValueError, match=r"history categories must lie in 0\.\.4, got -1 to 2"):
        counter.update(np.array([1]), np.array([[-1, 2]]), clicked)
    one = np.array([1])
    with pytest.raises(ValueError, match=r"positions must lie in 1\.\.4 \(counted\), got 5 to 5"):
        counter.counts().information(one, one, np.array([5]))
