"""Raw columns -> ids or numbers. An encoder is fitted on training rows, chunk by chunk, and knows nothing of the rest.

A config says what an encoder is, `build_fitter` begins to fit it, `finish` gives the encoder (`ctr_models.encoders`),
and the encoder's `state` with the config gives it again through `restore`. What is fitted depends on the multiset of
values alone, not on their order or the chunks. Ids: 0 padding, 1 unknown, values from 2 (`ctr_models.schema`).

>>> fitter = build_fitter(VocabularyConfig(min_count=2))
>>> fitter.observe(np.array(["b", "a", "b"]))
>>> fitter.observe(np.array(["a", "b", "c"]))
>>> fitter.finish().transform(np.array(["a", "b", "c", "d"])).tolist()
[3, 2, 1, 1]
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias, assert_never, cast, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from ctr_models.encoders import (
    DenseVector,
    Encoder,
    HashBuckets,
    Keep,
    LogBins,
    MultiValues,
    Number,
    QuantileBins,
    State,
    Vocabulary,
    as_lists,
    as_raw,
    log_bin_texts,
    scaled,
    visible_cells,
)
from ctr_models.values import RawColumn, exact_sum, numbers_of, texts_of

_BITS = 16  # quantiles tell numbers apart to this many significant bits, which bounds what must be remembered


@dataclass(frozen=True, kw_only=True, slots=True)
class VocabularyConfig:
    """One id a value with at least `min_count` training rows; at most `max_size` values, the most frequent ones.

    Ids go by frequency, equal counts by value. Null is a value like any other. While it is fitted it remembers every
    distinct value; prefer `HashConfig` where those do not fit into memory.
    """

    min_count: int = 1
    max_size: int | None = None

    def __post_init__(self) -> None:
        _check_vocabulary(self.min_count, self.max_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class HashConfig:
    """`buckets` ids, a value's by its hash: nothing to fit, but values share ids. Prefer a vocabulary where it fits."""

    buckets: int
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("buckets", self.buckets, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantileConfig:
    """A number's id is its bin among `bins` of equal training frequency; equal numbers share a bin, so some may merge.

    Prefer it to `LogBinsConfig` for numbers whose scale means nothing. Numbers that agree to 16 significant bits count
    as one while the edges are found.
    """

    bins: int = 10

    def __post_init__(self) -> None:
        _at_least("bins", self.bins, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBinsConfig:
    """Criteo's bins of counts, floor(ln(v)**2) above 2 (arXiv 2310.04400), as a vocabulary; null is a value."""

    min_count: int = 1

    def __post_init__(self) -> None:
        _check_vocabulary(self.min_count, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberConfig:
    """A number as a number. `scale="standard"` makes training mean 0 and standard deviation 1; null becomes 0.

    `log` takes sign(x) log(1 + |x|) first, for counts and prices with a long tail.
    """

    scale: Literal["standard", "none"] = "standard"
    log: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiValueConfig:
    """Up to `length` ids of a list column, or of a text cut at `separator`; `keep` says which end of longer ones stays.

    The vocabulary is fitted on what stays. With length 1 the first (or last) piece of a text is a field of its own.
    """

    length: int
    separator: str | None = None
    keep: Keep = "first"
    min_count: int = 1
    max_size: int | None = None
    pooling: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        _at_least("length", self.length, 1)
        _check_vocabulary(self.min_count, self.max_size)
        if self.separator == "":
            raise ValueError("separator must not be empty; leave it out for a column of lists")


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseConfig:
    """A given vector of `width` numbers a row, from a column of lists."""

    width: int

    def __post_init__(self) -> None:
        _at_least("width", self.width, 1)


EncoderConfig: TypeAlias = (
    VocabularyConfig | HashConfig | QuantileConfig | LogBinsConfig | NumberConfig | MultiValueConfig | DenseConfig
)


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
    """See `VocabularyConfig`."""

    config: VocabularyConfig
    values: ValueCounts

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        self.values.add(texts_of(raw.values), raw.counts)

    def finish(self) -> Vocabulary:
        return self.values.vocabulary(self.config.min_count, self.config.max_size)


@dataclass(frozen=True, slots=True)
class LogBinsFitter:
    """See `LogBinsConfig`."""

    config: LogBinsConfig
    values: ValueCounts

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        self.values.add(log_bin_texts(numbers_of(raw.values)), raw.counts)

    def finish(self) -> LogBins:
        return LogBins(self.values.vocabulary(self.config.min_count, None))


@dataclass(frozen=True, slots=True)
class MultiValueFitter:
    """See `MultiValueConfig`."""

    config: MultiValueConfig
    values: ValueCounts

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw, rows = as_lists(as_raw(column), self.config.separator)
        visible, owners, _ = visible_cells(raw, self.config.length, self.config.keep)
        weights = np.ones(len(raw), np.int64) if rows is None else np.bincount(rows, minlength=len(raw))
        counts = np.bincount(raw.codes[visible], weights[owners[visible]], minlength=len(raw.values)).astype(np.int64)
        seen = counts > 0
        self.values.add(texts_of(raw.values[seen]), counts[seen])

    def finish(self) -> MultiValues:
        config = self.config
        vocabulary = self.values.vocabulary(config.min_count, config.max_size)
        return MultiValues(vocabulary, config.length, config.separator, config.keep, config.pooling)


class QuantileFitter:
    """See `QuantileConfig`. Remembers distinct numbers, at most 2**16 between a power of two and the next."""

    def __init__(self, config: QuantileConfig) -> None:
        self.config = config
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
        targets = ends[-1] * np.arange(1, self.config.bins) / self.config.bins
        starts = np.searchsorted(ends, targets, side="right")  # the first number with more than that many rows up to it
        edges = np.unique(self.numbers[np.minimum(starts, len(ends) - 1)])
        return QuantileBins(tuple(edges[edges > self.numbers[0]].tolist()))


class NumberFitter:
    """See `NumberConfig`. Sums are exact, so mean and deviation do not depend on the order of rows."""

    def __init__(self, config: NumberConfig) -> None:
        self.config = config
        self.rows = 0
        self.sum = self.squares = Fraction(0)

    def observe(self, column: RawColumn | np.ndarray) -> None:
        raw = as_raw(column)
        numbers, counts = scaled(numbers_of(raw.values), log=self.config.log), raw.counts
        real = ~np.isnan(numbers)
        numbers, counts = numbers[real], counts[real]
        self.rows += int(counts.sum())
        self.sum += exact_sum(numbers, counts)
        self.squares += exact_sum(numbers**2, counts)

    def finish(self) -> Number:
        if self.config.scale == "none" or not self.rows:
            return Number(0.0, 1.0, self.config.log)
        mean = self.sum / self.rows
        variance = float(self.squares / self.rows - mean**2)
        return Number(float(mean), variance**0.5 if variance > 0 else 1.0, self.config.log)


@dataclass(frozen=True, slots=True)
class NothingToFit:
    """For encoders that are what their config says."""

    encoder: HashBuckets | DenseVector

    def observe(self, column: RawColumn | np.ndarray) -> None:
        """Look away."""

    def finish(self) -> HashBuckets | DenseVector:
        return self.encoder


def build_fitter(config: EncoderConfig, shared: ValueCounts | None = None) -> Fitter:
    """The fitter of a config. `shared` counts make one vocabulary of several columns (fields that share a table)."""
    values = ValueCounts() if shared is None else shared
    match config:
        case VocabularyConfig():
            return VocabularyFitter(config, values)
        case LogBinsConfig():
            return LogBinsFitter(config, values)
        case MultiValueConfig():
            return MultiValueFitter(config, values)
        case QuantileConfig():
            return QuantileFitter(config)
        case NumberConfig():
            return NumberFitter(config)
        case HashConfig():
            return NothingToFit(HashBuckets(config.buckets, config.seed))
        case DenseConfig():
            return NothingToFit(DenseVector(config.width))
        case _:
            assert_never(config)


def restore(config: EncoderConfig, state: State) -> Encoder:
    """The encoder that had this `state` under this config."""
    match config:
        case VocabularyConfig():
            return _vocabulary(state)
        case LogBinsConfig():
            return LogBins(_vocabulary(state))
        case MultiValueConfig():
            return MultiValues(_vocabulary(state), config.length, config.separator, config.keep, config.pooling)
        case QuantileConfig():
            return QuantileBins(tuple(cast(list[float], state["edges"])))
        case NumberConfig():
            return Number(cast(float, state["mean"]), cast(float, state["std"]), config.log)
        case HashConfig():
            return HashBuckets(config.buckets, config.seed)
        case DenseConfig():
            return DenseVector(config.width)
        case _:
            assert_never(config)


def _vocabulary(state: State) -> Vocabulary:
    return Vocabulary(tuple(cast(list[str | None], state["values"])))


def _rounded(numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
    mantissas, exponents = np.frexp(numbers)
    rounded: np.ndarray = np.ldexp(np.rint(np.ldexp(mantissas, _BITS)), exponents - _BITS)
    return rounded


def _check_vocabulary(min_count: int, max_size: int | None) -> None:
    _at_least("min_count", min_count, 1)
    if max_size is not None:
        _at_least("max_size", max_size, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
