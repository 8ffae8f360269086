"""Whether predicted probabilities are true: expected calibration error, and bias by bucket of the prediction."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Num

from llm_rec.errors import DataError
from llm_rec.metrics.rows import checked_rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Predictions beside labels, overall and per bucket; an empty bucket is NaN."""

    ece: float  # sum over buckets of (weight share) * |mean prediction - mean label|
    predicted_over_actual: float  # mean prediction / mean label: 1 is right on average; NaN without positives
    weight: Float64[np.ndarray, "buckets"]
    mean_prediction: Float64[np.ndarray, "buckets"]
    mean_label: Float64[np.ndarray, "buckets"]
    bias: Float64[np.ndarray, "buckets"]  # sum w (p - y) / sum w y; NaN for a bucket without positives


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
    positive, weight = checked_rows(probabilities, labels, weights)
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


def sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """1 / (1 + exp(-x)) without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits.astype(np.float64)))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


def _check_number(number: int) -> None:
    if number < 1:
        raise ValueError(f"number of buckets must be at least 1, got {number}")
