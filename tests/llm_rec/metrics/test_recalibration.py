"""Recalibration: optimal maps against direct search and the min-max formula, true rates recovered, orders kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.errors import DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.metrics.classification import auc, click_metrics, log_loss
from llm_rec.metrics.recalibration import Affine, pooled, recalibrate, unweighted_negatives


def world(rows, seed=0, scale=1.0, shift=0.0):
    """Labels from true logits, and logits that a model distorted: true = scale * said + shift."""
    rng = np.random.default_rng(seed)
    true = rng.normal(-1.5, 1.5, rows)
    return (true - shift) / scale, (rng.random(rows) < sigmoid(true)).astype(np.float64)


@pytest.mark.parametrize("weighted", [False, True])
def test_platt_and_temperature_are_stationary_points_of_the_weighted_log_loss(weighted):
    logits, labels = world(500, scale=0.5, shift=1.0)
    weights = np.random.default_rng(1).random(500) if weighted else None
    whole = np.ones(500) if weights is None else weights
    for method, columns in (("platt", [logits, np.ones(500)]), ("temperature", [logits])):
        found = recalibrate(method, logits, labels, weights)
        errors = whole * (sigmoid(found(logits)) - labels) / whole.sum()
        assert [float(column @ errors) for column in columns] == pytest.approx([0] * len(columns), abs=1e-6)
        assert found.shift == 0 or method == "platt"
        assert log_loss(found(logits), labels, weights) < log_loss(logits, labels, weights)


def test_platt_recovers_the_distortion_and_makes_other_rows_true():
    logits, labels = world(200_000, scale=0.5, shift=1.0)
    found = recalibrate("platt", logits[:100_000], labels[:100_000])
    assert (found.scale, found.shift) == pytest.approx((0.5, 1.0), abs=0.02)
    before, after = (click_metrics(map_(logits[100_000:]), labels[100_000:]) for map_ in (Affine(scale=1.0), found))
    assert after.ece < 0.01 < 0.08 < before.ece
    assert after.predicted_over_actual == pytest.approx(1, abs=0.02)
    assert after.auc == pytest.approx(before.auc)


def test_isotonic_makes_a_bent_model_true_that_no_affine_map_can():
    rng = np.random.default_rng(3)
    true = rng.uniform(-3, 3, 60_000)
    labels = (rng.random(60_000) < sigmoid(true)).astype(np.float64)
    logits = np.where(true > 0, 6 * true, 0.2 * true)
    half = slice(0, 30_000)
    after = {
        m: click_metrics(recalibrate(m, logits[half], labels[half])(logits[30_000:]), labels[30_000:]).ece
        for m in ("platt", "isotonic")
    }
    assert after["isotonic"] < 0.02 < after["platt"]


def min_max(values, weights):
    """g_i = max over j <= i of min over k >= i of the weighted mean of j..k: the definition of isotonic regression."""
    number = len(values)
    mean = np.array(
        [
            [np.average(values[j : k + 1], weights=weights[j : k + 1]) if j <= k else np.nan for k in range(number)]
            for j in range(number)
        ]
    )
    return [max(min(mean[j, k] for k in range(i, number)) for j in range(i + 1)) for i in range(number)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=14))
def test_pooled_blocks_are_the_isotonic_regression(rows):
    values, weights = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    means, sizes = pooled(values, weights)
    assert np.repeat(means, sizes.astype(int)) == pytest.approx(min_max(values, weights))
    assert (np.diff(means) >= 0).all()


def test_isotonic_is_monotone_keeps_equal_logits_equal_and_never_promises_certainty():
    logits, labels = world(300)
    rounded = np.round(logits, 1)
    found = recalibrate("isotonic", rounded, labels)
    order = np.argsort(rounded)
    assert (np.diff(found(rounded)[order]) >= 0).all()
    far = sigmoid(found(np.array([-1e9, 1e9])))
    assert 0 < far[0] < far[1] < 1
    assert far[0] == found_edge(found)
    assert auc(found(rounded), labels) >= auc(rounded, labels) - 0.02


def found_edge(found):
    return sigmoid(found.values[:1])[0]


def test_rows_without_weight_do_not_count():
    logits, labels = world(200)
    weights = (np.arange(200) < 120).astype(np.float64)
    for method in ("temperature", "platt", "isotonic"):
        some = recalibrate(method, logits, labels, weights)
        alone = recalibrate(method, logits[:120], labels[:120])
        np.testing.assert_allclose(some(logits), alone(logits), rtol=1e-4, atol=1e-5)


def test_unweighted_negatives_recover_the_rate_of_a_reweighted_model_and_one_is_the_identity():
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < 0.03).astype(np.float64)
    weighted_rate = labels.sum() / (labels.sum() + 0.2 * (1 - labels).sum())  # what a constant model learns
    logits = np.full(50_000, np.log(weighted_rate / (1 - weighted_rate)))
    assert sigmoid(unweighted_negatives(0.2)(logits))[0] == pytest.approx(labels.mean())
    np.testing.assert_array_equal(unweighted_negatives(1.0)(logits), logits)
    with pytest.raises(ValueError, match="mean_weight must be finite and above 0, got 0.0"):
        unweighted_negatives(0.0)


def test_what_has_no_calibration_is_refused():
    with pytest.raises(DataError, match="needs clicks and rows without one, got 0 clicks in 4 rows"):
        recalibrate("platt", np.zeros(4), np.zeros(4))
    apart = np.array([-1.0, 1.0] * 5), np.array([0, 1] * 5)
    for method, shift in (("temperature", 0.0), ("platt", 5.0)):
        for sign in (1.0, -1.0):
            message = f"tell 5 clicks from 5 other rows without an error, so no {method} scale is the best"
            with pytest.raises(DataError, match=message):
                recalibrate(method, sign * apart[0] + shift, apart[1])
    assert recalibrate("temperature", apart[0] + 5, apart[1]).scale == pytest.approx(0, abs=0.1)
