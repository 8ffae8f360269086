"""Figures of clicks by domain or by task, and what they come to: mean, mean by rows, worst, and pooled.

AUC over the pooled rows of several domains mixes their base rates: a model that knows nothing but the domain of a row
ranks well there, and by chance within every domain. So pooled figures are named as such, and never stand alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int64, Num

from llm_rec.metrics.classification import ClickMetrics, GroupWeight, metrics_by_slice
from llm_rec.metrics.click_intervals import figures
from llm_rec.metrics.summary import SliceSummary

Unit = Literal["domain", "task"]
POOLED, MACRO, WEIGHTED, WORST = "pooled", "macro", "weighted", "worst"
MEANT = ("auc", "gauc", "log_loss", "ece")  # predicted over actual is best at 1: its mean hides what it should show
_LARGER_IS_WORSE = ("log_loss", "ece")


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainMetrics:
    """`by_domain` has the domains with rows. A mean or worst figure is over the domains that have the figure.

    `weighted` weighs domains by their rows. `worst` is the smallest AUC or GAUC, the largest log loss or ECE.
    """

    by_domain: dict[str, ClickMetrics]
    macro: dict[str, float]
    weighted: dict[str, float]
    worst: dict[str, float]
    pooled: ClickMetrics


def domain_metrics(
    logits: Float[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"] | Bool[np.ndarray, "rows"],
    domains: Int64[np.ndarray, "rows"],
    names: Sequence[str],
    *,
    groups: Int64[np.ndarray, "rows"] | None = None,
    num_buckets: int = 45,
    group_weight: GroupWeight = "rows",
) -> DomainMetrics:
    """All figures of rows whose domains are numbers 0..len(names) - 1.

    Two domains with base rates of 1/5 and 4/5; the score is the domain:

    >>> domains = np.repeat([0, 1], 5)
    >>> labels = np.array([1, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    >>> found = domain_metrics(domains * 1.0, labels, domains, ["a", "b"])
    >>> found.macro["auc"], found.worst["auc"], round(found.pooled.auc, 2)
    (0.5, 0.5, 0.8)
    """
    masks = {POOLED: np.ones(len(labels), dtype=bool), **domain_slices(domains, names)}
    found = metrics_by_slice(logits, labels, masks, groups=groups, num_buckets=num_buckets, group_weight=group_weight)
    pooled = found.pop(POOLED)
    by_domain = {name: found[key] for key, name in zip(slice_names(names), names, strict=True) if key in found}
    values = [figures(metrics) for metrics in by_domain.values()]
    rows = [metrics.rows for metrics in by_domain.values()]
    means = _means(values, rows)
    return DomainMetrics(
        by_domain=by_domain, macro=means[MACRO], weighted=means[WEIGHTED], worst=means[WORST], pooled=pooled
    )


def slice_names(names: Sequence[str], unit: Unit = "domain") -> list[str]:
    """Names of the slices of domains or tasks in reports.

    >>> slice_names(["1", "home page"])
    ['domain_1', 'domain_home page']
    """
    return [f"{unit}_{name}" for name in names]


def domain_slices(
    domains: Int64[np.ndarray, "rows"], names: Sequence[str], unit: Unit = "domain"
) -> dict[str, Bool[np.ndarray, "rows"]]:
    """A mask a domain. `ValueError` for a number that no name stands for."""
    if domains.size and not 0 <= domains.min() <= domains.max() < len(names):
        raise ValueError(f"domains are 0..{len(names) - 1}, got values from {domains.min()} to {domains.max()}")
    return {name: domains == place for place, name in enumerate(slice_names(names, unit))}


def is_domain_slice(name: str) -> bool:
    """Whether a slice of a report is a domain or a task."""
    return name.startswith(("domain_", "task_"))


def with_means(summaries: Mapping[str, SliceSummary]) -> dict[str, SliceSummary]:
    """Summaries by slice with those of the means over domains or tasks added; means have no intervals."""
    found = [summary for name, summary in summaries.items() if is_domain_slice(name) and summary.count]
    if not found:
        return dict(summaries)
    rows = [summary.count for summary in found]
    means = _means([summary.mean for summary in found], rows)
    added = {
        name: SliceSummary(count=sum(rows), mean=values, low={}, high={}) for name, values in means.items() if values
    }
    return {**summaries, **added}


def _means(values: Sequence[Mapping[str, float]], rows: Sequence[int]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {MACRO: {}, WEIGHTED: {}, WORST: {}}
    for metric in MEANT:
        there = [(value[metric], weight) for value, weight in zip(values, rows, strict=True) if metric in value]
        if there:
            numbers, weights = (np.array(column, dtype=np.float64) for column in zip(*there, strict=True))
            found[MACRO][metric] = float(numbers.mean())
            found[WEIGHTED][metric] = float(np.average(numbers, weights=weights))
            found[WORST][metric] = float(numbers.max() if metric in _LARGER_IS_WORSE else numbers.min())
    return found
