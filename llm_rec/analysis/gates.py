"""What a gate between experts does, by the frequency bucket of the items it decides about."""

import numpy as np
from jaxtyping import Float, Float64, Int64


def gate_by_bucket(
    weights: Float[np.ndarray, "items experts"], buckets: Int64[np.ndarray, "items"], number: int
) -> Float64[np.ndarray, "number experts"]:
    """Mean gate weight of every expert over the items of each bucket 1..number; NaN for an empty bucket.

    >>> gate_by_bucket(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), np.array([1, 2, 2]), 2).tolist()
    [[1.0, 0.0], [0.25, 0.75]]
    """
    if buckets.size and not 1 <= buckets.min() <= buckets.max() <= number:
        raise ValueError(f"buckets must lie in 1..{number}, got values from {buckets.min()} to {buckets.max()}")
    counts = np.bincount(buckets, minlength=number + 1)[1:, None].astype(np.float64)
    sums = np.zeros((number, weights.shape[1]))
    np.add.at(sums, buckets - 1, weights.astype(np.float64))
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
