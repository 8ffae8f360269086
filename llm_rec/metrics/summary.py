"""From one number per target to a mean with its interval, per slice."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from llm_rec.metrics.significance import bootstrap_intervals


@dataclass(frozen=True, slots=True)
class SliceSummary:
    """How many targets a slice has, and per metric the mean and the ends of its bootstrap interval.

    An empty slice has count 0 and no metrics: there is nothing to average, and 0 would be a claim.
    """

    count: int
    mean: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]


def summarise(
    per_target: Mapping[str, Float64[np.ndarray, "targets"]],
    slices: Mapping[str, Bool[np.ndarray, "targets"]],
    *,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, SliceSummary]:
    """Mean of every metric on every slice with a percentile bootstrap interval over its targets.

    All metrics of a slice share the resamples, and a slice's interval depends on `seed` and its own targets alone.

    >>> summary = summarise({"mrr": np.array([1.0, 0.0])}, {"all": np.array([True, True])})["all"]
    >>> summary.count, summary.mean["mrr"]
    (2, 0.5)
    """
    table = np.stack([per_target[name] for name in per_target], axis=1)
    return {
        name: _summary(tuple(per_target), table[mask], samples=samples, level=level, seed=seed)
        for name, mask in slices.items()
    }


def _summary(
    metrics: tuple[str, ...],
    table: Float64[np.ndarray, "targets metrics"],
    *,
    samples: int,
    level: float,
    seed: int,
) -> SliceSummary:
    if not len(table):
        return SliceSummary(count=0, mean={}, low={}, high={})
    low, high = bootstrap_intervals(table, samples=samples, level=level, seed=seed)
    columns = (table.mean(axis=0), low, high)
    mean, lows, highs = ({metric: float(column[i]) for i, metric in enumerate(metrics)} for column in columns)
    return SliceSummary(count=len(table), mean=mean, low=lows, high=highs)
