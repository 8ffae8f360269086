"""Bootstrap of click metrics: the metrics under the weights of a resample, rows of a group together, calibrated."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.errors import DataError
from llm_rec.metrics.classification import click_metrics
from llm_rec.metrics.click_intervals import METRICS, _Ordered, compare_clicks, figures, summarise_clicks, weights_of


def world(rows, *, users=12, seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.4).astype(np.float32)
    logits = np.round(rng.normal(size=rows) + signal * labels, 1)
    return logits, labels, rng.integers(0, users, rows)


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 60), st.integers(0, 99), st.booleans())
def test_figures_of_a_resample_are_the_metrics_under_its_weights(rows, seed, grouped):
    logits, labels, groups = world(rows, seed=seed)
    inside = groups if grouped else None
    ordered = _Ordered.of(logits, labels, inside, 7)
    for weight in weights_of(rows, inside, 3, seed):
        expected = figures(click_metrics(logits, labels, groups=inside, weights=weight, num_buckets=7))
        found = {name: ordered.figure(name, weight) for name in METRICS}
        assert {name for name, value in found.items() if np.isfinite(value)} == set(expected)
        assert all(found[name] == pytest.approx(value) for name, value in expected.items())


def test_rows_of_a_group_are_drawn_together_and_as_many_groups_as_there_are():
    groups = np.array([5, 5, 9, 9, 9, 2])
    for weight in weights_of(6, groups, 20, 0):
        assert weight[0] == weight[1]
        assert weight[2] == weight[3] == weight[4]
        assert weight[0] + weight[2] + weight[5] == 3
    assert all(weight.sum() == 6 for weight in weights_of(6, None, 5, 0))


def test_intervals_hold_the_figure_and_a_slice_depends_on_its_rows_alone():
    logits, labels, groups = world(400)
    first = np.arange(400) < 150
    slices = {"all": np.ones(400, dtype=bool), "first": first, "none": np.zeros(400, dtype=bool)}
    found = summarise_clicks(logits, labels, slices, groups, samples=100)
    for name in ("all", "first"):
        summary = found[name]
        assert summary.count == int(slices[name].sum())
        assert set(summary.low) == set(summary.mean) - {"ece"}
        assert all(summary.low[m] <= summary.mean[m] <= summary.high[m] for m in summary.low)
    alone = summarise_clicks(
        logits[first], labels[first], {"first": np.ones(150, dtype=bool)}, groups[first], samples=100
    )
    assert alone["first"] == found["first"]
    assert found["none"].count == 0
    assert found["none"].mean == {}


def test_a_slice_of_one_class_has_no_auc():
    logits, labels, _ = world(40)
    found = summarise_clicks(logits, np.zeros_like(labels), {"all": np.ones(40, dtype=bool)}, samples=5)
    assert set(found["all"].mean) == {"log_loss", "ece"}


def test_the_interval_of_auc_covers_the_truth_as_often_as_it_claims():
    truth = summarise_clicks(*world(200_000, seed=1)[:2], {"all": np.ones(200_000, dtype=bool)}, samples=1)["all"].mean
    hits = 0
    for seed in range(100):
        logits, labels, _ = world(200, seed=100 + seed)
        found = summarise_clicks(logits, labels, {"all": np.ones(200, dtype=bool)}, samples=100)["all"]
        hits += found.low["auc"] <= truth["auc"] <= found.high["auc"]
    assert hits >= 87  # 95 claimed; below 87 of 100 with chance 0.001


def test_paired_tests_find_a_better_model_and_no_difference_to_itself():
    logits, labels, groups = world(600)
    better = logits + 0.8 * labels
    slices = {"all": np.ones(600, dtype=bool)}
    auc, loss = compare_clicks(logits, better, labels, slices, groups, samples=200)
    assert (auc.metric, loss.metric) == ("auc", "log_loss")
    assert auc.difference == pytest.approx(auc.mean_b - auc.mean_a)
    assert 0 < auc.low < auc.difference < auc.high
    assert loss.difference < 0
    assert auc.p_value == pytest.approx(2 / 201)
    assert auc.p_holm == pytest.approx(4 / 201)
    same, _ = compare_clicks(logits, logits, labels, slices, groups, samples=20)
    assert (same.difference, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    with pytest.raises(DataError, match="run a has 600 rows and run b has 1; a paired test needs the same rows"):
        compare_clicks(logits, logits[:1], labels, slices)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        list(weights_of(3, None, 0, 0))
