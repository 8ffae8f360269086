"""Maps of logits that make probabilities true again: fitted on rows that were held back, judged on others.

    temperature  s / T                    Platt  a s + b                 (Platt, 1999; Guo et al., arXiv 1706.04599)
    isotonic     the best non-decreasing step function of s              (pool adjacent violators)
    negatives    s + log w: undoes training with negatives weighted by w, by arithmetic alone

The first two keep the order of rows, and with it AUC; isotonic steps make ties. All give logits again, so that every
metric of logits can be taken before and after.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float64, Num

from llm_rec.errors import DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.metrics.rows import checked_rows

Method = Literal["temperature", "platt", "isotonic"]
STEPS, HALVINGS, TOLERANCE = 100, 40, 1e-15


@dataclass(frozen=True, kw_only=True, slots=True)
class Affine:
    """`scale` s + `shift`: temperature scaling (scale 1 / T) and Platt's; weighted negatives have scale 1."""

    scale: float
    shift: float = 0.0

    def __call__(self, logits: Float[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows"]:
        return self.scale * logits.astype(np.float64) + self.shift


@dataclass(frozen=True, kw_only=True, eq=False)
class Isotonic:
    """Steps: a logit from `starts[i]` on (below `starts[i + 1]`) becomes `values[i]`; what lies below the first start
    becomes the first value.
    """

    starts: Float64[np.ndarray, "steps"]
    values: Float64[np.ndarray, "steps"]

    def __call__(self, logits: Float[np.ndarray, "rows"]) -> Float64[np.ndarray, "rows"]:
        step = np.searchsorted(self.starts, logits.astype(np.float64), side="right") - 1
        found: np.ndarray = self.values[np.maximum(step, 0)]
        return found


Recalibration: TypeAlias = Affine | Isotonic


def recalibrate(
    method: Method,
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    weights: Float[np.ndarray, "rows"] | None = None,
) -> Recalibration:
    """The map that has the least log loss on these rows. `DataError` when a class is missing, or when logits tell the
    classes apart without an error, so that no scale is the best.

    Isotonic steps without a click (or with nothing else) would promise certainty; their rate is moved inside by half a
    row's share of all weight, our choice. Platt's needs clicks by the ten, isotonic by the hundred.

    >>> logits, labels = np.array([2.0, 2.0, 2.0, 2.0, -2.0, -2.0]), np.array([1, 1, 1, 0, 0, 1])
    >>> found = recalibrate("isotonic", logits, labels)
    >>> sigmoid(found(logits)).round(4).tolist()
    [0.75, 0.75, 0.75, 0.75, 0.5, 0.5]
    """
    positive, weight = checked_rows(logits, labels, weights)
    if not (weight * positive).sum() > 0 < (weight * ~positive).sum():
        raise DataError(
            f"a calibration needs clicks and rows without one, got {int(positive.sum())} clicks in {len(logits)} rows"
        )
    exact = logits.astype(np.float64)
    if method != "isotonic":
        _check_overlap(method, exact[positive & (weight > 0)], exact[~positive & (weight > 0)])
    match method:
        case "temperature":
            return Affine(scale=float(_newton(exact[:, None], positive, weight, np.ones(1))[0]))
        case "platt":
            columns = np.stack([exact, np.ones(len(exact))], axis=1)
            scale, shift = _newton(columns, positive, weight, np.array([1.0, 0.0]))
            return Affine(scale=float(scale), shift=float(shift))
        case "isotonic":
            return _isotonic(exact, positive, weight)
        case _:
            assert_never(method)


def unweighted_negatives(mean_weight: float) -> Affine:
    """p = q / (q + (1 - q) / w): the odds of a model whose negatives weighed `mean_weight` in training, times it.

    Exact where the weight does not depend on the row, and an average where it does; for a weight a row see
    `llm_rec.ctr.repeated_exposure.debiased`.

    >>> float(sigmoid(unweighted_negatives(0.25)(np.array([0.0])))[0])
    0.2
    """
    if not 0 < mean_weight < float("inf"):
        raise ValueError(f"mean_weight must be finite and above 0, got {mean_weight}")
    return Affine(scale=1.0, shift=float(np.log(mean_weight)))


def pooled(
    values: Float64[np.ndarray, "rows"], weights: Float64[np.ndarray, "rows"]
) -> tuple[Float64[np.ndarray, "blocks"], Float64[np.ndarray, "blocks"]]:
    """Weighted isotonic regression of `values` in their order: means and numbers of rows of its blocks.

    Every round pools each run of falling means at once; violators may be pooled in any order (Barlow et al., 1972), so
    a few rounds of whole arrays do what the usual stack does row by row.

    >>> pooled(np.array([1.0, 3.0, 2.0, 0.0, 5.0]), np.ones(5))
    (array([1.        , 1.66666667, 5.        ]), array([1., 3., 1.]))
    """
    means, mass, sizes = values.astype(np.float64), weights.astype(np.float64), np.ones(len(values))
    while True:
        starts = np.flatnonzero(np.r_[True, means[1:] >= means[:-1]])
        if len(starts) == len(means):
            return means, sizes
        total = np.add.reduceat(means * mass, starts)
        mass, sizes = np.add.reduceat(mass, starts), np.add.reduceat(sizes, starts)
        means = total / mass


def _isotonic(
    logits: Float64[np.ndarray, "rows"], positive: Bool[np.ndarray, "rows"], weight: Float64[np.ndarray, "rows"]
) -> Isotonic:
    kept = weight > 0
    scores, place = np.unique(logits[kept], return_inverse=True)  # rows of one score are one value
    mass = np.bincount(place, weight[kept])
    rates, sizes = pooled(np.bincount(place, (weight * positive)[kept]) / mass, mass)
    starts = scores[(np.cumsum(sizes) - sizes).astype(np.int64)]
    edge = 0.5 / kept.sum()
    inside = np.clip(rates, edge, 1 - edge)
    return Isotonic(starts=starts, values=np.log(inside / (1 - inside)))


def _newton(
    columns: Float64[np.ndarray, "rows weights"],
    positive: Bool[np.ndarray, "rows"],
    weight: Float64[np.ndarray, "rows"],
    start: Float64[np.ndarray, "weights"],
) -> Float64[np.ndarray, "weights"]:
    """Least weighted log loss of columns @ w, convex, by Newton steps that are halved until they gain."""

    def loss(found: np.ndarray) -> float:
        logits = columns @ found
        return float(weight @ np.logaddexp(0.0, np.where(positive, -logits, logits)) / weight.sum())

    found, value = start, loss(start)
    for _ in range(STEPS):
        chances = sigmoid(columns @ found)
        gradient = columns.T @ (weight * (chances - positive)) / weight.sum()
        hessian = (columns.T * (weight * chances * (1 - chances))) @ columns / weight.sum()
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        gain = float(gradient @ step)
        if gain <= TOLERANCE:
            return found
        for halvings in range(HALVINGS):
            moved = found - step / 2**halvings
            if loss(moved) <= value - 0.25 / 2**halvings * gain:
                found, value = moved, loss(moved)
                break
        else:
            return found
    return found


def _check_overlap(
    method: Method, clicked: Float64[np.ndarray, "clicked"], others: Float64[np.ndarray, "others"]
) -> None:
    if method == "temperature":
        apart = clicked.min() >= 0 >= others.max() or others.min() >= 0 >= clicked.max()
    else:
        apart = clicked.min() >= others.max() or others.min() >= clicked.max()
    if apart:
        raise DataError(
            f"the logits tell {len(clicked)} clicks from {len(others)} other rows without an error, so no {method} "
            "scale is the best; give more rows"
        )
