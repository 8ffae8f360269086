"""NDCG of a search against loops over rows, both denominators, and the filters."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.analysis.category_information import CategoryCounter
from llm_rec.analysis.search_quality import (
    estimated_gains,
    planted_gains,
    search_curves,
    summarise_search,
    well_counted,
)


def naive(scores, gains, mask, k, denominator):
    """One row: events by falling score and gain, the newer first among equals."""
    events = [column for column in reversed(range(len(scores))) if mask[column]]
    found = sorted(events, key=lambda column: -scores[column])[:k]
    ideal = sorted(events, key=lambda column: -gains[column])[:k]

    def dcg(columns):
        return sum(gains[column] / math.log2(rank + 2) for rank, column in enumerate(columns))

    ndcg, overlap = [], []
    for n in range(1, k + 1):
        best = dcg(ideal[:n] if denominator == "n" else ideal)
        ndcg.append(dcg(found[:n]) / best if best > 0 else math.nan)
        overlap.append(len(set(found[:n]) & set(ideal)))
    return ndcg, overlap


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), denominator=st.sampled_from(["k", "n"]), ties=st.booleans())
def test_curves_equal_a_loop_over_rows(seed, k, denominator, ties):
    rng = np.random.default_rng(seed)
    scores, gains = rng.normal(size=(6, 7)), rng.random((6, 7))
    if ties:
        scores, gains = scores.round(0), gains.round(0)
    mask = np.arange(7) >= rng.integers(0, 8, (6, 1))
    found = search_curves(scores, gains, mask, k=k, denominator=denominator)
    for row in range(6):
        ndcg, overlap = naive(scores[row], gains[row], mask[row], k, denominator)
        assert found.ndcg[row] == pytest.approx(ndcg, nan_ok=True)
        assert found.overlap[row].tolist() == overlap


def test_two_events_by_hand():
    gains, mask = np.array([[1.0, 3.0]]), np.ones((1, 2), dtype=bool)
    wrong = np.array([[2.0, 1.0]])
    ideal = 3 + 1 / math.log2(3)
    at_k = search_curves(wrong, gains, mask, k=2)
    assert at_k.ndcg[0] == pytest.approx([1 / ideal, (1 + 3 / math.log2(3)) / ideal])
    at_n = search_curves(wrong, gains, mask, k=2, denominator="n")
    assert at_n.ndcg[0] == pytest.approx([1 / 3, (1 + 3 / math.log2(3)) / ideal])
    assert at_k.overlap[0].tolist() == [1, 2]
    right = search_curves(gains, gains, mask, k=2)
    assert right.ndcg[0] == pytest.approx([3 / ideal, 1])
    assert search_curves(gains, gains, mask, k=2, denominator="n").ndcg[0] == pytest.approx([1, 1])


def test_padding_is_never_found_even_with_the_best_score():
    scores, gains = np.array([[99.0, 1.0, 2.0]]), np.array([[99.0, 1.0, 2.0]])
    mask = np.array([[False, True, True]])
    found = search_curves(scores, gains, mask, k=3)
    assert found.ndcg[0, -1] == pytest.approx(1)
    assert found.overlap[0].tolist() == [1, 2, 2]
    hard = search_curves(np.array([[-np.inf, -np.inf, 2.0]]), gains, mask, k=1)
    assert hard.overlap[0].tolist() == [1]


def test_means_leave_out_rows_without_a_gain():
    scores = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    gains = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    parts = [
        search_curves(scores[rows], gains[rows], np.ones((len(rows), 2), dtype=bool), k=1) for rows in ([0, 1], [2])
    ]
    found = summarise_search(parts)
    assert found.rows == 2
    assert found.ndcg.tolist() == [0.5]
    assert found.overlap.tolist() == [0.5]
    assert found.standard_error == pytest.approx(0.5)
    assert math.isnan(summarise_search(parts[:1]).standard_error)


def counts_and_rows():
    rng = np.random.default_rng(0)
    target, history = rng.choice([1, 2, 3], 900, p=[0.6, 0.3, 0.1]), rng.choice([1, 2, 3], (900, 3), p=[0.5, 0.4, 0.1])
    history[:100, :2] = 0
    clicked = rng.random(900) < 0.5
    counter = CategoryCounter(5, 3)
    counter.update(target, history, clicked)
    return counter.counts(), target, history, clicked


def test_gains_are_the_information_of_each_event_and_none_for_padding():
    counts, target, history, _ = counts_and_rows()
    gains = estimated_gains(counts, target[95:105], history[95:105])
    for row in range(10):
        for column in range(3):
            c = history[95 + row, column]
            cell = (np.array([target[95 + row]]), np.array([c]), np.array([3 - column]))
            assert gains[row, column] == (counts.information(*cell)[0] if c else 0)


def test_planted_gains_are_looked_up_by_target_category_and_position():
    truth = np.arange(24, dtype=np.float64).reshape(2, 4, 3) + 1
    gains = planted_gains(truth, np.array([1, 0]), np.array([[0, 2, 3, 1, 2], [1, 1, 0, 3, 3]]))
    assert gains.tolist() == [
        [0, 0, truth[1, 3, 2], truth[1, 1, 1], truth[1, 2, 0]],
        [0, 0, 0, truth[0, 3, 1], truth[0, 3, 0]],
    ]


def test_well_counted_rows_equal_the_rule_in_words():
    counts, target, history, clicked = counts_and_rows()
    limits = {"min_target": 200, "min_cell": 10, "max_thin": 1}
    found = well_counted(counts, target, history, **limits)
    for row in range(0, 900, 7):
        goal = target == target[row]
        thin = 0
        for column in range(3):
            hit = goal & (history[:, column] == history[row, column])
            thin += bool(history[row, column]) and min((hit & clicked).sum(), (hit & ~clicked).sum()) < 10
        assert found[row] == (goal.sum() >= 200 and thin <= 1)
    assert 0 < found.sum() < 900
    assert not well_counted(counts, target, history).any()  # no target category has 700 rows


def test_refusals_name_the_value_and_the_repair():
    one = np.ones((1, 2))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        search_curves(one, one, one > 0, k=0)
    with pytest.raises(ValueError, match="gains of events must be numbers, got NaN in 2 places"):
        search_curves(one, one * np.nan, one > 0)
    empty = search_curves(one, 0 * one, one > 0)
    with pytest.raises(ValueError, match="none of 1 rows has an event with a gain; lower min_target and min_cell"):
        summarise_search([empty])
    with pytest.raises(ValueError, match="none of 0 rows"):
        summarise_search([])
