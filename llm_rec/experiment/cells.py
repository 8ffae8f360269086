"""Cells of a grid: what one run is, what it measures, and the file that keeps its result."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float64

from llm_rec.artifacts import fingerprint, read_json, replacing, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a grid. Equal cells of one grid and context share one result."""

    model: str
    setting: dict[str, Plain]
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One figure of one cell; `columns` say which (slice, scale, data set).

    `per_target` holds the values that `value` is the mean of, for paired tests on targets.
    """

    metric: str
    value: float
    columns: dict[str, Plain] = field(default_factory=dict)
    per_target: Float64[np.ndarray, "targets"] | None = None


@dataclass(frozen=True, slots=True)
class CellResult:
    """What one cell left behind: its records, or the error that stopped it."""

    cell: Cell
    status: Literal["done", "failed"]
    seconds: float
    records: list[Record]
    error: str | None = None


def cell_name(cell: Cell, context: Mapping[str, Plain]) -> str:
    """File name of a cell's result: readable model and seed, and a fingerprint of all that defines the cell.

    >>> cell_name(Cell("SASRec (BCE)", {"dim": 64}, 3), {}).startswith("sasrec-bce-seed3-")
    True
    """
    slug = re.sub(r"[^a-z0-9]+", "-", cell.model.lower()).strip("-") or "cell"
    return f"{slug[:60]}-seed{cell.seed}-{fingerprint({'cell': to_plain(cell), 'context': dict(context)})}"


def write_cell(path: Path, result: CellResult) -> None:
    """Write a result atomically. Per-target values go to an .npz beside it, and first: the JSON completes the cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {str(i): r.per_target for i, r in enumerate(result.records) if r.per_target is not None}
    if arrays:
        with replacing(path.with_suffix(".npz")) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    bare = replace(result, records=[replace(record, per_target=None) for record in result.records])
    write_json(path, {**cast(dict[str, Plain], to_plain(bare)), "arrays": sorted(map(int, arrays))})


def read_cell(path: Path) -> CellResult:
    """The result written by `write_cell`; `ArtifactError` when the file is damaged or of another version."""
    plain = read_json(path)
    if not isinstance(plain, dict) or "arrays" not in plain:
        raise ArtifactError(f"{path}: not a cell's result; remove the file to run the cell again")
    kept = cast(list[int], plain.pop("arrays"))
    try:
        result = result_of(plain)
    except (ConfigError, KeyError) as error:
        raise ArtifactError(f"{path}: {error}; remove the file to run the cell again") from error
    if not kept:
        return result
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        values = {i: arrays[str(i)] for i in kept}
    records = [replace(record, per_target=values.get(i)) for i, record in enumerate(result.records)]
    return replace(result, records=records)


def result_of(plain: Mapping[str, Plain]) -> CellResult:
    """The inverse of `to_plain` on a result without values of single targets; `ConfigError` or `KeyError` otherwise."""
    records = [_record(item) for item in cast(list[Plain], plain["records"])]
    return replace(from_plain(CellResult, {**plain, "records": []}), records=records)


def _record(plain: Plain) -> Record:
    if not isinstance(plain, dict):
        raise ConfigError(f"records: expected a mapping, got {plain!r}")
    columns = cast(dict[str, Plain], plain["columns"])
    return Record(str(plain["metric"]), float(cast(float, plain["value"])), columns)
