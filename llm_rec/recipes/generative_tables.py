"""What the table of generative retrieval needs beside its rows: curves, invalid ids, and rows made of two others.

Cells of plain rows are those of `recipes.tables`, so a ledger of another table that trained the same method serves them
too. A generative row gives three figures more: its validation metrics by step, the share of invalid ids that free beam
search writes, and the share of its lists that are proven exact. A hybrid row trains nothing: it takes the models of two
rows with the same seed, and the weight that ranks their validation targets best.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llm_rec.artifacts import MANIFEST, canonical_json, fingerprint
from llm_rec.codec import Plain, identity
from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError
from llm_rec.experiment import Cell, CellResult, Ledger, Record, markdown_lines, run_grid, table
from llm_rec.generative.model import GenerativeModel
from llm_rec.generative.search import beam_search, free_beam_search
from llm_rec.metrics.lists import asked_of
from llm_rec.processes import one_thread
from llm_rec.recipes.console import say
from llm_rec.recipes.evaluation import LISTS_AT_ONCE, EvaluationConfig, evaluate
from llm_rec.recipes.generative import some_targets
from llm_rec.recipes.hybrid import HybridMethodConfig, build_hybrid
from llm_rec.recipes.methods import Trained, train_method
from llm_rec.recipes.runs import mapping_of
from llm_rec.recipes.tables import PAIRED, CellRunner, TableJob, TableRow, material_of, prepare, row_mark, slice_records
from llm_rec.serving.models import DenseModel

SAMPLE = 2048  # test targets that free search is run for
CUT = 10
CURVE = "curve"  # the slice of figures by step


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridRow:
    """Two rows of the table, which `method` names, as one recommender; its weight is chosen for every seed."""

    name: str
    method: HybridMethodConfig
    seeds: int = 1

    def __post_init__(self) -> None:
        if not self.method.choose_weight:
            raise ConfigError(f"{self.name}: a hybrid row reports the weight it chose; leave choose_weight on")


@dataclass(frozen=True, slots=True)
class GenerativeRunner:
    """Runs cells of plain rows, with figures of generative models, and cells of hybrid rows. Picklable."""

    plain: CellRunner
    hybrids: dict[str, HybridRow]
    marks: dict[str, str]

    def __call__(self, cell: Cell) -> list[Record]:
        if cell.model in self.hybrids:
            with one_thread():
                return self._hybrid(self.hybrids[cell.model], cell.seed)
        with one_thread():
            trained = self.trained(cell.model, cell.seed)
        records = self.plain(cell)
        if isinstance(trained.model, GenerativeModel):
            with one_thread():
                split = material_of(self.plain.out, self.plain.rows[cell.model].codes).split
                records += [*curve_records(trained), *search_records(trained.model, split)]
        return records

    def trained(self, name: str, seed: int) -> Trained:
        """The model of a plain row: from its folder, or trained there."""
        row = self.plain.rows[name]
        folder = self.plain.folder(row_cell(row, seed, self.marks))
        for phase in folder.glob("*/"):
            if (phase / MANIFEST).is_file() and not (phase / "model.safetensors").is_file():
                shutil.rmtree(folder)  # finished by another table, which dropped its weights
                break
        return train_method(
            row.method,
            material_of(self.plain.out, row.codes),
            seed=seed,
            folder=folder,
            shared=self.plain.out / "phases",
        )

    def _hybrid(self, row: HybridRow, seed: int) -> list[Record]:
        method = row.method
        dense, generative = (self.trained(name, seed).model for name in (method.dense, method.generative))
        if not isinstance(generative, GenerativeModel) or not isinstance(dense, DenseModel):
            raise ConfigError(
                f"{row.name}: {method.generative!r} must be a generative row and {method.dense!r} must not"
            )
        material = material_of(self.plain.out, self.plain.rows[method.generative].codes)
        both, values = build_hybrid(method, dense, generative, material)
        weight = both.config.weight
        columns: dict[str, Plain] = {"slice": "all"}
        chosen = [Record("weight of the dense score", weight, columns), Record("validation", values[weight], columns)]
        return [*slice_records(evaluate(both, material, "test", EvaluationConfig(ks=(5, CUT)))), *chosen]


def run_generative_table(job: TableJob, hybrids: Sequence[HybridRow]) -> list[CellResult]:
    """Results of all cells, plain rows first; weights stay until the hybrids of them are done."""
    material = prepare(job)
    context: dict[str, Plain] = {**material.inputs, "quick": job.quick}
    marks = {row.name: row_mark(row, job) for row in job.rows}
    rows = {row.name: row for row in job.rows}
    needed = {name for hybrid in hybrids for name in (hybrid.method.dense, hybrid.method.generative)}
    missing = sorted(needed - set(rows))
    if missing:
        raise ConfigError(f"a hybrid row needs the row {missing[0]!r}; name it in --rows too, or leave the hybrid out")
    runner = GenerativeRunner(CellRunner(job.out, rows, context), {row.name: row for row in hybrids}, marks)
    ledger = None if job.ledger is None else Ledger(job.ledger)

    def grid(cells: Sequence[Cell]) -> list[CellResult]:
        return run_grid(cells, runner, job.out, context=context, report=tell, jobs=job.jobs, ledger=ledger)

    results = grid([row_cell(row, seed, marks) for row in job.rows for seed in range(row.seeds)])
    results += grid([hybrid_cell(row, seed, marks) for row in hybrids for seed in range(row.seeds)])
    for weights in (job.out / "runs").glob("*/*/model.safetensors"):
        weights.unlink()
    return results


def tell(result: CellResult) -> None:
    """Say how a cell went. Weights stay: a hybrid may need them."""
    figures = {r.metric: r.value for r in result.records if r.columns == {"slice": "all"}}
    shown = ", ".join(f"{name} {figures[name]:.4f}" for name in PAIRED if name in figures)
    say(f"{result.cell.model}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}")


def row_cell(row: TableRow, seed: int, marks: Mapping[str, str]) -> Cell:
    return Cell(row.name, {"method": marks[row.name]}, seed)


def hybrid_cell(row: HybridRow, seed: int, marks: Mapping[str, str]) -> Cell:
    """Known by the methods of its parts, so that other training makes another cell."""
    dense, generative = marks[row.method.dense], marks[row.method.generative]
    parts = {"dense": dense, "generative": generative, "hybrid": identity(row)}
    return Cell(row.name, {"method": fingerprint(canonical_json(parts))}, seed)


def curve_records(trained: Trained) -> Iterator[Record]:
    """Validation metrics against the number of updates."""
    for result in trained.results.values():
        for entry in result.history:
            steps = entry["updates"]
            for name, value in mapping_of(entry["metrics"]).items():
                if name in (f"recall@{CUT}", f"ndcg@{CUT}") and isinstance(value, float):
                    yield Record(name, value, {"slice": CURVE, "steps": steps})


def search_records(model: GenerativeModel, split: Split) -> Iterator[Record]:
    """Shares over a sample of the test targets: ids of free beam search that no item has, among all it writes and among
    the first of each; and lists of `CUT` that the width of the search proves to be the true ones."""
    events = some_targets(replace(split, validation=split.test), SAMPLE).validation
    invalid, first, proven = np.zeros(3)
    for start in range(0, len(events), LISTS_AT_ONCE):
        some = events[start : start + LISTS_AT_ONCE]
        asked = asked_of(split, some, model.max_length, model.device)
        free = free_beam_search(model, asked.history, asked.users, beams=CUT).eq(0)
        found = beam_search(model, asked.history, asked.users, beams=max(CUT, model.config.beams), seen=asked.seen)
        last = found.scores[:, min(CUT, found.scores.shape[1]) - 1]
        invalid += float(free.double().mean(1).sum())
        first += float(free[:, 0].double().sum())
        proven += float(last.ge(found.bound).double().sum())
    columns: dict[str, Plain] = {"slice": "all"}
    yield Record(f"invalid ids@{CUT}", invalid / len(events), columns)
    yield Record("invalid ids@1", first / len(events), columns)
    yield Record(f"lists@{CUT} proven exact", proven / len(events), columns)


def details_markdown(results: Sequence[CellResult]) -> str:
    """The figures of generative and hybrid rows that are no slices of the test: shares, weights, curves."""
    rows = table(results)
    names = (f"invalid ids@{CUT}", "invalid ids@1", f"lists@{CUT} proven exact", "weight of the dense score")
    shares = [[row.model, row.metric, f"{row.mean:.4f}"] for row in rows if row.metric in names]
    curve = [
        [row.model, str(row.columns["steps"]), row.metric, f"{row.mean:.4f}"]
        for row in rows
        if row.columns.get("slice") == CURVE
    ]
    parts = []
    if shares:
        parts.append(markdown_lines(["model", "figure", "value"], shares))
    if curve:
        parts.append(markdown_lines(["model", "steps", "validation metric", "value"], curve))
    return "\n\n".join(parts)
