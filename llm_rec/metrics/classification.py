"""How well click scores rank and how true they are: AUC, grouped AUC, log loss, and all figures by slice. In float64.

Rows may carry weights (an effective sparsity, a sampling correction). Weights that depend on the label alone leave AUC
as it is and change only log loss and calibration (arXiv 2403.14144).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Num

from llm_rec.errors import DataError
from llm_rec.metrics.calibration import calibration, equal_frequency_buckets, sigmoid
from llm_rec.metrics.rows import checked_rows

GroupWeight: TypeAlias = Literal["rows", "positives", "equal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedAUC:
    """Weighted mean of the AUC of every group with both classes, and what that leaves out."""

    value: float
    groups: int  # that count
    dropped_groups: float  # share of groups with one class only
    dropped_rows: float  # share of rows in them


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
    positive, weight = checked_rows(scores, labels, weights)
    order = np.argsort(scores, kind="stable")
    won, up, down = won_pairs(scores[order], positive[order], weight[order], np.zeros(1, dtype=np.int64))
    if up[0] <= 0 or down[0] <= 0:
        raise DataError(
            f"AUC needs positives and negatives, got {int(positive.sum())} positives in {len(scores)} rows; "
            "evaluate more rows or leave this slice out"
        )
    return float(won[0] / (up[0] * down[0]))


def grouped_auc(
    scores: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    groups: Int64[np.ndarray, "grouped"],
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
    found = _grouped_auc(scores, *checked_rows(scores, labels, weights), groups, group_weight)
    if found is None:
        raise DataError("no group holds both classes; group by something coarser, or report AUC alone")
    return found


def log_loss(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
) -> float:
    """Weighted mean of -log p(label), in nats, from logits, so that no probability is clipped.

    >>> round(log_loss(np.array([0.0, 800.0]), np.array([1, 1])), 4)
    0.3466
    """
    positive, weight = checked_rows(logits, labels, weights)
    terms = np.logaddexp(0.0, np.where(positive, -1.0, 1.0) * logits.astype(np.float64))
    return float((weight * terms).sum() / weight.sum())


def click_metrics(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    *,
    groups: Int64[np.ndarray, "rows"] | None = None,
    weights: Float[np.ndarray, "rows"] | None = None,
    num_buckets: int = 45,
    group_weight: GroupWeight = "rows",
) -> ClickMetrics:
    """All figures of one set of rows, at least one; ECE is over `num_buckets` equal-frequency buckets."""
    positive, weight = checked_rows(logits, labels, weights)
    exact = logits.astype(np.float64)
    both = bool((weight * positive).sum() > 0 < (weight * ~positive).sum())
    table = calibration(sigmoid(exact), positive, equal_frequency_buckets(exact, num_buckets), weight)
    return ClickMetrics(
        rows=len(positive),
        positives=int(positive.sum()),
        auc=auc(exact, positive, weight) if both else None,
        gauc=None if groups is None else _grouped_auc(exact, positive, weight, groups, group_weight),
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


def _grouped_auc(
    scores: Float[np.ndarray, "rows"],
    positive: Bool[np.ndarray, "rows"],
    weight: Float64[np.ndarray, "rows"],
    groups: Int64[np.ndarray, "grouped"],
    group_weight: GroupWeight,
) -> GroupedAUC | None:
    """None when no group holds both classes."""
    if len(groups) != len(scores):
        raise DataError(f"there are {len(scores)} scores but {len(groups)} groups; give every row its group")
    order = np.argsort(scores, kind="stable")
    order = order[np.argsort(groups[order], kind="stable")]
    starts = starts_of(groups[order])
    won, up, down = won_pairs(scores[order], positive[order], weight[order], starts)
    mixed = (up > 0) & (down > 0)
    if not mixed.any():
        return None
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


def won_pairs(
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


def starts_of(ordered: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "groups"]:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
