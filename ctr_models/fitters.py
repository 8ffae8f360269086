"""What remembers training values until an encoder can be made of them. `ctr_models.encode` builds these."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol, assert_never, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from ctr_models.encoders import (
    DenseVector,
    Encoder,
    HashBuckets,
    LogBins,
    MultiValues,
    Number,
    QuantileBins,
    Vocabulary,
    as_lists,
    log_bin_texts,
    scaled,
    visible_cells,
)
from ctr_models.integers import (
    CosineScale,
    Integers,
    LogScale,
    NumeralsConfig,
    QuantileScale,
    WholeScale,
    check_whole,
)
from ctr_models.values import RawColumn, as_raw, exact_sum, numbers_of, texts_of

_BITS = 16  # quantiles tell numbers apart to this many significant bits


@runtime_checkable
class Fitter(Protocol):
    """Sees training rows chunk by chunk, then gives the encoder."""

    def observe(self, column: RawColumn | np.ndarray) -> None: ...

    def finish(self) -> Encoder: ...


class ValueCounts:
    """Counts of texts. Columns whose fields share a table feed one."""

    def __init__(self) -> None:
        self.counts: dict[str | None, int] = {}

    def add(self, texts: list[str | None], counts: Int64[np.ndarray, "values"]) -> None:
        """Add `counts` rows of each value."""
        for text, count in zip(texts, counts.tolist(), strict=True):
            self.counts[text] = self.counts.get(text, 0) + count

    def vocabulary(self, min_count: int, max_size: int | None) -> Vocabulary:
        """Values by falling count, then null, then by text."""
        kept = [(-count, text is not None, text or "") for text, count in self.counts.items() if count >= min_count]
        kept.sort()
        return Vocabulary(tuple(text if real else None for _, real, text in kept[:max_size]))


@dataclass(frozen=True, slots=True)
class VocabularyFitter:
    """Counts texts."""

    values: ValueCounts
    min_count: int
    max_size: int | None

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        self.values.add(texts_of(raw.values), raw.counts)

    def finish(self) -> Vocabulary:
        return self.values.vocabulary(self.min_count, self.max_size)


@dataclass(frozen=True, slots=True)
class LogBinsFitter:
    """Counts log bins."""

    values: ValueCounts
    min_count: int

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        self.values.add(log_bin_texts(numbers_of(raw.values)), raw.counts)

    def finish(self) -> LogBins:
        return LogBins(self.values.vocabulary(self.min_count, None))


@dataclass(frozen=True, slots=True)
class MultiValueFitter:
    """Counts the values of lists that their rows keep. `layout` is the encoder without its vocabulary."""

    values: ValueCounts
    min_count: int
    max_size: int | None
    layout: MultiValues

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw, rows = as_lists(as_raw(column), self.layout.separator)
        visible, owners, _ = visible_cells(raw, self.layout.length, self.layout.keep)
        weights = np.ones(len(raw), np.int64) if rows is None else np.bincount(rows, minlength=len(raw))
        counts = np.bincount(raw.codes[visible], weights[owners[visible]], minlength=len(raw.values)).astype(np.int64)
        seen = counts > 0
        self.values.add(texts_of(raw.values[seen]), counts[seen])

    def finish(self) -> MultiValues:
        return replace(self.layout, vocabulary=self.values.vocabulary(self.min_count, self.max_size))


class QuantileFitter:
    """Counts distinct numbers, which are at most 2**16 between a power of two and the next: that bounds its memory."""

    def __init__(self, bins: int) -> None:
        self.bins = bins
        self.numbers: Float64[np.ndarray, values] = np.zeros(0)
        self.counts: Int64[np.ndarray, values] = np.zeros(0, dtype=np.int64)

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        numbers = _rounded(numbers_of(raw.values))
        real = ~np.isnan(numbers)
        both = np.concatenate([self.numbers, numbers[real]])
        counts = np.concatenate([self.counts, raw.counts[real]])
        self.numbers, owners = np.unique(both, return_inverse=True)
        self.counts = np.zeros(len(self.numbers), dtype=np.int64)
        np.add.at(self.counts, owners, counts)

    def finish(self) -> QuantileBins:
        """Inner edges: the numbers at which 1/bins, 2/bins, ... of the rows are passed."""
        if not len(self.numbers):
            return QuantileBins(())
        ends = np.cumsum(self.counts)
        targets = ends[-1] * np.arange(1, self.bins) / self.bins
        starts = np.searchsorted(ends, targets, side="right")  # the first number with more than that many rows up to it
        edges = np.unique(self.numbers[np.minimum(starts, len(ends) - 1)])
        return QuantileBins(tuple(edges[edges > self.numbers[0]].tolist()))


class NumberFitter:
    """Sums numbers and their squares exactly, so that mean and deviation do not depend on the order of rows.

    `layout` is the encoder without its mean and deviation.
    """

    def __init__(self, *, standard: bool, log: bool, layout: Number | None = None) -> None:
        self.standard = standard
        self.log = log
        self.layout = layout or Number(0.0, 1.0, log)
        self.rows = 0
        self.sum = self.squares = Fraction(0)

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        numbers, counts = scaled(numbers_of(raw.values), log=self.log), raw.counts
        real = ~np.isnan(numbers)
        numbers, counts = numbers[real], counts[real]
        self.rows += int(counts.sum())
        self.sum += exact_sum(numbers, counts)
        self.squares += exact_sum(numbers**2, counts)

    def finish(self) -> Number:
        if not self.standard or not self.rows:
            return self.layout
        mean = self.sum / self.rows
        variance = float(self.squares / self.rows - mean**2)
        return replace(self.layout, mean=float(mean), std=variance**0.5 if variance > 0 else 1.0)


class NumeralsFitter:
    """Numbers -> integers: quantile edges, or the range of the numbers, as the config's scale asks."""

    def __init__(self, config: NumeralsConfig) -> None:
        self.config = config
        self.quantiles = QuantileFitter(config.most_levels)
        self.low, self.high = float("inf"), float("-inf")

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        numbers = numbers_of(raw.values)
        if self.config.scale == "quantile":
            self.quantiles.observe(raw)
        if self.config.scale == "whole":
            check_whole(numbers)
        real = numbers[~np.isnan(numbers)]
        self.low, self.high = min(self.low, real.min(initial=np.inf)), max(self.high, real.max(initial=-np.inf))

    def finish(self) -> Integers:
        config, seen = self.config, self.low <= self.high
        low, high = (float(self.low), float(self.high)) if seen else (0.0, 0.0)
        match config.scale:
            case "quantile":
                return Integers.of(config, QuantileScale(self.quantiles.finish().edges))
            case "log":
                return Integers.of(config, LogScale(low, high, config.most_levels))
            case "whole":
                return Integers.of(config, WholeScale(config.levels or int(max(high, 0.0)) + 1))
            case "cosine":
                return Integers.of(config, CosineScale(config.most_levels))
            case _:
                assert_never(config.scale)


@dataclass(frozen=True, slots=True)
class NothingToFit:
    """For encoders that are what their config says."""

    encoder: HashBuckets | DenseVector

    def observe(self, column: RawColumn | np.ndarray) -> None:
        """Look away."""

    def finish(self) -> HashBuckets | DenseVector:
        return self.encoder


def _rounded(numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
    mantissas, exponents = np.frexp(numbers)
    rounded: np.ndarray = np.ldexp(np.rint(np.ldexp(mantissas, _BITS)), exponents - _BITS)
    return rounded
