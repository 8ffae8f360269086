"""AUC, grouped AUC, log loss and calibration against loops, scikit-learn, and their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.errors import DataError
from llm_rec.metrics.calibration import calibration, equal_frequency_buckets, equal_width_buckets, sigmoid
from llm_rec.metrics.classification import auc, click_metrics, grouped_auc, log_loss, metrics_by_slice
from llm_rec.metrics.rows import checked_rows
from llm_rec.metrics.slices import target_slices


def world(rows=300, groups=20, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.3
    scores = rng.standard_normal(rows) + labels
    scores = np.round(scores, 1) if ties else scores
    return scores, labels.astype(np.float32), rng.integers(-5, groups - 5, rows) * 10**12, rng.random(rows)


def naive_auc(scores, labels, weights):
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += pair
    return won / total


@pytest.mark.parametrize("weighted", [False, True])
def test_auc_equals_a_loop_over_pairs_with_ties(weighted):
    scores, labels, _, weights = world()
    given_weights = weights if weighted else None
    expected = naive_auc(scores, labels, weights if weighted else np.ones(len(scores)))
    assert auc(scores, labels, given_weights) == pytest.approx(expected, abs=1e-12)


def test_auc_and_log_loss_equal_scikit_learn():
    peers = pytest.importorskip("sklearn.metrics")
    scores, labels, _, weights = world(5000)
    assert auc(scores, labels, weights) == pytest.approx(peers.roc_auc_score(labels, scores, sample_weight=weights))
    theirs = peers.log_loss(labels, sigmoid(scores), sample_weight=weights)
    assert log_loss(scores, labels, weights) == pytest.approx(theirs)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 40))
def test_auc_reverses_with_the_scores_and_ignores_increasing_maps(seed, rows):
    scores, labels, _, _ = world(rows, seed=seed)
    labels[:2] = 0, 1
    value = auc(scores, labels)
    assert auc(-scores, labels) == pytest.approx(1 - value)
    assert auc(np.exp(scores) * 3, labels) == pytest.approx(value)
    assert auc(np.zeros(rows), labels) == 0.5


def test_weights_that_depend_on_the_class_alone_leave_auc_and_change_log_loss():
    scores, labels, _, _ = world()
    weights = np.where(labels == 1, 0.1, 1.0)
    assert auc(scores, labels, weights) == pytest.approx(auc(scores, labels), abs=1e-12)
    assert log_loss(scores, labels, weights) != pytest.approx(log_loss(scores, labels), rel=1e-3)


@pytest.mark.parametrize("group_weight", ["rows", "positives", "equal"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("number", [1, 20, 200])
def test_grouped_auc_equals_a_loop_over_groups(group_weight, weighted, number):
    scores, labels, groups, weights = world(groups=number)
    w = weights if weighted else np.ones(len(scores))
    values, shares, dropped, dropped_rows = [], [], 0, 0
    for group in np.unique(groups):
        rows = groups == group
        if labels[rows].min() == labels[rows].max():
            dropped, dropped_rows = dropped + 1, dropped_rows + rows.sum()
            continue
        values.append(naive_auc(scores[rows], labels[rows], w[rows]))
        shares.append({"rows": w[rows].sum(), "positives": (w * labels)[rows].sum(), "equal": 1.0}[group_weight])
    ours = grouped_auc(scores, labels, groups, weights if weighted else None, group_weight=group_weight)
    assert ours.value == pytest.approx(np.average(values, weights=shares), abs=1e-12)
    assert ours.groups == len(values)
    assert ours.dropped_groups == pytest.approx(dropped / len(np.unique(groups)))
    assert ours.dropped_rows == pytest.approx(dropped_rows / len(scores))


def test_one_group_is_plain_auc_and_shifting_groups_changes_auc_alone():
    scores, labels, groups, _ = world(ties=False)
    assert grouped_auc(scores, labels, np.zeros(len(scores), dtype=np.int64)).value == pytest.approx(
        auc(scores, labels)
    )
    shifted = scores + groups * 1e-9
    assert grouped_auc(shifted, labels, groups).value == pytest.approx(grouped_auc(scores, labels, groups).value)
    assert auc(shifted, labels) < auc(scores, labels) - 0.05


def test_log_loss_of_large_logits_is_finite_and_linear():
    assert log_loss(np.array([-800.0, 800.0]), np.array([1, 0])) == 800.0


def test_buckets_of_equal_frequency_hold_as_many_rows_unless_values_tie():
    values = np.random.default_rng(0).random(900)
    assert np.bincount(equal_frequency_buckets(values, 45)).tolist() == [20] * 45
    assert equal_frequency_buckets(np.zeros(10), 5).tolist() == [0] * 10
    shuffled = np.random.default_rng(1).permutation(900)
    assert np.array_equal(equal_frequency_buckets(values[shuffled], 7), equal_frequency_buckets(values, 7)[shuffled])


@pytest.mark.parametrize("cut", [equal_frequency_buckets, equal_width_buckets])
def test_calibration_equals_a_loop_over_buckets(cut):
    scores, labels, _, weights = world()
    p = sigmoid(scores)
    buckets = cut(p, 6)
    table = calibration(p, labels, buckets, weights)
    gap = 0.0
    for bucket in range(6):
        rows = buckets == bucket
        if not rows.any():
            assert np.isnan(table.mean_label[bucket])
            continue
        w, y, q = weights[rows], labels[rows].astype(float), p[rows]
        gap += w.sum() * abs(np.average(q, weights=w) - np.average(y, weights=w))
        assert table.mean_prediction[bucket] == pytest.approx(np.average(q, weights=w))
        assert table.mean_label[bucket] == pytest.approx(np.average(y, weights=w))
        bias = (w * (q - y)).sum() / (w * y).sum() if y.any() else np.nan
        assert table.bias[bucket] == pytest.approx(bias, nan_ok=True)
    assert table.ece == pytest.approx(gap / weights.sum())
    assert table.predicted_over_actual == pytest.approx((weights * p).sum() / (weights * labels).sum())


def test_true_probabilities_are_calibrated_and_doubled_odds_are_not():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(50_000) - 2
    labels = rng.random(50_000) < sigmoid(logits)
    right, wrong = click_metrics(logits, labels), click_metrics(logits + np.log(2), labels)
    assert right.ece < 0.012 < 0.05 < wrong.ece
    assert right.predicted_over_actual == pytest.approx(1.0, abs=0.03)
    assert wrong.predicted_over_actual > 1.5
    assert wrong.auc == right.auc


def test_slices_by_item_frequency_have_their_own_figures_and_none_where_there_is_no_auc():
    logits = np.array([2.0, -1.0, 0.5, -0.5, 3.0])
    labels = np.array([1, 0, 0, 1, 1])
    slices = target_slices(np.array([1, 1, 2, 2, 3]), np.array([0, 0, 3, 50]))
    found = metrics_by_slice(logits, labels, slices, groups=np.array([1, 1, 2, 2, 2]))
    assert set(found) == {"all", "unseen", "1-4", "lt5", "lt10", "warm"}
    assert (found["unseen"].auc, found["1-4"].auc, found["warm"].auc) == (1.0, 0.0, None)
    assert found["warm"].gauc is None
    assert (found["all"].rows, found["all"].positives) == (5, 3)
    assert found["all"].gauc.value == pytest.approx((2 * 1.0 + 3 * 0.5) / 5)
    assert found["all"].log_loss == pytest.approx(log_loss(logits, labels))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_labels_of_any_type_mean_the_same(dtype):
    scores, labels, groups, _ = world()
    assert auc(scores, labels.astype(dtype)) == auc(scores, labels)
    assert grouped_auc(scores, labels.astype(dtype), groups) == grouped_auc(scores, labels, groups)


ONE = np.ones(3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc(np.arange(3.0), ONE), "AUC needs positives and negatives, got 3 positives in 3 rows; evaluate"),
        (lambda: auc(np.arange(3.0), np.array([0, 1, 2])), "labels must be 0 or 1, got values from 0 to 2"),
        (lambda: auc(np.array([1.0, np.nan]), np.array([0, 1])), "a score is not finite"),
        (lambda: auc(np.zeros(0), np.zeros(0)), "metrics need rows, and all columns of one length; got 0, 0 labels"),
        (
            lambda: checked_rows(ONE, ONE[:2], None),
            "metrics need rows, and all columns of one length; got 3, 2",
        ),
        (lambda: grouped_auc(ONE, ONE, np.arange(2)), "there are 3 scores but 2 groups; give every row its group"),
        (lambda: log_loss(ONE, ONE, -ONE), "weights must be finite, not negative and not all 0, got a minimum of -1.0"),
        (lambda: grouped_auc(ONE, np.array([0, 1, 1]), np.arange(3)), "no group holds both classes; group by"),
    ],
)
def test_rows_without_meaning_are_errors(call, message):
    with pytest.raises(DataError, match=f"^{message}"):
        call()


def test_no_buckets_is_an_error():
    with pytest.raises(ValueError, match="^number of buckets must be at least 1, got 0$"):
        equal_frequency_buckets(ONE, 0)
