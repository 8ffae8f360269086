"""Results of a grid condensed over seeds: `table.json`, flat records for programs, and markdown for people."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from llm_rec.artifacts import canonical_json, write_json
from llm_rec.codec import Plain, to_plain
from llm_rec.errors import ConfigError
from llm_rec.experiment.cells import CellResult, Record
from llm_rec.experiment.comparison import ESTABLISHED_SEEDS, Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of `table.json`: one metric of one model in one setting and slice, over seeds. `std` has n - 1 below."""

    model: str
    columns: dict[str, Plain]
    metric: str
    mean: float
    std: float | None
    seeds: int
    exploratory: bool


Key = tuple[str, bytes, str]  # model, columns as canonical JSON (the cell's setting is part of them), metric


def _by_seed(results: Iterable[CellResult]) -> dict[Key, dict[int, Record]]:
    """Records by model, columns and metric, then by seed; each record's columns now hold the cell's setting as well."""
    groups: dict[Key, dict[int, Record]] = defaultdict(dict)
    for result in results:
        for record in result.records:
            columns = {**result.cell.setting, **record.columns}
            key = (result.cell.model, canonical_json(columns), record.metric)
            groups[key][result.cell.seed] = replace(record, columns=columns)
    return groups


def table(results: Iterable[CellResult]) -> list[Row]:
    """Mean and standard deviation over seeds of every metric, in the order in which models and columns first occur.

    >>> from llm_rec.experiment import Cell, CellResult, Record, table
    >>> results = [CellResult(Cell("a", {"dim": 8}, seed), "done", 1.0, [Record("auc", 0.5 + seed)]) for seed in (0, 1)]
    >>> row = table(results)[0]
    >>> row.mean, round(row.std, 3), row.seeds, row.columns
    (1.0, 0.707, 2, {'dim': 8})
    """
    rows = []
    for (model, _, metric), by_seed in _by_seed(results).items():
        values = np.array([record.value for record in by_seed.values()], dtype=np.float64)
        row = Row(
            model=model,
            columns=next(iter(by_seed.values())).columns,
            metric=metric,
            mean=float(values.mean()),
            std=float(values.std(ddof=1)) if len(values) > 1 else None,
            seeds=len(values),
            exploratory=len(values) < ESTABLISHED_SEEDS,
        )
        rows.append(row)
    return rows


def write_table(path: Path, rows: Iterable[Row], comparisons: Iterable["Comparison"] = ()) -> None:
    """Write `table.json` (flat records) and, beside it, `tests.json` when there are comparisons."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [_flat(row) for row in rows])
    tests = [_flat(comparison) for comparison in comparisons]
    if tests:
        write_json(path.with_name("tests.json"), tests)


def _flat(row: "Row | Comparison") -> dict[str, Plain]:
    plain = cast(dict[str, Plain], to_plain(row))
    columns = cast(dict[str, Plain], plain.pop("columns"))
    model = plain.pop("model")
    return {"model": model, **columns, **plain}


def markdown(rows: Sequence[Row], metrics: Sequence[str], columns: Sequence[str] = ()) -> str:
    """A markdown table: a line for each model and combination of `columns`, a column for each metric.

    Cells read "mean ± std (seeds)"; `*` marks exploratory ones (fewer than five seeds). Rows that differ in columns
    not named here would overwrite one another, so that is a `ConfigError`.
    """
    lines: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.metric not in metrics:
            continue
        key = (row.model, *(_text(row.columns.get(name)) for name in columns))
        if row.metric in lines[key]:
            hidden = sorted(set(row.columns) - set(columns))
            raise ConfigError(f"{row.model}: several rows of {row.metric} on one line; name the columns {hidden} too")
        lines[key][row.metric] = _figure(row)
    head = ["model", *columns, *metrics]
    body = [[*key, *(cells.get(metric, "") for metric in metrics)] for key, cells in lines.items()]
    return markdown_lines(head, body)


def markdown_lines(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def _figure(row: Row) -> str:
    spread = "" if row.std is None else f" ± {row.std:.4f}"
    return f"{row.mean:.4f}{spread} ({row.seeds}{'*' if row.exploratory else ''})"


def _text(value: Plain) -> str:
    return "" if value is None else str(value)
