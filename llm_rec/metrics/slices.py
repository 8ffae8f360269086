"""Slices of targets by how often the target item occurs in the train part: what "cold" and "warm" mean, in numbers."""

import numpy as np
from jaxtyping import Bool, Int64

from llm_rec.data.frequency import FrequencyBuckets

WARM_FROM = 10  # train events from which an item counts as warm


def target_slices(
    targets: Int64[np.ndarray, "targets"],
    train_counts: Int64[np.ndarray, "items_plus_one"],
    buckets: FrequencyBuckets | None = None,
) -> dict[str, Bool[np.ndarray, "targets"]]:
    """Masks over targets (item rows), by the train events of the target item; they overlap on purpose.

    all; unseen (0 events); 1-4; lt5 and lt10 (below 5 and 10, unseen included); warm (10 and more); and bucket_1
    (most frequent) to bucket_n of `buckets`.

    >>> slices = target_slices(np.array([1, 2, 3]), np.array([0, 0, 4, 12]))
    >>> {name: mask.tolist() for name, mask in slices.items() if name in ("unseen", "lt5", "warm")}
    {'unseen': [True, False, False], 'lt5': [True, True, False], 'warm': [False, False, True]}
    """
    if targets.size and not 1 <= targets.min() <= targets.max() < len(train_counts):
        raise ValueError(
            f"targets are item rows 1..{len(train_counts) - 1}, got values from {targets.min()} to {targets.max()}"
        )
    events = train_counts[targets]
    slices = {
        "all": np.ones(len(targets), dtype=bool),
        "unseen": events == 0,
        "1-4": (events >= 1) & (events <= 4),
        "lt5": events < 5,
        "lt10": events < WARM_FROM,
        "warm": events >= WARM_FROM,
    }
    if buckets is not None:
        own = buckets.buckets[targets]
        slices |= {f"bucket_{number}": own == number for number in range(1, buckets.number + 1)}
    return slices
