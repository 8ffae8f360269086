"""How sure figures of click scores are: bootstrap intervals over groups or rows, and paired tests of two models.

AUC is no mean of rows, so whole samples are drawn again: a resample gives every group (a user, with all its rows) or,
without groups, every row the number of times it was drawn, and all figures are taken anew under these weights. Rows of
a user depend on each other; an interval over rows is then too narrow.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Num

from llm_rec.errors import DataError
from llm_rec.metrics.calibration import equal_frequency_buckets, sigmoid
from llm_rec.metrics.classification import ClickMetrics, metrics_by_slice, starts_of, won_pairs
from llm_rec.metrics.significance import Difference, holm
from llm_rec.metrics.summary import SliceSummary

METRICS = ("auc", "gauc", "log_loss", "ece", "predicted_over_actual")
Groups = Int64[np.ndarray, "rows"] | None


def figures(found: ClickMetrics) -> dict[str, float]:
    """Metrics by name; those that do not exist (an AUC of one class) are left out."""
    values = {
        "auc": found.auc,
        "gauc": None if found.gauc is None else found.gauc.value,
        "log_loss": found.log_loss,
        "ece": found.ece,
        "predicted_over_actual": found.predicted_over_actual,
    }
    return {name: value for name, value in values.items() if value is not None and np.isfinite(value)}


def summarise_clicks(
    logits: Float64[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"],
    slices: Mapping[str, Bool[np.ndarray, "rows"]],
    groups: Groups = None,
    *,
    num_buckets: int = 45,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, SliceSummary]:
    """Figures of every slice with percentile intervals; `count` is its rows. An empty slice has count 0 and no figures.

    An interval is left out where a figure is: resamples without a class count as no resample. ECE has none: it is a
    sum of absolute values, larger on nearly every resample than on the rows themselves.
    """
    found = metrics_by_slice(logits, labels, slices, groups=groups, num_buckets=num_buckets)
    summaries = {}
    for name, mask in slices.items():
        if name not in found:
            summaries[name] = SliceSummary(count=0, mean={}, low={}, high={})
            continue
        mean = figures(found[name])
        inside = None if groups is None else groups[mask]
        rows = _Ordered.of(logits[mask], labels[mask], inside, num_buckets)
        sure = [metric for metric in mean if metric != "ece"]
        drawn = _table(rows, sure, weights_of(int(mask.sum()), inside, samples, seed))
        columns = [dict(zip(sure, ends.tolist(), strict=True)) for ends in _ends(drawn, level)]
        summaries[name] = SliceSummary(count=len(rows.labels), mean=mean, low=columns[0], high=columns[1])
    return summaries


def compare_clicks(
    logits_a: Float64[np.ndarray, "rows"],
    logits_b: Float64[np.ndarray, "others"],
    labels: Num[np.ndarray, "rows"],
    slices: Mapping[str, Bool[np.ndarray, "rows"]],
    groups: Groups = None,
    *,
    metrics: Sequence[str] = ("auc", "log_loss"),
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Paired bootstrap of b - a on the same rows: both models are judged on every resample.

    The two-sided p-value is twice the smaller share of resamples on either side of no difference, with one resample
    added to each, so that it is never 0; Holm's correction covers all tests of the call. These are two trained models:
    the test says nothing of other seeds. Raises `DataError` when the runs have different numbers of rows.
    """
    if len(logits_a) != len(logits_b):
        raise DataError(
            f"run a has {len(logits_a)} rows and run b has {len(logits_b)}; a paired test needs the same rows for both"
        )
    drafts: list[Difference] = []
    for name, mask in slices.items():
        if mask.any():
            inside = None if groups is None else groups[mask]
            drafts += _compare(
                name, logits_a[mask], logits_b[mask], labels[mask], inside, metrics, samples, level, seed
            )
    corrected = holm([draft.p_value for draft in drafts])
    return [replace(draft, p_holm=p) for draft, p in zip(drafts, corrected, strict=True)]


def weights_of(rows: int, groups: Groups, samples: int, seed: int) -> Iterator[Float64[np.ndarray, "rows"]]:
    """How often each row is drawn, one resample at a time: with its group where there are groups."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    rng = np.random.default_rng(seed)
    owner = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    number = int(owner.max(initial=-1)) + 1
    for _ in range(samples):
        yield np.bincount(rng.integers(0, number, number), minlength=number).astype(np.float64)[owner]


@dataclass(frozen=True, eq=False)
class _Ordered:
    """Rows sorted once, so that a resample costs a few passes and no sort."""

    labels: Bool[np.ndarray, "rows"]
    scores: Float64[np.ndarray, "rows"]
    loss: Float64[np.ndarray, "rows"]
    predicted: Float64[np.ndarray, "rows"]
    buckets: Int64[np.ndarray, "rows"]
    by_score: Int64[np.ndarray, "rows"]
    by_group: Int64[np.ndarray, "rows"] | None
    starts: Int64[np.ndarray, "groups"]

    @classmethod
    def of(
        cls, logits: Float[np.ndarray, "rows"], labels: Num[np.ndarray, "rows"], groups: Groups, num_buckets: int
    ) -> "_Ordered":
        scores, positive = logits.astype(np.float64), labels.astype(bool)
        order = np.argsort(scores, kind="stable")
        by_group = None if groups is None else order[np.argsort(groups[order], kind="stable")]
        return cls(
            labels=positive,
            scores=scores,
            loss=np.logaddexp(0.0, np.where(positive, -1.0, 1.0) * scores),
            predicted=sigmoid(scores),
            buckets=equal_frequency_buckets(scores, num_buckets),
            by_score=order,
            by_group=by_group,
            starts=np.zeros(1, dtype=np.int64) if groups is None or by_group is None else starts_of(groups[by_group]),
        )

    def figure(self, metric: str, weight: Float64[np.ndarray, "rows"]) -> float:
        """NaN where it does not exist."""
        match metric:
            case "auc":
                return self._auc(self.by_score, np.zeros(1, dtype=np.int64), weight)
            case "gauc":
                return np.nan if self.by_group is None else self._auc(self.by_group, self.starts, weight)
            case "log_loss":
                return float(weight @ self.loss / weight.sum())
            case "ece":
                return float(np.abs(np.bincount(self.buckets, weight * self._excess)).sum() / weight.sum())
            case "predicted_over_actual":
                clicks = weight @ self.labels
                return float(weight @ self.predicted / clicks) if clicks > 0 else np.nan
            case _:
                raise ValueError(f"{metric!r} is not one of {', '.join(METRICS)}")

    @property
    def _excess(self) -> Float64[np.ndarray, "rows"]:
        excess: np.ndarray = self.predicted - self.labels
        return excess

    def _auc(
        self, order: Int64[np.ndarray, "rows"], starts: Int64[np.ndarray, "groups"], weight: Float64[np.ndarray, "rows"]
    ) -> float:
        won, up, down = won_pairs(self.scores[order], self.labels[order], weight[order], starts)
        mixed = (up > 0) & (down > 0)
        share = (up + down)[mixed]
        return float((share * won[mixed] / (up * down)[mixed]).sum() / share.sum()) if mixed.any() else np.nan


def _compare(
    name: str,
    a: Float64[np.ndarray, "rows"],
    b: Float64[np.ndarray, "rows"],
    labels: Num[np.ndarray, "rows"],
    groups: Groups,
    metrics: Sequence[str],
    samples: int,
    level: float,
    seed: int,
) -> list[Difference]:
    first, second = (_Ordered.of(logits, labels, groups, 1) for logits in (a, b))
    whole = np.ones(len(labels))
    tested = [metric for metric in metrics if np.isfinite(first.figure(metric, whole))]
    drawn = np.array(
        [
            [second.figure(metric, weight) - first.figure(metric, weight) for metric in tested]
            for weight in weights_of(len(labels), groups, samples, seed)
        ]
    ).reshape(samples, len(tested))
    low, high = _ends(drawn, level)
    found = []
    for i, metric in enumerate(tested):
        means = first.figure(metric, whole), second.figure(metric, whole)
        real = drawn[:, i][np.isfinite(drawn[:, i])]
        sides = (1 + (real <= 0).sum()) / (1 + len(real)), (1 + (real >= 0).sum()) / (1 + len(real))
        p_value = min(1.0, 2 * float(min(sides)))
        found.append(
            Difference(
                slice=name,
                metric=metric,
                count=len(labels),
                mean_a=means[0],
                mean_b=means[1],
                difference=means[1] - means[0],
                low=float(low[i]),
                high=float(high[i]),
                p_value=p_value,
                p_holm=p_value,
            )
        )
    return found


def _table(
    rows: _Ordered, metrics: Sequence[str], weights: Iterator[Float64[np.ndarray, "rows"]]
) -> Float64[np.ndarray, "samples metrics"]:
    return np.array([[rows.figure(metric, weight) for metric in metrics] for weight in weights])


def _ends(
    drawn: Float64[np.ndarray, "samples metrics"], level: float
) -> tuple[Float64[np.ndarray, "metrics"], Float64[np.ndarray, "metrics"]]:
    """Percentiles over the resamples that have the figure; a figure that no resample has gets an empty interval."""
    tail = (1 - level) / 2
    finite = np.isfinite(drawn)
    filled = np.where(finite.any(0), drawn, 0.0)
    low, high = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    return low, high
