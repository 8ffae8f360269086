"""Repeated-exposure weights: negatives count less the more often their user has met the item (arXiv 2403.00793).

The paper names the technique, a loss weight for repeated ads whose bias is then corrected; formula and correction are
our proposal:

    w(n) = max(least, decay^(n - 1))          on negatives of the n-th exposure of (user, item); positives have 1
    p = q / (q + (1 - q) / w_mean)            what a model trained so, which says q, says of the click rate

A negative of weight w counts as w of a negative, so odds come out 1 / w times too high. One `w_mean`, the mean weight
of negatives, is exact where weights do not depend on what the model sees; elsewhere it corrects the mean, and
`DebiasedCalibration` says how well. A row whose exposure number the model sees may be corrected by its own w(n).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int64

from ctr_models.schema import UNKNOWN, Schema
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter
from llm_rec.data.log_spec import PARTS, Part
from llm_rec.errors import ConfigError, DataError
from llm_rec.metrics.calibration import Calibration, calibration, equal_frequency_buckets
from semantic_ids.keys import ranks_in_groups

WEIGHT = "repeated_exposure"
_ROWS = 1 << 18  # rows copied at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatedExposureConfig:
    """`decay` is lambda, `least` the smallest weight; `user` and `item` name the fields whose pairs are counted.

    Exposures are counted by ids: rows whose user or item is unknown (too rare for an id) keep weight 1, as they cannot
    be told apart; values that share a hash bucket are counted as one.
    """

    decay: float = 0.8
    least: float = 0.1
    user: str = "user"
    item: str = "item"

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1:
            raise ConfigError(f"decay must be above 0 and at most 1, got {self.decay}")
        if not 0 <= self.least <= 1:
            raise ConfigError(f"least must lie in 0..1, got {self.least}")


class ExposureCounter:
    """Numbers the exposures of pairs, chunk by chunk: the result does not depend on how rows are cut.

    >>> counter = ExposureCounter()
    >>> counter.update(np.array([1, 1, 2]), np.array([5, 5, 5])).tolist()
    [1, 2, 1]
    >>> counter.update(np.array([2, 1]), np.array([5, 5])).tolist()
    [2, 3]
    """

    def __init__(self) -> None:
        self._pairs = np.zeros((0, 2), dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)

    def update(self, users: Int[np.ndarray, "rows"], items: Int[np.ndarray, "rows"]) -> Int64[np.ndarray, "rows"]:
        """The number of each row's exposure, from 1, in the order of the rows."""
        rows = np.stack([users, items], axis=1).astype(np.int64)
        known = len(self._pairs)
        pairs, owners = np.unique(np.concatenate([self._pairs, rows]), axis=0, return_inverse=True)
        owners = owners.ravel()
        before = np.zeros(len(pairs), dtype=np.int64)
        before[owners[:known]] = self._counts
        own = owners[known:]
        self._pairs, self._counts = pairs, before + np.bincount(own, minlength=len(pairs))
        numbers: np.ndarray = before[own] + ranks_in_groups(own) + 1
        return numbers


def exposure_weights(
    numbers: Int[np.ndarray, "rows"], labels: Float[np.ndarray, "rows"], config: RepeatedExposureConfig
) -> Float32[np.ndarray, "rows"]:
    """w(n) of negatives (labels below 0.5), 1 of positives.

    >>> exposure_weights(np.array([1, 2, 3, 3]), np.array([0.0, 0, 0, 1]), RepeatedExposureConfig(decay=0.5, least=0.3))
    array([1. , 0.5, 0.3, 1. ], dtype=float32)
    """
    weights = np.maximum(config.least, config.decay ** (numbers.astype(np.float64) - 1))
    return np.where(labels >= 0.5, 1.0, weights).astype(np.float32)


def weigh_exposures(
    log: ClickLog, path: Path | str, config: RepeatedExposureConfig, *, overwrite: bool = False
) -> ClickLog:
    """Write `log` with a weight for every row as the click log `path`; its train rows must be in order of time.

    Train rows are counted as they come and have w(n); rows that are not trained on have 1. `DataError` when the log has
    weights already, or lacks one of the fields.
    """
    columns = [_column(log.schema, name, log.path) for name in (config.user, config.item)]
    if log.schema.weight is not None:
        raise DataError(f"{log.path} has the weights {log.schema.weight!r} already; weigh the log without them")
    name = fingerprint(KIND, log.fingerprint, {"repeated_exposure": to_plain(config)})
    details: dict[str, Plain] = {"log": log.fingerprint, "repeated_exposure": to_plain(config)}
    schema = replace(log.schema, weight=WEIGHT)
    with write_artifact(Path(path), kind=KIND, fingerprint=name, details=details, overwrite=overwrite) as folder:
        parts: list[Part] = [part for part in PARTS if part in log.rows]
        with ClickWriter(folder, schema, log.columns, {p: log.rows[p] for p in parts}, events=log.events) as writer:
            for part in parts:
                for chunk in _weighted(log.part(part), columns, config, counted=part == "train"):
                    writer.append(part, chunk)
        details.update(writer.details())
    return ClickLog.load(path)


def mean_negative_weight(columns: ClickColumns) -> float:
    """The mean weight of rows whose first label is below 0.5: `w_mean` of `debiased`. `DataError` without any."""
    if columns.weights is None:
        return 1.0
    negatives = np.asarray(columns.weights)[np.asarray(columns.labels[:, 0]) < 0.5]
    if not len(negatives):
        raise DataError("there is no negative among these rows, so none has a weight; take the train rows")
    return float(negatives.mean(dtype=np.float64))


def debiased(
    probabilities: Float[np.ndarray, "rows"], weight: float | Float[np.ndarray, "rows"]
) -> Float64[np.ndarray, "rows"]:
    """p = q / (q + (1 - q) / w): click rates from what a model says that was trained with negatives of weight `weight`.

    >>> debiased(np.array([0.0, 0.5, 1.0]), 0.25).tolist()
    [0.0, 0.2, 1.0]
    """
    if np.any(np.asarray(weight) <= 0):
        raise ValueError(f"the weight of negatives must be above 0, got {np.min(weight)}; raise least")
    q = probabilities.astype(np.float64)
    corrected: np.ndarray = weight * q / (weight * q + (1 - q))
    return corrected


@dataclass(frozen=True, eq=False)
class DebiasedCalibration:
    """Calibration of a model trained with weights, as it speaks and corrected, in buckets of the same rows."""

    before: Calibration
    after: Calibration

    @classmethod
    def of(
        cls,
        probabilities: Float[np.ndarray, "rows"],
        labels: Float[np.ndarray, "rows"],
        weight: float | Float[np.ndarray, "rows"],
        *,
        num_buckets: int = 45,
    ) -> "DebiasedCalibration":
        """ECE and predicted over actual (PCOC) before and after `debiased`."""
        buckets = equal_frequency_buckets(probabilities, num_buckets)
        after = calibration(debiased(probabilities, weight), labels, buckets)
        return cls(calibration(probabilities, labels, buckets), after)


def _weighted(
    columns: ClickColumns, places: list[int], config: RepeatedExposureConfig, *, counted: bool
) -> Iterator[ClickColumns]:
    counter = ExposureCounter()
    for start in range(0, len(columns), _ROWS):
        chunk = columns.select(slice(start, start + _ROWS))
        weights = np.ones(len(chunk), dtype=np.float32)
        if counted:
            users, items = (np.asarray(chunk.ids[:, place]) for place in places)
            known = (users > UNKNOWN) & (items > UNKNOWN)
            numbers = counter.update(users[known], items[known])
            weights[known] = exposure_weights(numbers, np.asarray(chunk.labels[known, 0]), config)
        yield replace(chunk, weights=weights)


def _column(schema: Schema, name: str, path: Path) -> int:
    place = schema.id_columns.get(name)
    if place is None or place.stop - place.start != 1:
        raise DataError(f"{path} has no field {name!r} with one id a row to count exposures by")
    column: int = place.start
    return column
