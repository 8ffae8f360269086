"""Tables of methods on one data set: rows of methods, trained for several seeds, ranked by slice, tested in pairs.

A table is a grid of `llm_rec.experiment` whose cells train a method. `--out` is a workspace too: the catalog, the log,
embeddings and codes are made there once, and every cell has a folder below ``runs`` to resume from. Phases that several
methods begin with are trained once (``phases``).
"""

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from llm_rec.artifacts import canonical_json, fingerprint, read_manifest, write_bytes
from llm_rec.codec import Plain, identity
from llm_rec.data import Catalog, Interactions
from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.encoders import (
    EncodeConfig,
    EncoderConfig,
    HashingEncoderConfig,
    SentenceEncoderConfig,
    build_encoder,
    encode_catalog,
)
from llm_rec.errors import ConfigError
from llm_rec.experiment import (
    TEST_COLUMNS,
    Cell,
    CellResult,
    Comparison,
    Ledger,
    Record,
    Row,
    cell_name,
    compare,
    comparison_cells,
    markdown,
    markdown_lines,
    run_grid,
    script_options,
    table,
    write_table,
)
from llm_rec.processes import one_thread
from llm_rec.recipes import index
from llm_rec.recipes.console import say
from llm_rec.recipes.evaluation import AMONG_UNSEEN, Evaluation, EvaluationConfig, evaluate
from llm_rec.recipes.material import Material, MaterialConfig, open_material
from llm_rec.recipes.methods import MethodConfig, Trained, train_method
from llm_rec.recipes.workspace import Workspace
from semantic_ids.quantizers import QuantizerConfig

METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
PAIRED = ("recall@10", "ndcg@10")  # kept per target, given with intervals, and tested between methods
TESTED_SLICES = ("all", "unseen", AMONG_UNSEEN, "lt5", "warm")
ENCODERS: dict[str, EncoderConfig] = {"sentence": SentenceEncoderConfig(), "hashing": HashingEncoderConfig()}
Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One method under one name. `until` stops its training after that phase; `codes` names the codes it reads.

    `seeds` seeds are run, 0 first.
    """

    name: str
    method: MethodConfig
    seeds: int
    codes: str | None = None
    until: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableJob:
    """What a table is made from: `data` a folder of items and interactions, `out` where everything goes, `ledger` the
    file that knows cells of earlier runs.
    """

    data: Path
    out: Path
    rows: tuple[TableRow, ...]
    encoder: EncoderConfig
    quantizers: Mapping[str, QuantizerConfig]
    jobs: int = 1
    quick: bool = False
    ledger: Path | None = None

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ConfigError(f"two rows are called {repeated[0]!r}; give each a name of its own")


@dataclass(frozen=True, slots=True)
class CellRunner:
    """Trains and ranks one cell, on one thread so that its figures do not depend on the machine's load. Picklable."""

    out: Path
    rows: dict[str, TableRow]
    context: dict[str, Plain]

    def folder(self, cell: Cell) -> Path:
        """Where the training of `cell` can be resumed."""
        return self.out / "runs" / cell_name(cell, self.context)

    def __call__(self, cell: Cell) -> list[Record]:
        row = self.rows[cell.model]
        with one_thread():
            material = material_of(self.out, row.codes)
            trained = train_method(
                row.method,
                material,
                seed=cell.seed,
                folder=self.folder(cell),
                until=row.until,
                shared=self.out / "phases",
            )
            evaluation = evaluate(trained.model, material, "test", EvaluationConfig(ks=(5, 10)))
        return [*slice_records(evaluation), *training_records(trained)]

    def finish(self, result: CellResult) -> None:
        """Drop the weights of a finished cell (its learning curves stay), and say how it went."""
        if result.status == "done":
            for weights in self.folder(result.cell).glob("*/model.safetensors"):
                weights.unlink()
        figures = {r.metric: r.value for r in result.records if r.columns == {"slice": "all"}}
        shown = ", ".join(f"{name} {figures[name]:.4f}" for name in PAIRED if name in figures)
        say(f"{result.cell.model}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}")


@lru_cache(maxsize=4)
def material_of(out: Path, codes: str | None) -> Material:
    """The material that `prepare` made in `out`."""
    return open_material(Workspace(out), MaterialConfig(codes=codes))


def prepare(job: TableJob) -> Material:
    """Catalog, log, embeddings, and the codes that rows need, in `job.out`; what is there already is kept.

    Raises `ConfigError` when `out` holds other data.
    """
    place = Workspace(job.out)
    catalog, log = load_folder(FolderConfig(path=job.data))
    _save_once(catalog, place.catalog, job)
    _save_once(log, place.interactions, job)
    encode_catalog(catalog, build_encoder(job.encoder), place.embeddings("text"), EncodeConfig())
    for name in dict.fromkeys(row.codes for row in job.rows if row.codes is not None):
        index.run(index.IndexJob(workspace=job.out, name=name, quantizer=job.quantizers[name]))
    return open_material(place, MaterialConfig())


def _save_once(artefact: Catalog | Interactions, path: Path, job: TableJob) -> None:
    if not path.exists():
        artefact.save(path)
    elif read_manifest(path).fingerprint != artefact.fingerprint:
        raise ConfigError(f"{path} was not made from {job.data} as it is now; choose another --out")


def run_table(job: TableJob) -> list[CellResult]:
    """Results of all cells of the table; only what is missing is trained. Rows come in order, seeds within a row."""
    material = prepare(job)
    context: dict[str, Plain] = {**material.inputs, "quick": job.quick}
    cells = [Cell(row.name, {"method": row_mark(row, job)}, seed) for row in job.rows for seed in range(row.seeds)]
    runner = CellRunner(job.out, {row.name: row for row in job.rows}, context)
    ledger = None if job.ledger is None else Ledger(job.ledger)
    return run_grid(cells, runner, job.out, context=context, report=runner.finish, jobs=job.jobs, ledger=ledger)


def row_mark(row: TableRow, job: TableJob) -> str:
    """Fingerprint of everything a row is trained with."""
    quantizer = None if row.codes is None else identity(job.quantizers[row.codes])
    return fingerprint(canonical_json({"method": identity(row.method), "quantizer": quantizer}))


def slice_records(evaluation: Evaluation) -> list[Record]:
    """Per slice: means, the ends of the 95 % bootstrap interval over targets, and the number of targets."""
    records = []
    for name, summary in evaluation.summary.items():
        columns: dict[str, Plain] = {"slice": name}
        records.append(Record("targets", float(summary.count), columns))
        for metric in METRICS if summary.count else ():
            kept = evaluation.per_target[metric] if name == "all" and metric in PAIRED else None
            records.append(Record(metric, summary.mean[metric], columns, kept))
            if metric in PAIRED:
                records.append(Record(f"{metric} low", summary.low[metric], columns))
                records.append(Record(f"{metric} high", summary.high[metric], columns))
    return records


def training_records(trained: Trained) -> list[Record]:
    """The last phase's best monitored metric on the validation targets, and the epochs of all phases together."""
    columns: dict[str, Plain] = {"slice": "all"}
    results = list(trained.results.values())
    best = results[-1].best_value
    epochs = Record("epochs", float(sum(len(result.history) for result in results)), columns)
    return [epochs] if best is None else [Record("validation", best, columns), epochs]


def write_results(out: Path, results: Sequence[CellResult], pairs: Pairs, *, title: str) -> str:
    """Write ``table.json``, ``tests.json`` and ``table.md`` in `out`; returns the text of the last."""
    rows = table(results)
    known = {result.cell.model for result in results}
    tests = compare(_tested(results), [pair for pair in pairs if known.issuperset(pair)], PAIRED)
    write_table(out / "table.json", rows, tests)
    metrics, columns = list(PAIRED), ["slice", "targets", *(f"{metric}, 95 %" for metric in PAIRED)]
    parts = [f"# {title}", markdown(_shown(rows), metrics, columns), _tests_markdown(tests)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_bytes(out / "table.md", text.encode())
    return text


def _shown(rows: Sequence[Row]) -> list[Row]:
    """The tested slices with targets and intervals (mean ends over seeds) as columns, for people to read."""
    means = {(row.model, row.columns["slice"], row.metric): row.mean for row in rows}
    shown = []
    for row in rows:
        name = row.columns["slice"]
        if row.metric not in PAIRED or name not in TESTED_SLICES:
            continue
        columns: dict[str, Plain] = {"slice": name, "targets": f"{means[row.model, name, 'targets']:,.0f}"}
        for metric in PAIRED:
            low, high = (means[row.model, name, f"{metric} {end}"] for end in ("low", "high"))
            columns[f"{metric}, 95 %"] = f"{low:.4f} to {high:.4f}"
        shown.append(replace(row, columns=columns))
    return shown


def _tested(results: Sequence[CellResult]) -> list[CellResult]:
    """Without the slices that are only shown, so that Holm's correction counts no test that nobody asked for."""
    return [
        replace(result, records=[r for r in result.records if r.columns.get("slice") in TESTED_SLICES])
        for result in results
    ]


def _tests_markdown(tests: Sequence[Comparison]) -> str:
    if not tests:
        return ""
    head = ["model", "against", "slice", "metric", *TEST_COLUMNS]
    body = [
        [
            test.model,
            test.baseline,
            str(test.columns["slice"]),
            test.metric,
            *comparison_cells(test),
        ]
        for test in tests
    ]
    return markdown_lines(head, body)


def select(rows: Sequence[TableRow], names: Sequence[str]) -> tuple[TableRow, ...]:
    """The rows called `names`, in the order of the table (all without names); `ConfigError` for an unknown one."""
    kept = selected([row.name for row in rows], names)
    return tuple(row for row in rows if row.name in kept)


def selected(known: Sequence[str], names: Sequence[str]) -> set[str]:
    """The `names` (all known ones without names); `ConfigError` with the nearest known one for an unknown name."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the rows are {', '.join(known)}"
            raise ConfigError(f"no row is called {name!r}; {hint}")
    return set(names or known)


def grid_options(description: str, *, out: str, seeds: int, data: bool = True) -> argparse.ArgumentParser:
    """The options that all tables of trained models share."""
    parser = script_options(description, out=out, seeds=seeds, data=data)
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows (default: all)")
    jobs = os.cpu_count() or 1
    parser.add_argument("--jobs", type=int, default=jobs, help=f"cells at a time, a thread each (default: {jobs})")
    parser.add_argument("--epochs", type=int, help="at most so many epochs a phase")
    parser.add_argument(
        "--ledger", type=Path, help="file of finished cells: what it knows is not run, what is finished is added"
    )
    return parser


def table_options(description: str, *, out: str, seeds: int) -> argparse.ArgumentParser:
    """The options that tables of methods share."""
    parser = grid_options(description, out=out, seeds=seeds)
    parser.add_argument("--encoder", choices=sorted(ENCODERS), default="sentence", help="what embeds the item texts")
    return parser


def job_of(
    args: argparse.Namespace,
    rows: Sequence[TableRow],
    names: Sequence[str],
    quantizers: Mapping[str, QuantizerConfig] | None = None,
) -> TableJob:
    """The job that the options of `table_options` ask for, over the `rows` called `names` (all without names)."""
    return TableJob(
        data=args.data,
        out=args.out,
        rows=select(rows, names),
        encoder=ENCODERS[args.encoder],
        quantizers=quantizers or {},
        jobs=args.jobs,
        quick=args.quick,
        ledger=args.ledger,
    )


def exit_status(args: argparse.Namespace, results: Sequence[CellResult]) -> int:
    """1 when a cell failed, else 0; then the phases kept for other cells go, unless only some rows were asked for."""
    if any(result.status == "failed" for result in results):
        return 1
    if not args.rows:
        shutil.rmtree(args.out / "phases", ignore_errors=True)
    return 0
