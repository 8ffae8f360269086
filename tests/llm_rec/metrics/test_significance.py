"""Intervals and tests against closed forms, enumeration and scipy's published values."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.metrics.significance import (
    bootstrap_intervals,
    compare,
    compare_seeds,
    holm,
    sign_flip_p,
    student_t_two_sided,
)


def test_bootstrap_interval_of_a_proportion_is_close_to_the_normal_one():
    values = np.zeros((2000, 1))
    values[:500] = 1.0
    low, high = bootstrap_intervals(values, samples=4000, seed=3)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 2000)
    assert low[0] == pytest.approx(0.25 - half, abs=0.002)
    assert high[0] == pytest.approx(0.25 + half, abs=0.002)


def test_bootstrap_is_deterministic_and_independent_of_the_other_columns():
    values = np.random.default_rng(0).random((50, 3))
    low, high = bootstrap_intervals(values, seed=7)
    alone_low, alone_high = bootstrap_intervals(values[:, 1:2], seed=7)
    assert (low[1], high[1]) == pytest.approx((alone_low[0], alone_high[0]))
    assert not np.array_equal(bootstrap_intervals(values, seed=8)[0], low)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_claims():
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        low, high = bootstrap_intervals(rng.normal(0.3, 1.0, (60, 1)), samples=300, seed=trial)
        hits += int(low[0] <= 0.3 <= high[0])
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize(("number", "samples", "level"), [(0, 10, 0.9), (3, 0, 0.9), (3, 10, 1.0)])
def test_bootstrap_without_anything_to_draw_is_an_error(number, samples, level):
    with pytest.raises(
        ValueError, match=f"a bootstrap needs targets.*got {number} targets, samples={samples}, level={level}"
    ):
        bootstrap_intervals(np.ones((number, 1)), samples=samples, level=level)


def test_small_sign_flip_tests_are_exact():
    differences = np.array([[0.5], [0.25], [-0.1], [0.0], [0.3]])
    moved = differences[differences != 0]
    sums = [abs(np.dot(signs, moved)) for signs in itertools.product((-1, 1), repeat=4)]
    expected = np.mean([s >= abs(moved.sum()) - 1e-12 for s in sums])
    assert sign_flip_p(differences, samples=100, seed=0) == [pytest.approx(expected)]


def test_sampled_sign_flips_agree_with_the_normal_limit():
    differences = np.random.default_rng(2).normal(0.05, 1.0, (1500, 1))
    z = abs(differences.sum()) / math.sqrt((differences**2).sum())
    assert sign_flip_p(differences, samples=20_000, seed=0)[0] == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.01)


def test_equal_runs_have_p_one_and_a_clear_gain_is_significant():
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.2).astype(float)
    gain = np.where(rng.random(400) < 0.2, 1.0, base)
    everyone, few = np.ones(400, dtype=bool), np.arange(400) < 30
    same = compare({"hit@10": base}, {"hit@10": base}, {"all": everyone})[0]
    assert (same.p_value, same.difference, same.low, same.high) == (1.0, 0.0, 0.0, 0.0)
    records = compare({"hit@10": base}, {"hit@10": gain}, {"all": everyone, "few": few, "none": ~everyone})
    assert [record.slice for record in records] == ["all", "few"]
    assert records[0].p_value == pytest.approx(1 / 10_001)
    assert records[0].p_holm == pytest.approx(2 / 10_001)
    assert records[0].difference == pytest.approx(records[0].mean_b - records[0].mean_a)
    assert records[0].low < records[0].difference < records[0].high
    assert [record.count for record in records] == [400, 30]


def test_false_alarms_of_the_paired_test_keep_their_level():
    rng = np.random.default_rng(5)
    alarms = sum(sign_flip_p(rng.normal(0, 1, (40, 1)), samples=199, seed=s)[0] <= 0.1 for s in range(300))
    assert 0.05 <= alarms / 300 <= 0.16


def test_runs_over_different_targets_are_an_error():
    with pytest.raises(ValueError, match="run a has 3 targets and run b has 2; a paired comparison needs the same"):
        compare({"mrr": np.ones(3)}, {"mrr": np.ones(2)}, {"all": np.ones(3, dtype=bool)})


def test_runs_with_different_metrics_are_an_error():
    with pytest.raises(ValueError, match=r"the runs report different metrics: \['mrr'\] and \['hit@5'\]"):
        compare({"mrr": np.ones(3)}, {"hit@5": np.ones(3)}, {"all": np.ones(3, dtype=bool)})


@pytest.mark.parametrize(
    ("t", "degrees", "expected"),  # scipy.stats.t.sf(t, n) * 2, scipy 1.17
    [
        (0.0, 3, 1.0),
        (1.0, 1, 0.5),
        (2.0, 4, 0.11611652351681556),
        (-2.5, 2, 0.12961172022151082),
        (6.0, 9, 0.00020249932206764079),
        (30.0, 4, 7.352856097661319e-06),
        (0.3, 200, 0.764488730189328),
        (math.inf, 4, 0.0),
    ],
)
def test_student_t_equals_published_values(t, degrees, expected):
    assert student_t_two_sided(t, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_student_t_without_degrees_is_an_error():
    with pytest.raises(ValueError, match="at least 1 degree of freedom, got 0"):
        student_t_two_sided(1.0, 0)


def test_seeds_are_compared_in_pairs():
    test = compare_seeds([0.1, 0.2, 0.3, 0.4, 0.5], [0.12, 0.21, 0.33, 0.41, 0.52])
    assert test.seeds == 5
    assert test.difference == pytest.approx(0.018)
    assert test.std == pytest.approx(np.std([0.02, 0.01, 0.03, 0.01, 0.02], ddof=1))
    assert test.p_t == pytest.approx(0.008580918721924877)
    assert test.p_sign == pytest.approx(2 / 32)


@pytest.mark.parametrize(("b", "t", "p"), [([0.1, 0.2], 0.0, 1.0), ([1.1, 1.2], math.inf, 0.0)])
def test_seeds_that_all_move_alike_have_an_infinite_or_zero_t(b, t, p):
    a = [0.1, 0.2] if t == 0 else [0.0 + 0.1, 0.1 + 0.1]
    test = compare_seeds(a, b if t == 0 else [a[0] + 1.0, a[1] + 1.0])
    assert test.t == t
    assert test.p_t == p


def test_unpaired_seeds_are_an_error():
    with pytest.raises(ValueError, match="a paired test needs the same seeds, at least 2, for both; got 1 and 2"):
        compare_seeds([0.1], [0.1, 0.2])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_equals_its_definition(p_values):
    corrected = holm(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[index]))
        assert corrected[index] == pytest.approx(worst)
