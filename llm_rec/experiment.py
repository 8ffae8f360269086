"""Tables and benchmarks: grids of cells that survive interruption, tests between models, peers run apart.

A table is a grid of cells (model, setting, seed). Each finished cell is one file, written at once and atomically;
running the grid again does only what is missing or failed. A cell measures `Record`s; `table` condenses them to mean
and standard deviation over seeds, `compare` tests one model against another over the seeds they share. A benchmark
sets one of our figures beside a peer's: `run_peer` builds the peer's environment once and runs its script there.
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float64

from llm_rec.artifacts import canonical_json, fingerprint, read_json, replacing, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError, LlmRecError
from llm_rec.metrics.significance import SeedTest, compare_seeds, holm
from llm_rec.progress import progress, track

ESTABLISHED_SEEDS = 5  # fewer seeds than this and a row is labelled exploratory
# What a cell may fail with and the grid goes on. A TypeError, NameError or KeyboardInterrupt is a mistake in the
# script or a wish of its user, and ends the grid.
CELL_ERRORS = (LlmRecError, ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)


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


class PeerError(LlmRecError, RuntimeError):
    """A peer's environment could not be built, or the peer did not give its RESULT line."""


# --- grids ---------------------------------------------------------------------------------------------------------


def cell_name(cell: Cell, context: Mapping[str, Plain]) -> str:
    """File name of a cell's result: readable model and seed, and a fingerprint of all that defines the cell.

    >>> cell_name(Cell("SASRec (BCE)", {"dim": 64}, 3), {}).startswith("sasrec-bce-seed3-")
    True
    """
    slug = re.sub(r"[^a-z0-9]+", "-", cell.model.lower()).strip("-") or "cell"
    return f"{slug[:60]}-seed{cell.seed}-{fingerprint({'cell': to_plain(cell), 'context': dict(context)})}"


def run_grid(
    cells: Sequence[Cell],
    run: Callable[[Cell], list[Record]],
    out: Path,
    *,
    context: Mapping[str, Plain] | None = None,
    report: Callable[[CellResult], None] | None = None,
    jobs: int = 1,
) -> list[CellResult]:
    """Run every cell that has no result under `out/cells` yet, in order, and return the results of all cells.

    `context` holds what all cells share and the results depend on (fingerprint of the data, ``quick``): other contexts
    in the same folder never mix. `report` is called after every cell that ran, in this process. Failed cells are
    recorded with their error and run again next time. With `jobs` above 1 that many worker processes take the cells in
    order; `run` must then be picklable. They end with this process, however it ends. Raises `ConfigError` when two
    cells are equal, and `ArtifactError` when a worker is killed.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}")
    context = dict(context or {})
    paths = [Path(out) / "cells" / f"{cell_name(cell, context)}.json" for cell in cells]
    repeated = [cell for cell, path in zip(cells, paths, strict=True) if paths.count(path) > 1]
    if repeated:
        raise ConfigError(
            f"{repeated[0]} occurs more than once in the grid; give each run a seed or setting of its own"
        )
    results = [read_cell(path) if path.exists() else None for path in paths]
    todo = [i for i, result in enumerate(results) if result is None or result.status == "failed"]
    for i, result in track(_outcomes(cells, todo, run, min(jobs, len(todo))), "cells", total=len(todo)):
        write_cell(paths[i], result)
        results[i] = result
        if report is not None:
            report(result)
    return [result for result in results if result is not None]


def _outcomes(
    cells: Sequence[Cell], todo: Sequence[int], run: Callable[[Cell], list[Record]], jobs: int
) -> Iterator[tuple[int, CellResult]]:
    """Index and result of every cell of `todo`, as they end."""
    if jobs <= 1:
        for i in todo:
            yield i, _run_cell(cells[i], run)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(_run_cell, cells[i], run): i for i in todo}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise ArtifactError(
            "a worker process was killed (out of memory?); finished cells are kept: run the same command again, "
            "with fewer --jobs if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Draw no progress bars over one another, and end when the parent does, though it be killed."""
    os.environ["TTY_COMPATIBLE"] = "0"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _run_cell(cell: Cell, run: Callable[[Cell], list[Record]]) -> CellResult:
    start = time.perf_counter()
    try:
        records = run(cell)
        _check_records(cell, records)
    except CELL_ERRORS as error:
        text = "".join(traceback.format_exception(error)).strip()
        return CellResult(cell, "failed", time.perf_counter() - start, [], text)
    return CellResult(cell, "done", time.perf_counter() - start, records)


def _check_records(cell: Cell, records: Iterable[Record]) -> None:
    reserved = {"model", "metric", "mean", "std", "seeds", "exploratory"}
    for record in records:
        clash = sorted((reserved | set(cell.setting)) & set(record.columns) | (reserved & set(cell.setting)))
        if clash:
            raise ConfigError(f"{cell.model}: {record.metric}: column {clash[0]!r} is already taken; rename it")
        if not np.isfinite(record.value):
            raise ConfigError(f"{cell.model}: {record.metric} is {record.value}; a record holds a finite number")


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
        records = [_record(item) for item in cast(list[Plain], plain.pop("records"))]
        result = from_plain(CellResult, {**plain, "records": []})
    except (ConfigError, KeyError) as error:
        raise ArtifactError(f"{path}: {error}; remove the file to run the cell again") from error
    if kept:
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            for i in kept:
                records[i] = replace(records[i], per_target=arrays[str(i)])
    return replace(result, records=records)


def _record(plain: Plain) -> Record:
    if not isinstance(plain, dict):
        raise ConfigError(f"records: expected a mapping, got {plain!r}")
    columns = cast(dict[str, Plain], plain["columns"])
    return Record(str(plain["metric"]), float(cast(float, plain["value"])), columns)


# --- tables --------------------------------------------------------------------------------------------------------

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


# --- tests between models ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`model` minus `baseline` on one metric over the seeds both have; p-values two-sided, None where no test exists.

    `holm_*` are corrected for all comparisons made together. `exploratory` (fewer than five seeds): five seeds are the
    least, and even then the sign-flip test of the seeds cannot go below 2 / 2^5 = .0625.
    """

    model: str
    baseline: str
    columns: dict[str, Plain]
    metric: str
    difference: float
    std: float | None
    seeds: int
    t_p: float | None
    sign_flip_p: float | None
    holm_t_p: float | None
    holm_sign_flip_p: float | None
    exploratory: bool


def compare(
    results: Sequence[CellResult], pairs: Sequence[tuple[str, str]], metrics: Sequence[str]
) -> list[Comparison]:
    """Paired tests of each (model, baseline) over the seeds both finished, for every metric and slice both report.

    Records pair up by seed and by their own columns; settings may differ (they belong to the model), so a model with
    several settings in `results` is ambiguous and a `ConfigError`.
    """
    values = _by_model(results)
    found = []
    for model, baseline in pairs:
        for (columns, metric), ours in values[model].items():
            theirs = values[baseline].get((columns, metric), {})
            shared = sorted(ours.keys() & theirs.keys())
            if metric in metrics and shared:
                sides = [ours[seed].value for seed in shared], [theirs[seed].value for seed in shared]
                found.append(_comparison(model, baseline, metric, ours[shared[0]].columns, *sides))
    t_p = _holm([c.t_p for c in found])
    flip_p = _holm([c.sign_flip_p for c in found])
    return [replace(c, holm_t_p=t, holm_sign_flip_p=f) for c, t, f in zip(found, t_p, flip_p, strict=True)]


TEST_COLUMNS = ("difference", "seeds", "t test p", "after Holm")


def comparison_cells(test: Comparison, digits: int = 4) -> list[str]:
    """A paired test as the cells of `TEST_COLUMNS`; `*` at the seeds marks an exploratory one."""
    return [
        f"{test.difference:+.{digits}f}" + ("" if test.std is None else f" ± {test.std:.{digits}f}"),
        f"{test.seeds}{'*' if test.exploratory else ''}",
        "" if test.t_p is None else f"{test.t_p:.4f}",
        "" if test.holm_t_p is None else f"{test.holm_t_p:.4f}",
    ]


def _by_model(results: Sequence[CellResult]) -> dict[str, dict[tuple[bytes, str], dict[int, Record]]]:
    values: dict[str, dict[tuple[bytes, str], dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        model, seed = result.cell.model, result.cell.seed
        for record in result.records:
            by_seed = values[model][canonical_json(record.columns), record.metric]
            if seed in by_seed:
                raise ConfigError(
                    f"{model} has several settings for seed {seed}; keep the results of one before comparing"
                )
            by_seed[seed] = record
    return values


def _varies(test: SeedTest) -> bool:
    """Whether a t test says anything: where counts are few, seeds may differ by one equal amount, and t is infinite."""
    return test.difference == 0 or test.std > 1e-9 * abs(test.difference)


def _comparison(
    model: str, baseline: str, metric: str, columns: dict[str, Plain], ours: list[float], theirs: list[float]
) -> Comparison:
    test = compare_seeds(theirs, ours) if len(ours) > 1 else None
    return Comparison(
        model=model,
        baseline=baseline,
        columns=columns,
        metric=metric,
        difference=test.difference if test else ours[0] - theirs[0],
        std=test.std if test else None,
        seeds=len(ours),
        t_p=test.p_t if test is not None and _varies(test) else None,
        sign_flip_p=test.p_sign if test else None,
        holm_t_p=None,
        holm_sign_flip_p=None,
        exploratory=len(ours) < ESTABLISHED_SEEDS,
    )


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction of the p-values that exist; None stays None."""
    there = [i for i, p in enumerate(p_values) if p is not None]
    corrected: list[float | None] = [None] * len(p_values)
    for i, p in zip(there, holm([cast(float, p_values[i]) for i in there]), strict=True):
        corrected[i] = float(p)
    return corrected


# --- benchmarks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One line of `bench.json`: our figure beside a peer's on the same rows. `ratio` above 1: ours is better."""

    what: str
    against: str
    ours: float
    peer: float
    unit: str
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.ours <= 0 or self.peer <= 0:
            raise ConfigError(f"{self.what}: ours {self.ours} and peer {self.peer} must be above 0 to form a ratio")

    @property
    def ratio(self) -> float:
        return self.ours / self.peer if self.higher_is_better else self.peer / self.ours


def write_bench(path: Path, measured: Sequence[Measured], details: Mapping[str, Plain] | None = None) -> None:
    """Write `bench.json` (what, against, ours, peer, unit, ratio); machine and details go to `bench_details.json`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, [{**cast(dict[str, Plain], to_plain(m)), "ratio": m.ratio} for m in measured])
    write_json(path.with_name(f"{path.stem}_details.json"), {"machine": machine(), **(details or {})})


def machine() -> dict[str, Plain]:
    """Processor, cores this process may use, memory, Python, torch and its threads: what a figure was measured on."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text(encoding="utf-8").splitlines() if cpus.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    affinity = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    torch = sys.modules.get("torch")
    return {
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": affinity,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- peers ---------------------------------------------------------------------------------------------------------


def default_peer_cache() -> Path:
    """`$XDG_CACHE_HOME/llm-rec/peers`, or `~/.cache/llm-rec/peers`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-rec" / "peers"


def run_peer(
    name: str,
    script: Path,
    requirements: Path,
    args: Sequence[str],
    *,
    cache: Path | None = None,
    python: str = sys.executable,
    timeout: float | None = None,
) -> dict[str, Plain]:
    """Run `script` in the peer's own environment and return the JSON object of its last ``RESULT {...}`` line.

    The environment is built once per set of pins (a folder of `cache`). `PeerError` carries the end of the log when
    pip or the script fails, gives no RESULT line, or runs longer than `timeout` seconds.
    """
    interpreter = peer_environment(name, requirements, cache=cache, python=python)
    output = _call(f"{name}: {script.name}", [str(interpreter), str(script), *args], timeout)
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise PeerError(f"{name}: {script.name} ended without a RESULT line; its output ends with:\n{_tail(output)}")
    try:
        result = json.loads(lines[-1].removeprefix("RESULT "))
    except json.JSONDecodeError as error:
        raise PeerError(f"{name}: {script.name} gave a RESULT line that is not a JSON object: {lines[-1]}") from error
    if not isinstance(result, dict):
        raise PeerError(f"{name}: {script.name} gave a RESULT line that is not a JSON object: {lines[-1]}")
    return result


def peer_environment(name: str, requirements: Path, *, cache: Path | None = None, python: str = sys.executable) -> Path:
    """The interpreter of an environment that holds exactly these pins, built when it is not there yet.

    A build that was interrupted has no `ready` file and is built again.
    """
    folder = peer_folder(name, requirements, cache=cache, python=python)
    interpreter = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with progress(f"installing {name}", None):
            _call(f"{name}: venv", [python, "-m", "venv", str(folder)], 600.0)
            install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet", "-r", str(requirements)]
            _call(f"{name}: pip install -r {requirements.name}", [str(interpreter), *install], 3600.0)
        (folder / "ready").touch()
    return interpreter


def peer_folder(name: str, requirements: Path, *, cache: Path | None = None, python: str = sys.executable) -> Path:
    """Where the environment of these pins lives: other pins or another Python give another folder."""
    if not requirements.is_file():
        raise PeerError(f"{name}: {requirements} does not exist; name the file that pins what the peer needs")
    code = "import platform; print(platform.python_version())"
    release = _call(f"{name}: {python}", [python, "-c", code], 60.0).strip()
    pins = fingerprint(requirements.read_text(encoding="utf-8"), release)
    return (cache or default_peer_cache()) / f"{name}-{pins}"


def _call(what: str, command: Sequence[str], timeout: float | None) -> str:
    hidden = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # nothing of this environment may leak into the peer's
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        log = (error.stdout or b"").decode(errors="replace")  # bytes, also when text was asked for
        raise PeerError(f"{what} ran longer than {timeout:g} s; its output ends with:\n{_tail(log)}") from error
    except OSError as error:
        raise PeerError(f"{what} could not be started: {error}") from error
    if done.returncode != 0:
        raise PeerError(
            f"{what} failed with exit status {done.returncode}; its output ends with:\n{_tail(done.stdout)}"
        )
    return done.stdout


def _tail(log: str, lines: int = 20) -> str:
    return "\n".join(log.rstrip().splitlines()[-lines:]) or "(nothing)"


# --- scripts -------------------------------------------------------------------------------------------------------


def script_options(
    description: str, *, out: str, data: bool = True, seeds: int | None = None
) -> argparse.ArgumentParser:
    """The options every script shares: --data, --out, --quick and, for tables, --seeds."""
    parser = argparse.ArgumentParser(description=description)
    if data:
        parser.add_argument(
            "--data", type=Path, required=True, help="folder with items.parquet and interactions.parquet"
        )
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder of the results (default: {out})")
    parser.add_argument(
        "--quick", action="store_true", help="a reduced run of a few minutes; its figures are not results"
    )
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"number of seeds (default: {seeds})")
    return parser
