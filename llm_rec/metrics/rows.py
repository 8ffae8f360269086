"""Rows of a click log as metrics take them, checked once."""

import numpy as np
from jaxtyping import Bool, Float, Float64, Num

from llm_rec.errors import DataError


def checked_rows(
    values: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "labels"] | Bool[np.ndarray, "labels"],
    weights: Float[np.ndarray, "weights"] | None,
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
