"""Tables of models of domains or tasks: rows of methods on encoded logs, several seeds, figures by domain or task.

A table is a grid of `llm_rec.experiment`, like those of `llm_rec.recipes.click_tables`, whose files and tests it has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ctr_models.domains.mixture import EXPERT, LINEAR, ExpertMixtureConfig
from ctr_models.domains.model import TOWER, DomainModelConfig
from llm_rec.analysis.domain_experts import analyse_domains
from llm_rec.artifacts import canonical_json, fingerprint, read_manifest
from llm_rec.codec import Plain, identity
from llm_rec.ctr.domain_evaluation import score_units
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.ctr.domain_training import RoutedDomains, TrainedDomains, train_domains
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Cell, CellResult, Ledger, Record, cell_name, run_grid, table
from llm_rec.metrics.click_intervals import figures
from llm_rec.metrics.domains import DomainMetrics, Unit, is_domain_slice, slice_names
from llm_rec.processes import one_thread
from llm_rec.recipes.click_markdown import click_markdown
from llm_rec.recipes.click_tables import full_name, measure_name, open_log
from llm_rec.recipes.console import say
from llm_rec.recipes.tables import selected

TESTED = ("macro_auc", "worst_auc")
BY_DOMAIN = ("auc", "gauc", "log_loss", "ece", "rows")
# A function of a module, so that workers find it, or a frozen dataclass of plain values that can be called.
Measure: TypeAlias = Callable[[TrainedDomains, ClickLog], list[Record]]


def at_equal_widths(model: DomainModelConfig) -> DomainModelConfig:
    """A mixture of experts with the widths that others of a table have; models of another kind as they are.

    A published expert of STEM (512, 512, 512) holds tens of times the weights of one beside it: a table of both would
    compare sizes.

    >>> from ctr_models.domains.presets import stem
    >>> at_equal_widths(stem()).body.expert.widths
    (64,)
    """
    if not isinstance(model.body, ExpertMixtureConfig):
        return model
    return replace(model, body=replace(model.body, expert=EXPERT, gate=LINEAR), tower=TOWER)


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainRow:
    """One method on one log (its folder) under one name; `columns` tell it from rows of the same name (a data set)."""

    name: str
    method: DomainMethodConfig
    log: Path
    seeds: int
    columns: Mapping[str, Plain] = field(default_factory=dict)
    measures: tuple[Measure, ...] = ()

    @property
    def full_name(self) -> str:
        """See `llm_rec.recipes.click_tables.full_name`."""
        return full_name(self.name, self.columns)

    @property
    def setting(self) -> dict[str, Plain]:
        """What tells this row's cells from all others."""
        parts: dict[str, Plain] = {
            "method": identity(self.method),
            "log": read_manifest(self.log).fingerprint,
            "measures": [measure_name(measure) for measure in self.measures],
        }
        return {"made_from": fingerprint(canonical_json(parts)), **self.columns}


@dataclass(frozen=True, slots=True)
class ExpertFigures:
    """Figures of `analyse_domains` of one model; whole models for each domain have none in common."""

    min_count: int = 2

    def __call__(self, trained: TrainedDomains, log: ClickLog) -> list[Record]:
        if isinstance(trained.model, RoutedDomains):
            return []
        found = analyse_domains(trained.model, log, min_count=self.min_count)
        return [Record(name, value, {"slice": "all"}) for name, value in found.means().items()]


@dataclass(frozen=True, slots=True)
class DomainRunner:
    """Trains and evaluates one cell on one thread. Picklable."""

    out: Path
    rows: dict[str, DomainRow]

    def folder(self, cell: Cell) -> Path:
        """Where the training of `cell` can be resumed."""
        return self.out / "runs" / cell_name(cell, {})

    def __call__(self, cell: Cell) -> list[Record]:
        row = self.rows[str(cell.setting["made_from"])]
        unit = row.method.model.by
        with one_thread():
            log = open_log(row.log)
            trained = train_domains(row.method, log, seed=cell.seed, folder=self.folder(cell))
            found = score_units(trained.model, log, log.part("test"), unit).metrics()
            measured = [record for measure in row.measures for record in measure(trained, log)]
        return [*domain_records(found, unit), *training_records(trained), *measured]

    def finish(self, result: CellResult) -> None:
        """Drop the weights of a finished cell (its learning curves stay), and say how it went."""
        if result.status == "done":
            for weights in self.folder(result.cell).rglob("model.safetensors"):
                weights.unlink()
        values = {r.metric: r.value for r in result.records if r.columns.get("slice") == "all"}
        shown = ", ".join(f"{name} {values[name]:.5f}" for name in TESTED if name in values)
        name = full_name(result.cell.model, result.cell.setting)
        say(f"{name}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}")


def run_domains(
    out: Path, rows: Sequence[DomainRow], *, jobs: int = 1, quick: bool = False, ledger: Path | None = None
) -> list[CellResult]:
    """Results of all cells; only what is missing is trained, and what the file `ledger` knows is not. Rows come in
    order, seeds within a row.
    """
    cells = [Cell(row.name, row.setting, seed) for row in rows for seed in range(row.seeds)]
    runner = DomainRunner(out, {str(row.setting["made_from"]): row for row in rows})
    known = None if ledger is None else Ledger(ledger)
    return run_grid(cells, runner, out, context={"quick": quick}, report=runner.finish, jobs=jobs, ledger=known)


def domain_records(found: DomainMetrics, unit: Unit) -> list[Record]:
    """Means, worst and, by domain, pooled figures of all rows (slice "all"), and all figures of each domain or task."""
    means = {"macro": found.macro, "weighted": found.weighted, "worst": found.worst}
    if unit == "domain":
        means["pooled"] = figures(found.pooled)
    records = [Record(f"{kind}_{m}", value, {"slice": "all"}) for kind, vs in means.items() for m, value in vs.items()]
    for name, metrics in zip(slice_names(list(found.by_domain), unit), found.by_domain.values(), strict=True):
        values = {**figures(metrics), "rows": float(metrics.rows)}
        records += [Record(metric, value, {"slice": name}) for metric, value in values.items()]
    return records


def training_records(trained: TrainedDomains) -> list[Record]:
    """Parameters, updates of all phases, seconds of training, and rows a second over all epochs."""
    entries = [entry for result in trained.results.values() for entry in result.history]
    seconds, rows = (sum(_number(entry[name]) for entry in entries) for name in ("seconds", "examples"))
    values = {
        "parameters": float(sum(parameter.numel() for parameter in trained.model.parameters())),
        "updates": float(trained.updates),
        "seconds": seconds,
        "rows_per_second": rows / max(seconds, 1e-9),
        "epochs": float(len(entries)),
    }
    return [Record(name, value, {"slice": "all"}) for name, value in values.items() if np.isfinite(value)]


def by_domain(results: Sequence[CellResult], columns: Sequence[str] = ()) -> str:
    """A table of its own for the figures of each domain or task, for the notes of a table of means."""
    rows = [row for row in table(results) if is_domain_slice(str(row.columns.get("slice", "")))]
    return click_markdown(rows, BY_DOMAIN, (*columns, "slice"))


def select_domains(rows: Sequence[DomainRow], names: Sequence[str]) -> list[DomainRow]:
    """The rows called `names`, in the order of the table (all without names)."""
    kept = selected([row.name for row in rows], names)
    return [row for row in rows if row.name in kept]


def _number(value: Plain) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
