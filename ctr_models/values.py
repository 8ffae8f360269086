"""Raw columns as encoders see them: distinct values and the rows that hold them, whatever the order or the chunks."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

State: TypeAlias = Mapping[str, list[str | None] | list[float] | float]  # the fitted part of an encoder as JSON values
_HALF = 26  # a float64 has 53 significant bits; halves of 27 and 26 bits add up in int64 without overflow
_EXACT = 2.0**63  # whole floats below this are written as integers
_SHIFT = 1074  # numpy.frexp gives no exponent below -1073


@dataclass(frozen=True, slots=True, eq=False)
class RawColumn:
    """Cells of a raw column: cell c holds `values[codes[c]]`, so work is done once a distinct value.

    A column of lists has `lengths`: row r owns the next `lengths[r]` cells. `values` may be texts, integers, floats or
    a mix in an object array; None, NaN and the empty text are null.
    """

    values: np.ndarray
    codes: Int64[np.ndarray, "cells"]
    lengths: Int64[np.ndarray, "rows"] | None = None

    def __len__(self) -> int:
        return len(self.codes if self.lengths is None else self.lengths)

    def spread(self, by_value: np.ndarray) -> np.ndarray:
        """What is known of every distinct value, for every cell."""
        cells: np.ndarray = by_value[self.codes]
        return cells

    @property
    def counts(self) -> Int64[np.ndarray, "values"]:
        """How many cells hold each value."""
        return np.bincount(self.codes, minlength=len(self.values)).astype(np.int64)


def raw_column(values: np.ndarray | Sequence[object]) -> RawColumn:
    """A column of plain values; one sort finds the distinct ones. Mixed (object) values become texts first.

    >>> column = raw_column(["b", "a", None, "b"])
    >>> column.values.tolist(), column.codes.tolist()
    (['', 'a', 'b'], [2, 1, 0, 2])
    """
    array = np.asarray(values) if isinstance(values, np.ndarray) else _object_array(values)
    if array.dtype.kind == "O":
        array = np.array([text or "" for text in texts_of(array)], dtype=np.dtypes.StringDType())
    distinct, codes = np.unique(array, return_inverse=True)
    return RawColumn(distinct, codes.astype(np.int64))


def as_raw(column: RawColumn | np.ndarray) -> RawColumn:
    """A plain array as a `RawColumn`."""
    return column if isinstance(column, RawColumn) else raw_column(column)


def list_column(rows: Sequence[Sequence[object]]) -> RawColumn:
    """A column of lists, for small data; a reader of files builds its `RawColumn` without visiting rows.

    >>> list_column([["a", "b"], [], ["a"]]).lengths.tolist()
    [2, 0, 1]
    """
    cells = raw_column([cell for row in rows for cell in row])
    return RawColumn(cells.values, cells.codes, np.array([len(row) for row in rows], dtype=np.int64))


def texts_of(values: np.ndarray) -> list[str | None]:
    """Values as text: 7, 7.0 and "7" are all "7"; nulls are None.

    >>> texts_of(np.array([7.0, 0.5, np.nan]))
    ['7', '0.5', None]
    """
    kind = values.dtype.kind
    if kind in "OUT":
        cells = values.tolist()
        only_texts = set(map(type, cells)) <= {str, type(None)}
        return [cell or None for cell in cells] if only_texts else [_text(cell) for cell in cells]
    if kind == "f":
        return [_float_text(value) for value in values.tolist()]
    if kind == "b":
        return ["true" if value else "false" for value in values.tolist()]
    return [str(value) for value in values]


def numbers_of(values: np.ndarray) -> Float64[np.ndarray, "values"]:
    """Values as numbers, null as NaN. Raises `ValueError` naming the first value that is no finite number."""
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64)
    else:
        numbers = np.array([_number(value) for value in values.tolist()], dtype=np.float64)
    infinite = np.isinf(numbers)
    if infinite.any():
        raise ValueError(f"{values[infinite][0]!r} is not a finite number; repair or remove this value")
    return numbers


def stable_hash(texts: Sequence[str], seed: int = 0) -> Int64[np.ndarray, "texts"]:
    """63-bit BLAKE2b hashes, never negative: equal in every process, machine and run."""
    salt = seed.to_bytes(8, "little", signed=True)
    digests = b"".join(
        hashlib.blake2b(t.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest() for t in texts
    )
    hashed: np.ndarray = (np.frombuffer(digests, dtype="<u8") >> np.uint64(1)).astype(np.int64)
    return hashed


def exact_sum(numbers: Float64[np.ndarray, "values"], counts: Int64[np.ndarray, "values"]) -> Fraction:
    """Sum of numbers times counts without rounding, so that no order and no chunking changes it.

    >>> exact_sum(np.array([1e16, 1.0, -1e16]), np.array([1, 3, 1]))
    Fraction(3, 1)
    """
    mantissas, exponents = np.frexp(numbers)
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    order = np.argsort(exponents, kind="stable")
    levels, starts = np.unique(exponents[order], return_index=True)
    total = 0
    if len(levels):
        counts = counts[order]
        high = np.add.reduceat((whole[order] >> _HALF) * counts, starts)
        low = np.add.reduceat((whole[order] & ((1 << _HALF) - 1)) * counts, starts)
        for level, upper, lower in zip(levels.tolist(), high.tolist(), low.tolist(), strict=True):
            total += ((upper << _HALF) + lower) << (level + _SHIFT)
    return Fraction(total, 1 << (_SHIFT + 53))


def _object_array(values: Sequence[object]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _text(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, float | np.floating):
        return _float_text(float(value))
    return ("true" if value else "false") if isinstance(value, bool | np.bool_) else str(value)


def _float_text(value: float) -> str | None:
    if value != value:
        return None
    return str(int(value)) if value.is_integer() and abs(value) < _EXACT else repr(value)


def _number(value: object) -> float:
    text = _text(value)
    if text is None:
        return float("nan")
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"{value!r} is not a number; repair or remove this value, or use another encoder") from error
    if number != number:
        raise ValueError(f"{value!r} is not a number; leave the cell empty where there is none")
    return number
