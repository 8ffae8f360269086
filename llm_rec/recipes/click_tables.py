"""Tables of click models: rows of methods on encoded logs, trained for several seeds, evaluated by slice.

A table is a grid of `llm_rec.experiment` whose cells train a click method. Logs lie below ``--out/logs``, made once;
every cell has a folder below ``--out/runs`` to resume from.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from ctr_models.model import CTRModel
from llm_rec.artifacts import canonical_json, fingerprint, read_manifest, write_bytes
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.evaluation import ClickEvaluation, ClickEvaluationConfig, evaluate_clicks
from llm_rec.ctr.item_fields import ItemTables
from llm_rec.ctr.method import ClickMethodConfig, TrainedClicks, train_clicks
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import (
    Cell,
    CellResult,
    Comparison,
    Record,
    Row,
    cell_name,
    compare,
    markdown,
    run_grid,
    script_options,
    table,
    write_table,
)
from llm_rec.recipes.console import say
from llm_rec.recipes.material import CODES_FILE
from llm_rec.recipes.tables import selected
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable

TESTED = ("auc", "log_loss")
Measure: TypeAlias = Callable[[CTRModel, ClickLog], list[Record]]  # a function of a module, so that workers find it


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemSource:
    """Where a row's item fields come from: artefacts of codes and of embeddings of the log's catalog.

    Several artefacts of codes are fits of one quantiser: seed s of the row reads number s.
    """

    codes: Path | tuple[Path, ...] | None = None
    embeddings: Path | None = None

    def codes_of(self, seed: int) -> Path | None:
        """The codes that `seed` reads."""
        return self.codes[seed] if isinstance(self.codes, tuple) else self.codes


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickRow:
    """One method on one log (its folder) under one name; `columns` tell it from rows of the same name (a scale).

    `seeds` seeds are run, 0 first. `slice_field`: see `ClickEvaluationConfig`.
    """

    name: str
    method: ClickMethodConfig
    log: Path
    seeds: int
    columns: Mapping[str, Plain] = field(default_factory=dict)
    items: ItemSource | None = None
    slice_label: str | None = None
    slice_field: str | None = None

    @property
    def setting(self) -> dict[str, Plain]:
        """What tells this row's cells from all others."""
        items = None if self.items is None else [_mark(self.items.codes), _mark(self.items.embeddings)]
        parts = {"method": to_plain(self.method, tagged=True), "items": items, "log": _mark(self.log)}
        return {"made_from": fingerprint(canonical_json(parts)), **self.columns}


@dataclass(frozen=True, slots=True)
class ClickRunner:
    """Trains and evaluates one cell, on one thread: its figures do not depend on the machine's load. Picklable."""

    out: Path
    rows: dict[str, ClickRow]
    measures: tuple[Measure, ...]

    def folder(self, cell: Cell) -> Path:
        """Where the training of `cell` can be resumed."""
        return self.out / "runs" / cell_name(cell, {})

    def __call__(self, cell: Cell) -> list[Record]:
        row = self.rows[str(cell.setting["made_from"])]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            log = open_log(row.log)
            items = None if row.items is None else item_tables(log, row.items, cell.seed)
            trained = train_clicks(row.method, log, seed=cell.seed, folder=self.folder(cell), items=items)
            config = ClickEvaluationConfig(slice_field=row.slice_field, slice_label=row.slice_label)
            found = evaluate_clicks(trained.model, row.method.loss, log, "test", config)
            measured = [record for measure in self.measures for record in measure(trained.model, log)]
        finally:
            torch.set_num_threads(threads)
        return [*click_records(found), *training_records(trained), *measured]

    def finish(self, result: CellResult) -> None:
        """Drop the weights of a finished cell (its learning curve stays), and say how it went."""
        if result.status == "done":
            for weights in self.folder(result.cell).glob("*/model.safetensors"):
                weights.unlink()
        figures = {r.metric: r.value for r in result.records if r.columns.get("slice") == "all"}
        shown = ", ".join(f"{name} {figures[name]:.5f}" for name in TESTED if name in figures)
        columns = ", ".join(f"{k} {v}" for k, v in result.cell.setting.items() if k != "made_from")
        name = f"{result.cell.model} ({columns})" if columns else result.cell.model
        say(f"{name}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}")


@lru_cache(maxsize=4)
def open_log(path: Path) -> ClickLog:
    """The log at `path`, opened once a process."""
    return ClickLog.load(path)


def item_tables(log: ClickLog, source: ItemSource, seed: int, *, item: str = "item") -> ItemTables:
    """What `source` names for `seed`, with the train positives of every item (of a log with ``item_ids="catalog"``)."""
    counts = log.train_counts(item, label=log.schema.labels[0])[1:]  # id = row + 1
    counts[0] = 0
    embeddings = None if source.embeddings is None else np.asarray(EmbeddingStore.open(source.embeddings).all())
    codes = source.codes_of(seed)
    return ItemTables(
        train_counts=counts,
        codes=None if codes is None else CodeTable.load(codes / CODES_FILE),
        embeddings=embeddings,
    )


def run_clicks(
    out: Path, rows: Sequence[ClickRow], *, measures: Sequence[Measure] = (), jobs: int = 1, quick: bool = False
) -> list[CellResult]:
    """Results of all cells; only what is missing is trained. Rows come in order, seeds within a row."""
    context: dict[str, Plain] = {"quick": quick, "measures": [measure.__name__ for measure in measures]}
    cells = [Cell(row.name, row.setting, seed) for row in rows for seed in range(row.seeds)]
    runner = ClickRunner(out, {str(row.setting["made_from"]): row for row in rows}, tuple(measures))
    return run_grid(cells, runner, out, context=context, report=runner.finish, jobs=jobs)


def click_records(evaluation: ClickEvaluation) -> list[Record]:
    """Per slice: AUC and GAUC where they exist, log loss, ECE, predicted over actual, rows."""
    records = []
    for name, found in evaluation.metrics.items():
        figures = {
            "auc": found.auc,
            "gauc": None if found.gauc is None else found.gauc.value,
            "log_loss": found.log_loss,
            "ece": found.ece,
            "predicted_over_actual": found.predicted_over_actual,
            "rows": float(found.rows),
        }
        there = {metric: value for metric, value in figures.items() if value is not None and np.isfinite(value)}
        records += [Record(metric, value, {"slice": name}) for metric, value in there.items()]
    return records


def training_records(trained: TrainedClicks) -> list[Record]:
    """Best validation figure, epochs, parameters, and the median of the epochs' rows per second."""
    history = trained.result.history
    rates = [entry["examples_per_second"] for entry in history]
    figures = {
        "validation": trained.result.best_value,
        "epochs": float(len(history)),
        "parameters": float(sum(parameter.numel() for parameter in trained.model.parameters())),
        "rows_per_second": float(np.median([rate for rate in rates if isinstance(rate, int | float)])),
    }
    return [Record(name, value, {"slice": "all"}) for name, value in figures.items() if value is not None]


def write_click_results(
    out: Path,
    results: Sequence[CellResult],
    *,
    title: str,
    metrics: Sequence[str],
    columns: Sequence[str] = ("slice",),
    slices: Sequence[str] = ("all",),
    pairs: Sequence[tuple[str, str]] = (),
) -> str:
    """Write ``table.json``, ``tests.json`` and ``table.md`` in `out`; returns the text of the last.

    `columns` and `slices` are those of the markdown; ``table.json`` has all. `pairs` of row names are tested on AUC and
    log loss of all rows, over the seeds that both have.
    """
    rows = table(results)
    known = {result.cell.model for result in results}
    tests = compare(_whole(results), [pair for pair in pairs if known.issuperset(pair)], TESTED)
    write_table(out / "table.json", rows, tests)
    shown: list[Row] = [row for row in rows if row.columns.get("slice", "all") in slices]
    parts = [f"# {title}", markdown(shown, metrics, columns), _tests(tests)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_bytes(out / "table.md", text.encode())
    return text


def click_table_options(description: str, *, out: str, seeds: int, data: bool = True) -> argparse.ArgumentParser:
    """The options that tables of click models share."""
    parser = script_options(description, out=out, seeds=seeds, data=data)
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows (default: all)")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help=f"cells at a time, a thread each (default: {jobs})")
    parser.add_argument("--epochs", type=int, help="at most so many epochs")
    return parser


def select_clicks(rows: Sequence[ClickRow], names: Sequence[str]) -> list[ClickRow]:
    """The rows called `names`, in the order of the table (all without names)."""
    kept = selected([row.name for row in rows], names)
    return [row for row in rows if row.name in kept]


def click_exit_status(results: Sequence[CellResult]) -> int:
    """1 when a cell failed, else 0."""
    return int(any(result.status == "failed" for result in results))


def _mark(path: Path | tuple[Path, ...] | None) -> str | None:
    """Fingerprint of an artefact, or of what several fits have in common: all but the seed."""
    if isinstance(path, tuple):
        manifest = read_manifest(path[0])
        shared = {name: value for name, value in manifest.details.items() if name != "seed"}
        return fingerprint(manifest.kind, shared, {"inputs": to_plain(manifest.inputs)})
    return None if path is None else read_manifest(path).fingerprint


def _whole(results: Sequence[CellResult]) -> list[CellResult]:
    """Only the figures of all rows, so that Holm's correction counts no test that nobody asked for."""
    return [replace(result, records=[r for r in result.records if r.columns == {"slice": "all"}]) for result in results]


def _tests(tests: Sequence[Comparison]) -> str:
    if not tests:
        return ""
    head = ["model", "against", "metric", "difference", "seeds", "t test p", "after Holm"]
    body = [
        [
            test.model,
            test.baseline,
            test.metric,
            f"{test.difference:+.5f}" + ("" if test.std is None else f" ± {test.std:.5f}"),
            f"{test.seeds}{'*' if test.exploratory else ''}",
            "" if test.t_p is None else f"{test.t_p:.4f}",
            "" if test.holm_t_p is None else f"{test.holm_t_p:.4f}",
        ]
        for test in tests
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])
