"""Fitted encoders: what becomes of one raw column. `ctr_models.encode` makes them.

Every one has `field` (its place in a `Schema`), `transform` (rows -> ids or numbers, whole arrays), and `state`, the
fitted part as JSON values. Unseen values are UNKNOWN, never an error: a model meets them every day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from ctr_models.integers import Integers
from ctr_models.schema import RESERVED, UNKNOWN, Categorical, Dense, MultiValue, Numeric
from ctr_models.values import RawColumn, State, as_raw, numbers_of, raw_column, stable_hash, texts_of

Keep = Literal["first", "last"]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`values` in order of their ids, which start at 2; None among them is the null."""

    values: tuple[str | None, ...]

    @property
    def size(self) -> int:
        """Ids, reserved ones among them; a table needs room for one value at least."""
        return RESERVED + max(1, len(self.values))

    @property
    def state(self) -> State:
        return {"values": list(self.values)}

    @cached_property
    def _id_of(self) -> dict[str | None, int]:
        return {value: id_ for id_, value in enumerate(self.values, start=RESERVED)}

    def ids(self, texts: Sequence[str | None]) -> Int64[np.ndarray, "texts"]:
        """Ids of distinct values."""
        return np.fromiter(map(self._id_of.get, texts, repeat(UNKNOWN)), dtype=np.int64, count=len(texts))

    def field(self, name: str, table: str | None = None) -> Categorical:
        return Categorical(name=name, size=self.size, table=table)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows"]:
        raw = as_raw(column)
        return raw.spread(self.ids(texts_of(raw.values)))


@dataclass(frozen=True)
class HashBuckets:
    """Value -> one of `buckets` ids by `stable_hash`; null is UNKNOWN, where no value lands."""

    buckets: int
    seed: int

    @property
    def state(self) -> State:
        return {}

    def field(self, name: str, table: str | None = None) -> Categorical:
        return Categorical(name=name, size=RESERVED + self.buckets, table=table)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows"]:
        raw = as_raw(column)
        texts = texts_of(raw.values)
        null = np.fromiter((text is None for text in texts), dtype=bool, count=len(texts))
        hashed = RESERVED + stable_hash([text or "" for text in texts], self.seed) % self.buckets
        return raw.spread(np.where(null, UNKNOWN, hashed))


@dataclass(frozen=True, eq=False)
class QuantileBins:
    """Number -> 2 + how many inner `edges` are at most the number; null is UNKNOWN."""

    edges: tuple[float, ...]

    @property
    def state(self) -> State:
        return {"edges": list(self.edges)}

    def field(self, name: str, table: str | None = None) -> Categorical:
        return Categorical(name=name, size=RESERVED + len(self.edges) + 1, table=table)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows"]:
        raw = as_raw(column)
        numbers = numbers_of(raw.values)
        ids = RESERVED + np.searchsorted(np.array(self.edges), numbers, side="right")
        return raw.spread(np.where(np.isnan(numbers), UNKNOWN, ids))


@dataclass(frozen=True, eq=False)
class LogBins:
    """Number -> bin of `log_bin_texts` -> id of a vocabulary of bins."""

    vocabulary: Vocabulary

    @property
    def state(self) -> State:
        return self.vocabulary.state

    def field(self, name: str, table: str | None = None) -> Categorical:
        return self.vocabulary.field(name, table)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows"]:
        raw = as_raw(column)
        return raw.spread(self.vocabulary.ids(log_bin_texts(numbers_of(raw.values))))


@dataclass(frozen=True)
class Number:
    """(f(number) - mean) / std as float32, with f(x) = sign(x) log(1 + |x|) if `log`; null becomes 0, the mean."""

    mean: float
    std: float
    log: bool
    meta_embeddings: int = 0
    temperature: float = 1.0

    @property
    def state(self) -> State:
        return {"mean": self.mean, "std": self.std}

    def field(self, name: str, table: str | None = None) -> Numeric:
        return Numeric(name=name, meta_embeddings=self.meta_embeddings, temperature=self.temperature)

    def transform(self, column: RawColumn | np.ndarray) -> Float32[np.ndarray, "rows"]:
        raw = as_raw(column)
        numbers = (scaled(numbers_of(raw.values), log=self.log) - self.mean) / self.std
        numbers = np.where(np.isnan(numbers), 0.0, numbers)
        too_large = np.abs(numbers) > np.finfo(np.float32).max
        if too_large.any():
            raise ValueError(f"{raw.values[too_large][0]!r} does not fit float32; scale this column")
        return raw.spread(numbers.astype(np.float32))


@dataclass(frozen=True, eq=False)
class MultiValues:
    """Lists, or texts cut at `separator`, -> up to `length` ids a row, padded on the right. Nulls are left out."""

    vocabulary: Vocabulary
    length: int
    separator: str | None
    keep: Keep
    pooling: Literal["mean", "sum"]

    @property
    def state(self) -> State:
        return self.vocabulary.state

    def field(self, name: str, table: str | None = None) -> MultiValue | Categorical:
        """With length 1 it is one id a row: the first or last piece of a list is a category like any other."""
        size, length = self.vocabulary.size, self.length
        if length == 1:
            return Categorical(name=name, size=size, table=table)
        return MultiValue(name=name, size=size, length=length, pooling=self.pooling, table=table)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows length"]:
        raw, rows = as_lists(as_raw(column), self.separator)
        ids = raw.spread(self.vocabulary.ids(texts_of(raw.values)))
        padded = np.zeros((len(raw), self.length), dtype=np.int64)
        visible, owners, places = visible_cells(raw, self.length, self.keep)
        padded[owners[visible], places[visible]] = ids[visible]
        return padded if rows is None else padded[rows]


@dataclass(frozen=True)
class DenseVector:
    """Lists of exactly `width` finite numbers, as float32."""

    width: int

    @property
    def state(self) -> State:
        return {}

    def field(self, name: str, table: str | None = None) -> Dense:
        return Dense(name=name, width=self.width)

    def transform(self, column: RawColumn | np.ndarray) -> Float32[np.ndarray, "rows width"]:
        raw = as_raw(column)
        if raw.lengths is None:
            raise ValueError("this column holds no lists; a dense field needs one vector a row")
        wrong = np.flatnonzero(raw.lengths != self.width)
        if len(wrong):
            got = int(raw.lengths[wrong[0]])
            raise ValueError(f"a vector has {got} numbers, expected {self.width}; give every row one of that width")
        numbers = numbers_of(raw.values)
        if np.isnan(numbers).any():
            raise ValueError("a vector holds a null; fill it")
        return raw.spread(numbers.astype(np.float32)).reshape(-1, self.width)


Encoder: TypeAlias = Vocabulary | HashBuckets | QuantileBins | LogBins | Number | Integers | MultiValues | DenseVector


def log_bin_texts(numbers: Float64[np.ndarray, "values"]) -> list[str | None]:
    """Names of the bins of Criteo's winners, as in arXiv 2310.04400: floor(ln(v)**2) above 2, else v - 2; null stays.

    The published rule speaks of integers; a fraction below 2 is rounded down first (our choice).

    >>> log_bin_texts(np.array([np.nan, -1.0, 0.0, 1.0, 2.0, 3.0, 100.0]))
    [None, '-3', '-2', '-1', '0', '1', '21']
    """
    null = np.isnan(numbers)
    bins = np.where(numbers > 2, np.floor(np.log(np.maximum(numbers, 1.0)) ** 2), np.floor(numbers) - 2)
    whole = np.where(null, 0.0, bins).astype(np.int64)
    return [None if empty else str(bin_) for bin_, empty in zip(whole.tolist(), null.tolist(), strict=True)]


def scaled(numbers: Float64[np.ndarray, "values"], *, log: bool) -> Float64[np.ndarray, "values"]:
    """The numbers, or sign(x) log(1 + |x|)."""
    return np.copysign(np.log1p(np.abs(numbers)), numbers) if log else numbers


def as_lists(raw: RawColumn, separator: str | None) -> tuple[RawColumn, Int64[np.ndarray, "rows"] | None]:
    """(lists, row -> list): texts are cut once a distinct text; lists are taken as they are (None: row r is list r)."""
    if raw.lengths is not None:
        return raw, None
    if separator is None:
        raise ValueError("this column holds no lists; set separator to cut its texts into values")
    pieces = [[] if text is None else text.split(separator) for text in texts_of(raw.values)]
    cells = raw_column([piece.strip() for cut in pieces for piece in cut])
    lengths = np.array([len(cut) for cut in pieces], dtype=np.int64)
    return RawColumn(cells.values, cells.codes, lengths), raw.codes


def visible_cells(
    raw: RawColumn, length: int, keep: Keep
) -> tuple[Bool[np.ndarray, "cells"], Int64[np.ndarray, "cells"], Int64[np.ndarray, "cells"]]:
    """Of every cell of a column of lists: whether it is among the first or last `length` of its row, row, place.

    Nulls take no place.
    """
    if raw.lengths is None:
        raise ValueError("this column holds no lists")
    null = np.array([text is None for text in texts_of(raw.values)], dtype=bool)
    real = ~raw.spread(null)
    owners = np.repeat(np.arange(len(raw.lengths)), raw.lengths)
    rank = np.cumsum(real) - real
    counts = np.bincount(owners[real], minlength=len(raw.lengths)).astype(np.int64)
    places = rank - (np.cumsum(counts) - counts)[owners]
    if keep == "last":
        places = places - np.maximum(counts - length, 0)[owners]
    return real & (places >= 0) & (places < length), owners, places
