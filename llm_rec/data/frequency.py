"""How often items occur in the train part, cut into buckets (PAD, arXiv 2412.04107, section on the frequency gate)."""

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Int64

BucketMode = Literal["equal_mass", "equal_items", "log"]


@dataclass(frozen=True, eq=False)
class FrequencyBuckets:
    """`buckets[row]` is the bucket of an item row: 1 (most frequent) to `number` (rarest and unseen); 0 is padding.

    Items are sorted by train count, descending, ties by row, ascending; `boundaries` are the ranks where buckets start
    and end: bucket b holds the sorted items `boundaries[b - 1]` to `boundaries[b]`. Items without train events are in
    the last bucket, whatever the mode. A bucket may be empty: when there are more buckets than items with events, or
    (equal_mass) when a few items hold most of the events.
    """

    buckets: Int64[np.ndarray, "items_plus_one"]
    boundaries: Int64[np.ndarray, "number_plus_one"]

    @property
    def number(self) -> int:
        return len(self.boundaries) - 1

    @classmethod
    def fit(
        cls, train_counts: Int64[np.ndarray, "items_plus_one"], number: int = 10, mode: BucketMode = "equal_mass"
    ) -> "FrequencyBuckets":
        """Cut the catalog into `number` buckets by train counts (entry 0 of `train_counts` is padding).

        equal_mass: a bucket closes as soon as its own interactions reach total / number (the rule that reproduces
        the published boundaries of PAD; the last one takes what is left); equal_items: as many items each, counting
        only those with train events; log: equal steps of log(1 + count), the way to go when counts span decades.

        >>> FrequencyBuckets.fit(np.array([0, 1, 8, 1, 0, 4]), number=2).buckets.tolist()
        [0, 2, 1, 2, 2, 2]
        """
        if number < 1:
            raise ValueError(f"number of buckets must be at least 1, got {number}")
        counts = train_counts[1:]
        if counts.min(initial=0) < 0:
            raise ValueError(f"train counts must not be negative, got {int(counts.min())}")
        seen = int((counts > 0).sum())
        order = np.argsort(-counts, kind="stable")
        match mode:
            case "equal_mass":
                boundaries = _equal_mass(counts[order], number)
            case "equal_items":
                boundaries = np.linspace(0, seen, number + 1).round().astype(np.int64)
            case "log":
                steps = np.linspace(np.log1p(counts.max(initial=0)), 0, number + 1)[1:-1]
                inner = np.searchsorted(-np.log1p(counts[order]), -steps, side="right")
                boundaries = np.concatenate([[0], inner, [len(counts)]]).astype(np.int64)
            case _:
                assert_never(mode)
        boundaries = np.append(np.minimum(boundaries[:-1], seen), len(counts))
        buckets = np.zeros(len(train_counts), dtype=np.int64)
        buckets[1 + order] = 1 + np.repeat(np.arange(number), np.diff(boundaries))
        return cls(buckets=buckets, boundaries=boundaries)


def _equal_mass(sorted_counts: Int64[np.ndarray, "items"], number: int) -> Int64[np.ndarray, "number_plus_one"]:
    """Ranks where slices start and end; a slice closes when its own mass reaches total / number; the rest is last."""
    mass = np.cumsum(sorted_counts)
    total = int(mass[-1]) if len(mass) else 0
    boundaries = [0]
    for _ in range(number - 1):
        before = int(mass[boundaries[-1] - 1]) if boundaries[-1] else 0
        closes = int(np.searchsorted(mass, before + total / number, side="left")) + 1
        boundaries.append(min(closes, len(mass)))
    return np.array([*boundaries, len(mass)], dtype=np.int64)
