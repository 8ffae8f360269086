"""Raw columns -> ids or numbers. An encoder is fitted on training rows, chunk by chunk, and knows nothing of the rest.

A config says what an encoder is, `build_fitter` begins to fit it, `finish` gives the encoder (`ctr_models.encoders`),
and the encoder's `state` with the config gives it again through `restore`. What is fitted depends on the multiset of
values alone, not on their order or the chunks. Ids: 0 padding, 1 unknown, values from 2 (`ctr_models.schema`).

>>> import numpy as np
>>> fitter = build_fitter(VocabularyConfig(min_count=2))
>>> fitter.observe(np.array(["b", "a", "b"]))
>>> fitter.observe(np.array(["a", "b", "c"]))
>>> fitter.finish().transform(np.array(["a", "b", "c", "d"])).tolist()
[3, 2, 1, 1]
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never, cast

from ctr_models.encoders import (
    DenseVector,
    Encoder,
    HashBuckets,
    Keep,
    LogBins,
    MultiValues,
    Number,
    QuantileBins,
    Vocabulary,
)
from ctr_models.fitters import (
    Fitter,
    LogBinsFitter,
    MultiValueFitter,
    NothingToFit,
    NumberFitter,
    NumeralsFitter,
    QuantileFitter,
    ValueCounts,
    VocabularyFitter,
)
from ctr_models.integers import NumeralsConfig, restored_integers
from ctr_models.values import State


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
class SoftNumberConfig:
    """A standardised number, read by a mixture of `meta_embeddings` vectors (`ctr_models.meta_embeddings`).

    Not settings of `NumberConfig`: logs that were made with those keep their fingerprints.
    """

    meta_embeddings: int = 16
    temperature: float = 1.0
    log: bool = False

    def __post_init__(self) -> None:
        _at_least("meta_embeddings", self.meta_embeddings, 2)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")


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
    VocabularyConfig
    | HashConfig
    | QuantileConfig
    | LogBinsConfig
    | NumberConfig
    | SoftNumberConfig
    | NumeralsConfig
    | MultiValueConfig
    | DenseConfig
)


def build_fitter(config: EncoderConfig, shared: ValueCounts | None = None) -> Fitter:
    """The fitter of a config. `shared` counts make one vocabulary of several columns (fields that share a table)."""
    values = ValueCounts() if shared is None else shared
    match config:
        case VocabularyConfig():
            return VocabularyFitter(values, config.min_count, config.max_size)
        case LogBinsConfig():
            return LogBinsFitter(values, config.min_count)
        case MultiValueConfig():
            return MultiValueFitter(values, config.min_count, config.max_size, _lists(config, Vocabulary(())))
        case QuantileConfig():
            return QuantileFitter(config.bins)
        case NumberConfig():
            return NumberFitter(standard=config.scale == "standard", log=config.log)
        case SoftNumberConfig():
            return NumberFitter(standard=True, log=config.log, layout=_soft(config, 0.0, 1.0))
        case NumeralsConfig():
            return NumeralsFitter(config)
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
            return _lists(config, _vocabulary(state))
        case QuantileConfig():
            return QuantileBins(tuple(cast(list[float], state["edges"])))
        case NumberConfig():
            return Number(cast(float, state["mean"]), cast(float, state["std"]), config.log)
        case SoftNumberConfig():
            return _soft(config, cast(float, state["mean"]), cast(float, state["std"]))
        case NumeralsConfig():
            return restored_integers(config, state)
        case HashConfig():
            return HashBuckets(config.buckets, config.seed)
        case DenseConfig():
            return DenseVector(config.width)
        case _:
            assert_never(config)


def _vocabulary(state: State) -> Vocabulary:
    return Vocabulary(tuple(cast(list[str | None], state["values"])))


def _soft(config: SoftNumberConfig, mean: float, std: float) -> Number:
    return Number(mean, std, config.log, config.meta_embeddings, config.temperature)


def _lists(config: MultiValueConfig, vocabulary: Vocabulary) -> MultiValues:
    return MultiValues(vocabulary, config.length, config.separator, config.keep, config.pooling)


def _check_vocabulary(min_count: int, max_size: int | None) -> None:
    _at_least("min_count", min_count, 1)
    if max_size is not None:
        _at_least("max_size", max_size, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
