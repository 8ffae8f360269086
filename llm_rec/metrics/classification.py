"""How well click probabilities rank and how true they are: AUC, grouped AUC, log loss, calibration. Float64 throughout.

Rows may carry weights (an effective sparsity, a sampling correction). Weights that depend on the label alone leave AUC
as it is and change only log loss and calibration (arXiv 2403.14144).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Num

from llm_rec.errors import DataError

GroupWeight: TypeAlias = Literal["rows", "positives", "equal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedAUC:
    """Weighted mean of the AUC of every group with both classes, and what that leaves out."""

    value: float
    groups: int  # that count
    dropped_groups: float  # share of groups with one class only
    dropped_rows: float  # share of rows in them


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Predictions beside labels, overall and per bucket; an empty bucket is NaN."""

    ece: float  # sum over buckets of (weight share) * |mean prediction - mean label|
    predicted_over_actual: float  # mean prediction / mean label: 1 is right on average; NaN without positives
    weight: Float64[np.ndarray, "buckets"]
    mean_prediction: Float64[np.ndarray, "buckets"]
    mean_label: Float64[np.ndarray, "buckets"]
    bias: Float64[np.ndarray, "buckets"]  # sum w (p - y) / sum w y; NaN for a bucket without positives


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickMetrics:
    """Figures of one set of rows. AUCs are None where a class, or every group's second class, is missing."""

    rows: int
    positives: int
    auc: float | None
    gauc: GroupedAUC | None
    log_loss: float
    ece: float
    predicted_over_actual: float


def auc(
    scores: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
) -> float:
    """Chance that a positive scores above a negative, ties counting one half; exact. Any increasing map of scores will
    do, so pass logits: probabilities near 0 and 1 tie by rounding.

    Raises `DataError` when one class is missing.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0, 0, 1, 1]))
    0.875
    """
    positive, weight = _checked(scores, labels, weights)
    order = np.argsort(scores, kind="stable")
    won, up, down = _won_pairs(scores[order], positive[order], weight[order], np.zeros(1, dtype=np.int64))
    if up[0] <= 0 or down[0] <= 0:
        raise DataError(
            f"AUC needs positives and negatives, got {int(positive.sum())} positives in {len(scores)} rows; "
            "evaluate more rows or leave this slice out"
        )
    return float(won[0] / (up[0] * down[0]))


def grouped_auc(
    scores: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    groups: Int64[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
    *,
    group_weight: GroupWeight = "rows",
) -> GroupedAUC:
    """AUC within each group (user, request), averaged: GAUC of Zhu et al. (2017, arXiv 1703.02091) and of DIN.

        sum_g v_g AUC_g / sum_g v_g,   v_g = rows (impressions) | positives (clicks) | 1, in row weights if given

    Groups with one class have no AUC; they are left out and their share is reported. One sort serves all groups. Raises
    `DataError` when no group holds both classes.

    >>> grouped_auc(np.array([0.2, 0.9, 0.7, 0.1]), np.array([0, 1, 0, 1]), np.array([3, 3, 8, 8])).value
    0.5
    """
    positive, weight = _checked(scores, labels, weights)
    if len(groups) != len(scores):
        raise DataError(f"there are {len(scores)} scores but {len(groups)} groups; give every row its group")
    order = np.argsort(scores, kind="stable")
    order = order[np.argsort(groups[order], kind="stable")]
    starts = _starts(groups[order])
    won, up, down = _won_pairs(scores[order], positive[order], weight[order], starts)
    mixed = (up > 0) & (down > 0)
    if not mixed.any():
        raise DataError(f"none of {len(starts)} groups holds both classes; group by something coarser, or report AUC")
    match group_weight:
        case "rows":
            share = (up + down)[mixed]
        case "positives":
            share = up[mixed]
        case "equal":
            share = np.ones(int(mixed.sum()))
        case _:
            assert_never(group_weight)
    sizes = np.diff(starts, append=len(scores))
    return GroupedAUC(
        value=float((share * (won[mixed] / (up * down)[mixed])).sum() / share.sum()),
        groups=int(mixed.sum()),
        dropped_groups=float(1 - mixed.mean()),
        dropped_rows=float(sizes[~mixed].sum() / len(scores)),
    )


def log_loss(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
) -> float:
    """Weighted mean of -log p(label), in nats, from logits, so that no probability is clipped.

    >>> round(log_loss(np.array([0.0, 800.0]), np.array([1, 1])), 4)
    0.3466
    """
    positive, weight = _checked(logits, labels, weights)
    terms = np.logaddexp(0.0, np.where(positive, -1.0, 1.0) * logits.astype(np.float64))
    return float((weight * terms).sum() / weight.sum())


def equal_frequency_buckets(values: Float[np.ndarray, "rows"], number: int) -> Int64[np.ndarray, "rows"]:
    """Bucket 0..number-1 of every row by the rank of its value; equal values share the bucket of the first of them.

    >>> equal_frequency_buckets(np.array([0.3, 0.1, 0.2, 0.2]), 2).tolist()
    [1, 0, 0, 0]
    """
    _check_number(number)
    ranks = np.searchsorted(np.sort(values), values, side="left")
    return ranks.astype(np.int64) * number // max(len(values), 1)


def equal_width_buckets(probabilities: Float[np.ndarray, "rows"], number: int) -> Int64[np.ndarray, "rows"]:
    """Bucket 0..number-1 of every row by equal steps of probability.

    >>> equal_width_buckets(np.array([0.0, 0.49, 0.5, 1.0]), 2).tolist()
    [0, 0, 1, 1]
    """
    _check_number(number)
    return np.minimum((probabilities.astype(np.float64) * number).astype(np.int64), number - 1)


def calibration(
    probabilities: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    buckets: Int64[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
) -> Calibration:
    """Expected calibration error and bias per bucket; `buckets` from one of the two functions above.

    To compare models, cut all by the predictions of one of them: arXiv 2403.14144 uses 45 equal-frequency buckets of
    the BCE model. ECE from equal widths depends on few crowded buckets when clicks are rare; prefer equal frequency.
    """
    positive, weight = _checked(probabilities, labels, weights)
    if len(buckets) != len(positive) or buckets.min(initial=0) < 0:
        raise DataError(f"{len(positive)} rows need as many buckets from 0 on, got {len(buckets)}")
    mass, predicted, actual = (
        np.bincount(buckets, weights=values).astype(np.float64)
        for values in (weight, weight * probabilities.astype(np.float64), weight * positive)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = np.where(actual > 0, (predicted - actual) / actual, np.nan)
        means = predicted / mass, actual / mass
        ratio = predicted.sum() / actual.sum() if actual.sum() > 0 else np.nan
    return Calibration(
        ece=float(np.abs(predicted - actual).sum() / mass.sum()),
        predicted_over_actual=float(ratio),
        weight=mass,
        mean_prediction=means[0],
        mean_label=means[1],
        bias=bias,
    )


def click_metrics(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    *,
    groups: Int64[np.ndarray, "rows"] | None = None,
    weights: Float[np.ndarray, "rows"] | None = None,
    num_buckets: int = 45,
    group_weight: GroupWeight = "rows",
) -> ClickMetrics:
    """All figures of one set of rows; ECE over `num_buckets` equal-frequency buckets. Raises `DataError` without rows."""
    positive, weight = _checked(logits, labels, weights)
    exact = logits.astype(np.float64)
    both = bool((weight * positive).sum() > 0 < (weight * ~positive).sum())
    table = calibration(sigmoid(exact), positive, equal_frequency_buckets(exact, num_buckets), weight)
    return ClickMetrics(
        rows=len(positive),
        positives=int(positive.sum()),
        auc=auc(exact, positive, weight) if both else None,
        gauc=None if groups is None else _gauc_or_none(exact, positive, groups, weight, group_weight),
        log_loss=log_loss(exact, positive, weight),
        ece=table.ece,
        predicted_over_actual=table.predicted_over_actual,
    )


def metrics_by_slice(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    slices: Mapping[str, Bool[np.ndarray, "rows"]],
    *,
    groups: Int64[np.ndarray, "rows"] | None = None,
    weights: Float[np.ndarray, "rows"] | None = None,
    num_buckets: int = 45,
    group_weight: GroupWeight = "rows",
) -> dict[str, ClickMetrics]:
    """`click_metrics` of every slice that has rows; masks may overlap. For slices by how often the item of a row occurs
    in training (unseen, below 5, warm, frequency buckets) take `metrics.slices.target_slices` of the item rows.
    """
    return {
        name: click_metrics(
            logits[mask],
            labels[mask],
            groups=None if groups is None else groups[mask],
            weights=None if weights is None else weights[mask],
            num_buckets=num_buckets,
            group_weight=group_weight,
        )
        for name, mask in slices.items()
        if mask.any()
    }


def sigmoid(logits: Float[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows"]:
    """1 / (1 + exp(-x)) without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def _won_pairs(
    scores: Float[np.ndarray, "rows"],
    positive: Bool[np.ndarray, "rows"],
    weight: Float64[np.ndarray, "rows"],
    starts: Int64[np.ndarray, "groups"],
) -> tuple[Float64[np.ndarray, "groups"], Float64[np.ndarray, "groups"], Float64[np.ndarray, "groups"]]:
    """Of rows sorted by (group, score): per group the weight of pairs in order, of positives and of negatives."""
    fresh = np.r_[True, scores[1:] != scores[:-1]]
    fresh[starts] = True
    ties = np.flatnonzero(fresh)  # where blocks of one group and one score start
    up, down = (np.add.reduceat(weight * side, ties) for side in (positive, ~positive))
    firsts = np.searchsorted(ties, starts)  # block that starts each group
    below = np.cumsum(down) - down  # negatives in blocks before
    below -= np.repeat(below[firsts], np.diff(firsts, append=len(ties)))
    won = np.add.reduceat(up * (below + 0.5 * down), firsts)
    return won, np.add.reduceat(up, firsts), np.add.reduceat(down, firsts)


def _starts(ordered: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "groups"]:
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])


def _gauc_or_none(
    scores: Float64[np.ndarray, "rows"],
    positive: Bool[np.ndarray, "rows"],
    groups: Int64[np.ndarray, "rows"],
    weight: Float64[np.ndarray, "rows"],
    group_weight: GroupWeight,
) -> GroupedAUC | None:
    try:
        return grouped_auc(scores, positive, groups, weight, group_weight=group_weight)
    except DataError:
        return None


def _checked(
    values: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None,
) -> tuple[Bool[np.ndarray, "rows"], Float64[np.ndarray, "rows"]]:
    """Labels as booleans, weights as float64; errors for what no metric can mean."""
    rows = len(values)
    if not rows or len(labels) != rows or (weights is not None and len(weights) != rows):
        given = "no" if weights is None else len(weights)
        raise DataError(
            f"metrics need rows, and all columns of one length; got {rows}, {len(labels)} labels, {given} weights"
        )
    positive = labels.astype(bool)
    if not np.array_equal(positive, labels):
        raise DataError(f"labels must be 0 or 1, got values from {labels.min()} to {labels.max()}")
    if not np.isfinite(values).all():
        raise DataError("a score is not finite (NaN or infinite); check the model's weights and the training loss")
    weight = np.ones(rows) if weights is None else weights.astype(np.float64)
    if not (np.isfinite(weight).all() and weight.min() >= 0 and weight.sum() > 0):
        raise DataError(f"weights must be finite, not negative and not all 0, got a minimum of {weight.min()}")
    return positive, weight


def _check_number(number: int) -> None:
    if number < 1:
        raise ValueError(f"number of buckets must be at least 1, got {number}")
