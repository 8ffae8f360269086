"""Tables of click models: rows of methods on encoded logs, trained for several seeds, evaluated by slice.

A table is a grid of `llm_rec.experiment` whose cells train a click method. Logs lie below ``--out/logs``, made once;
every cell has a folder below ``--out/runs`` to resume from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import TypeAlias

import numpy as np

from ctr_models.model import CTRModel
from llm_rec.artifacts import canonical_json, fingerprint, read_manifest, write_bytes
from llm_rec.codec import Plain, identity, to_plain
from llm_rec.ctr.evaluation import ClickEvaluation, ClickEvaluationConfig, evaluate_clicks
from llm_rec.ctr.item_fields import ItemTables, item_positives
from llm_rec.ctr.method import ClickMethodConfig, TrainedClicks, train_clicks
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import (
    Cell,
    CellResult,
    Ledger,
    Record,
    Row,
    cell_name,
    compare,
    run_grid,
    table,
    write_table,
)
from llm_rec.metrics.click_intervals import figures
from llm_rec.processes import one_thread
from llm_rec.recipes.click_markdown import click_markdown, click_tests_markdown
from llm_rec.recipes.console import say
from llm_rec.recipes.material import CODES_FILE
from llm_rec.recipes.tables import selected
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable

TESTED = ("auc", "log_loss")
# A function of a module, so that workers find it, or a frozen dataclass of plain values that can be called.
Measure: TypeAlias = Callable[[CTRModel, ClickLog], list[Record]]


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

    `seeds` seeds are run, 0 first. `slice_field`: see `ClickEvaluationConfig`. `measures` are taken of this row's
    models besides those of the table.
    """

    name: str
    method: ClickMethodConfig
    log: Path
    seeds: int
    columns: Mapping[str, Plain] = field(default_factory=dict)
    items: ItemSource | None = None
    slice_label: str | None = None
    slice_field: str | None = None
    measures: tuple[Measure, ...] = ()

    @property
    def full_name(self) -> str:
        """See `full_name`."""
        return full_name(self.name, self.columns)

    @property
    def setting(self) -> dict[str, Plain]:
        """What tells this row's cells from all others."""
        items: list[Plain] | None = None
        if self.items is not None:
            items = [_mark(self.items.codes), _mark(self.items.embeddings)]
        parts: dict[str, Plain] = {"method": identity(self.method), "items": items, "log": _mark(self.log)}
        if self.measures:
            parts["measures"] = [measure_name(measure) for measure in self.measures]
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
        with one_thread():
            log = open_log(row.log)
            items = None if row.items is None else item_tables(log, row.items, cell.seed)
            trained = train_clicks(row.method, log, seed=cell.seed, folder=self.folder(cell), items=items)
            config = ClickEvaluationConfig(slice_field=row.slice_field, slice_label=row.slice_label)
            found = evaluate_clicks(trained.model, row.method.loss, log, "test", config)
            taken = (*self.measures, *row.measures)
            measured = [record for measure in taken for record in measure(trained.model, log)]
        return [*click_records(found), *training_records(trained), *measured]

    def finish(self, result: CellResult) -> None:
        """Drop the weights of a finished cell (its learning curve stays), and say how it went."""
        if result.status == "done":
            for weights in self.folder(result.cell).glob("*/model.safetensors"):
                weights.unlink()
        values = {r.metric: r.value for r in result.records if r.columns.get("slice") == "all"}
        shown = ", ".join(f"{name} {values[name]:.5f}" for name in TESTED if name in values)
        name = full_name(result.cell.model, result.cell.setting)
        say(f"{name}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}")


def full_name(name: str, columns: Mapping[str, Plain]) -> str:
    """A row's name with its columns: one method in one setting, as paired tests name it.

    >>> full_name("DCNv2", {"data": "frappe", "scale": 3})
    'DCNv2 (data frappe, scale 3)'
    """
    shown = ", ".join(f"{key} {value}" for key, value in columns.items() if key != "made_from")
    return f"{name} ({shown})" if shown else name


def measure_name(measure: Callable[..., list[Record]]) -> str:
    """What tells a measure from others: the name of a function, the values of a dataclass."""
    return measure.__name__ if isinstance(measure, FunctionType) else repr(measure)


@lru_cache(maxsize=4)
def open_log(path: Path) -> ClickLog:
    """The log at `path`, opened once a process."""
    return ClickLog.load(path)


def item_tables(log: ClickLog, source: ItemSource, seed: int, *, item: str = "item") -> ItemTables:
    """What `source` names for `seed`, with the train positives of every item (of a log with ``item_ids="catalog"``)."""
    embeddings = None if source.embeddings is None else np.asarray(EmbeddingStore.open(source.embeddings).all())
    codes = source.codes_of(seed)
    return ItemTables(
        train_counts=item_positives(log, item),
        codes=None if codes is None else CodeTable.load(codes / CODES_FILE),
        embeddings=embeddings,
    )


def run_clicks(
    out: Path,
    rows: Sequence[ClickRow],
    *,
    measures: Sequence[Measure] = (),
    jobs: int = 1,
    quick: bool = False,
    ledger: Path | None = None,
) -> list[CellResult]:
    """Results of all cells; only what is missing is trained, and what the file `ledger` knows is not. Rows come in
    order, seeds within a row.
    """
    context: dict[str, Plain] = {"quick": quick, "measures": [measure_name(measure) for measure in measures]}
    cells = [Cell(row.name, row.setting, seed) for row in rows for seed in range(row.seeds)]
    runner = ClickRunner(out, {str(row.setting["made_from"]): row for row in rows}, tuple(measures))
    known = None if ledger is None else Ledger(ledger)
    return run_grid(cells, runner, out, context=context, report=runner.finish, jobs=jobs, ledger=known)


def click_records(evaluation: ClickEvaluation) -> list[Record]:
    """Per slice: AUC and GAUC where they exist, log loss, ECE, predicted over actual, rows."""
    records = []
    for name, found in evaluation.metrics.items():
        values = {**figures(found), "rows": float(found.rows)}
        records += [Record(metric, value, {"slice": name}) for metric, value in values.items()]
    return records


def training_records(trained: TrainedClicks) -> list[Record]:
    """Best validation figure, epochs, parameters, and the median of the epochs' rows per second."""
    history = trained.result.history
    rates = [entry["examples_per_second"] for entry in history]
    values = {
        "validation": trained.result.best_value,
        "epochs": float(len(history)),
        "parameters": float(sum(parameter.numel() for parameter in trained.model.parameters())),
        "rows_per_second": float(np.median([rate for rate in rates if isinstance(rate, int | float)])),
    }
    return [Record(name, value, {"slice": "all"}) for name, value in values.items() if value is not None]


def write_click_results(
    out: Path,
    results: Sequence[CellResult],
    *,
    title: str,
    metrics: Sequence[str],
    columns: Sequence[str] = ("slice",),
    slices: Sequence[str] = ("all",),
    pairs: Sequence[tuple[str, str]] = (),
    references: Sequence[Row] = (),
    tested: Sequence[str] = TESTED,
    notes: Sequence[str] = (),
) -> str:
    """Write ``table.json``, ``tests.json`` and ``table.md`` in `out`; returns the text of the last.

    `columns` and `slices` are those of the markdown; ``table.json`` has all. `pairs` of full names (`full_name`) are
    tested on `tested` of all rows, over the seeds that both have. `references` are published figures, shown
    in the markdown alone; `notes` are paragraphs after the table.
    """
    rows = table(results)
    named = _whole(results)
    known = {result.cell.model for result in named}
    tests = compare(named, [pair for pair in pairs if known.issuperset(pair)], tuple(tested))
    write_table(out / "table.json", rows, tests)
    shown: list[Row] = [row for row in rows if row.columns.get("slice", "all") in slices]
    text = click_markdown([*shown, *references], metrics, columns)
    parts = [f"# {title}", text, *notes, click_tests_markdown(tests)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_bytes(out / "table.md", text.encode())
    return text


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
    """Cells under their full names, with the figures of all rows alone: so that settings do not mix, and Holm's
    correction counts no test that nobody asked for.
    """
    return [
        CellResult(
            cell=replace(result.cell, model=full_name(result.cell.model, result.cell.setting)),
            status=result.status,
            seconds=result.seconds,
            records=[record for record in result.records if record.columns == {"slice": "all"}],
        )
        for result in results
    ]
