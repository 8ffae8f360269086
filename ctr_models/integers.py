"""Raw numbers -> non-negative integers, for fields that read the digits of an integer (`ctr_models.numerals`).

Multiple numeral systems encoding (arXiv 2403.00793) takes non-negative integers; how a continuous number becomes one is
not published, and all four scales here are our choice. The column of a click log holds integer + 2, so that the batch
stays one integer a row: digits are taken on the device. 1 is missing: a bucket of its own, in every base.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never, cast

import numpy as np
from jaxtyping import Float, Float64, Int64

from ctr_models.schema import RESERVED, UNKNOWN, Numerals, check_bases
from ctr_models.values import RawColumn, State, as_raw, numbers_of

MOST_LEVELS = 2**31 - 1 - RESERVED  # ids are 32 bits wide on disk
_LEVELS = 1024

Overflow = Literal["clamp", "missing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NumeralsConfig:
    """A number as the digits of an integer in several `bases`, which `combine` joins (multiple numeral systems).

    `scale`: "quantile" is the bin of equal training frequency, "log" is round((levels - 1) log(1 + v - low) / log(1 +
    high - low)) between the least and the largest training number, "whole" is the integer itself, "cosine" is
    round((v + 1) / 2 (levels - 1)) for similarities in -1..1. `levels` is how many integers there are; None is 1024,
    and for whole numbers the largest of training and 1. Integers below 0 or from `levels` on go to the nearest end
    (`overflow` "clamp") or to the bucket of missing values ("missing"); quantile bins at the ends are open, so that
    nothing overflows there. Null is missing.
    """

    scale: Literal["quantile", "log", "whole", "cosine"] = "quantile"
    levels: int | None = None
    bases: tuple[int, ...] = (2, 3)
    combine: Literal["sum", "concat"] = "sum"
    overflow: Overflow = "clamp"

    def __post_init__(self) -> None:
        check_bases(self.bases)
        if self.levels is not None and not 2 <= self.levels <= MOST_LEVELS:
            raise ValueError(f"levels must lie in 2..{MOST_LEVELS}, got {self.levels}")

    @property
    def most_levels(self) -> int:
        """`levels`, or their default."""
        return _LEVELS if self.levels is None else self.levels


@dataclass(frozen=True, eq=False)
class QuantileScale:
    """How many inner `edges` are at most the number."""

    edges: tuple[float, ...]

    @property
    def levels(self) -> int:
        return len(self.edges) + 1

    def __call__(self, numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
        found = np.searchsorted(np.array(self.edges), numbers, side="right").astype(np.float64)
        return np.where(np.isnan(numbers), np.nan, found)


@dataclass(frozen=True)
class LogScale:
    """Logarithmic steps from `low` to `high`."""

    low: float
    high: float
    levels: int

    def __call__(self, numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
        above = numbers - self.low
        steps = np.copysign(np.log1p(np.abs(above)), above)  # below `low` it goes on downwards
        span = np.log1p(self.high - self.low)
        return rounded((steps if span == 0 else steps / span) * (self.levels - 1))


@dataclass(frozen=True)
class WholeScale:
    """Whole numbers as they are; `ValueError` for a fraction."""

    levels: int

    def __call__(self, numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
        check_whole(numbers)
        return numbers


@dataclass(frozen=True)
class CosineScale:
    """-1..1 in equal steps."""

    levels: int

    def __call__(self, numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
        return cosine_levels(numbers, self.levels)


Scale: TypeAlias = QuantileScale | LogScale | WholeScale | CosineScale


@dataclass(frozen=True, eq=False)
class Integers:
    """Number -> 2 + integer of `scale`; null, and with `overflow` "missing" what lies outside, is 1."""

    scale: Scale
    bases: tuple[int, ...]
    combine: Literal["sum", "concat"]
    overflow: Overflow

    @classmethod
    def of(cls, config: NumeralsConfig, scale: Scale) -> "Integers":
        """The encoder of `config` with what was fitted. `ValueError` for more levels than 32 bits hold."""
        if scale.levels > MOST_LEVELS:
            raise ValueError(
                f"a field holds integers below {MOST_LEVELS}, got up to {scale.levels - 1}; set levels, or scale 'log'"
            )
        return cls(scale, config.bases, config.combine, config.overflow)

    @property
    def state(self) -> State:
        match self.scale:
            case QuantileScale():
                return {"edges": list(self.scale.edges)}
            case LogScale():
                return {"low": self.scale.low, "high": self.scale.high}
            case WholeScale():
                return {"levels": float(self.scale.levels)}
            case CosineScale():
                return {}
            case _:
                assert_never(self.scale)

    def field(self, name: str, table: str | None = None) -> Numerals:
        size = RESERVED + max(1, self.scale.levels)
        return Numerals(name=name, size=size, bases=self.bases, combine=self.combine)

    def transform(self, column: RawColumn | np.ndarray) -> Int64[np.ndarray, "rows"]:
        raw = as_raw(column)
        return raw.spread(self.ids(self.scale(numbers_of(raw.values))))

    def ids(self, integers: Float64[np.ndarray, "values"]) -> Int64[np.ndarray, "values"]:
        """Integers, NaN where there is none, as the column of a click log holds them."""
        top = max(1, self.scale.levels) - 1
        missing = np.isnan(integers)
        if self.overflow == "missing":
            missing |= (integers < 0) | (integers > top)
        whole = np.where(missing, 0.0, integers).clip(0, top).astype(np.int64)
        return np.where(missing, UNKNOWN, RESERVED + whole)


def restored_integers(config: NumeralsConfig, state: State) -> Integers:
    """The encoder that had this `state` under this config."""
    match config.scale:
        case "quantile":
            return Integers.of(config, QuantileScale(tuple(cast(list[float], state["edges"]))))
        case "log":
            low, high = cast(float, state["low"]), cast(float, state["high"])
            return Integers.of(config, LogScale(low, high, config.most_levels))
        case "whole":
            return Integers.of(config, WholeScale(int(cast(float, state["levels"]))))
        case "cosine":
            return Integers.of(config, CosineScale(config.most_levels))
        case _:
            assert_never(config.scale)


def cosine_levels(cosines: Float[np.ndarray, "rows"], levels: int) -> Float64[np.ndarray, "rows"]:
    """round((w + 1) / 2 (levels - 1)), halves upwards; NaN stays.

    >>> cosine_levels(np.array([-1.0, 0.0, 1.0, np.nan]), 101).tolist()
    [0.0, 50.0, 100.0, nan]
    """
    return rounded((cosines.astype(np.float64) + 1) / 2 * (levels - 1))


def rounded(numbers: Float64[np.ndarray, "values"]) -> Float64[np.ndarray, "values"]:
    """To the nearest integer, halves upwards."""
    return np.floor(numbers + 0.5)


def check_whole(numbers: Float64[np.ndarray, "values"]) -> None:
    """`ValueError` naming the first number with a fraction."""
    fractions = numbers[np.flatnonzero(~np.isnan(numbers) & (numbers != np.floor(numbers)))]
    if len(fractions):
        raise ValueError(f"{fractions[0]!s} is no whole number; repair this value, or choose another scale")
