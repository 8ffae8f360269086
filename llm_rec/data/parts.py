"""Which rows of a click log train, validate and test: a function of the row alone, so streams can be cut anywhere."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from jaxtyping import Float64, Int64

from ctr_models.values import texts_of
from llm_rec.data.chunks import Chunk
from llm_rec.data.log_spec import PARTS, ByColumnConfig, ByFilesConfig, ByFractionsConfig, LogSpec, Part, TableFile
from llm_rec.errors import DataError

TRAIN, VALIDATION, TEST = (PARTS.index(part) for part in PARTS)
LEFT_OUT = len(PARTS)
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64


def parts_of(chunk: Chunk, spec: LogSpec) -> Int64[np.ndarray, "rows"]:
    """The part of each row of a chunk as its place in `PARTS`, `LEFT_OUT` for rows that the spec does not keep: a
    function of the row, not of the chunk.
    """
    parts = _all_parts(chunk, spec)
    for kept in spec.keep:
        raw = chunk.column(kept.column)
        named = np.array([text in kept.values for text in texts_of(raw.values)], dtype=bool)
        parts = np.where(raw.spread(named), parts, LEFT_OUT)
    return parts


def _all_parts(chunk: Chunk, spec: LogSpec) -> Int64[np.ndarray, "rows"]:
    parts = spec.parts
    match parts:
        case ByColumnConfig():
            return _named_parts(chunk, parts)
        case ByFractionsConfig():
            draws = uniform_draws(chunk.position, len(chunk), parts.seed)
            rest = np.where(draws < parts.test + parts.validation, VALIDATION, TRAIN)
            return np.where(draws < parts.test, TEST, rest)
        case ByFilesConfig():
            part = PARTS.index(_file_part(chunk.file))
            moved = (uniform_draws(chunk.position, len(chunk), parts.seed) < parts.validation) & (part == TRAIN)
            return np.where(moved, VALIDATION, part)
        case _:
            assert_never(parts)


def expected_parts(files: Sequence[TableFile], spec: LogSpec) -> dict[Part, str]:
    """The parts that must not come out empty, each with why it might be."""
    parts = spec.parts
    match parts:
        case ByColumnConfig():
            named = {part: parts.values(part) for part in PARTS}
            return {part: f"column {parts.column!r} never says {' or '.join(v)}" for part, v in named.items() if v}
        case ByFractionsConfig():
            shares = {"validation": parts.validation, "test": parts.test}
            return {part: "there are too few rows for the fractions" for part in PARTS if shares.get(part, 1.0) > 0}
        case ByFilesConfig():
            found = {_file_part(file) for file in files} | ({"validation"} if parts.validation else set()) | {"train"}
            return {part: "no file for it holds a row" for part in PARTS if part in found}
        case _:
            assert_never(parts)


def _named_parts(chunk: Chunk, parts: ByColumnConfig) -> Int64[np.ndarray, "rows"]:
    raw = chunk.column(parts.column)
    places = {value: PARTS.index(part) for part in PARTS for value in parts.values(part)}
    rows = raw.spread(np.array([places.get(text or "", -1) for text in texts_of(raw.values)], dtype=np.int64))
    fix = f"repair it, or add it to one of parts.train, parts.validation, parts.test (known: {', '.join(places)})"
    chunk.refuse(rows < 0, parts.column, "names no part", fix)
    return rows


def uniform_draws(first: int, number: int, seed: int) -> Float64[np.ndarray, "rows"]:
    """Numbers in 0..1 of rows `first`, `first + 1`, ...: splitmix64 of (seed, row), so any chunk can be drawn alone.

    >>> bool((uniform_draws(0, 5, seed=1)[3:] == uniform_draws(3, 2, seed=1)).all())
    True
    """
    offset = np.array([((seed + 1) * _MIX_1 + (first + 1) * _GOLDEN) % 2**64], dtype=np.uint64)
    state = offset + np.arange(number, dtype=np.uint64) * np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX_1)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX_2)
    draws: np.ndarray = ((state ^ (state >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
    return draws


def _file_part(file: TableFile) -> Part:
    if file.part is None:
        raise DataError(f"{file.path}: the spec parts rows by files, but this file has no part; name it")
    return file.part
