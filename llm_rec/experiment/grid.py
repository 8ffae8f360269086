"""Grids of cells that survive interruption: a rerun does only what is missing or has failed."""

import multiprocessing
import multiprocessing.connection
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from llm_rec.codec import Plain
from llm_rec.errors import ArtifactError, ConfigError, LlmRecError
from llm_rec.experiment.cells import Cell, CellResult, Record, cell_name, read_cell, write_cell
from llm_rec.experiment.ledger import Ledger
from llm_rec.progress import track

# What a cell may fail with and the grid goes on. A TypeError, NameError or KeyboardInterrupt is a mistake in the
# script or a wish of its user, and ends the grid.
CELL_ERRORS = (LlmRecError, ArithmeticError, MemoryError, OSError, RuntimeError, ValueError)


def run_grid(
    cells: Sequence[Cell],
    run: Callable[[Cell], list[Record]],
    out: Path,
    *,
    context: Mapping[str, Plain] | None = None,
    report: Callable[[CellResult], None] | None = None,
    jobs: int = 1,
    ledger: Ledger | None = None,
) -> list[CellResult]:
    """Run every cell that has no result under `out/cells` yet, in order, and return the results of all cells.

    `context` holds what all cells share and the results depend on (fingerprint of the data, ``quick``): other contexts
    in the same folder never mix. `report` is called after every cell that ran, in this process. Failed cells are
    recorded with their error and run again next time. What `ledger` knows is not run, and what is finished in `out` is
    added to it. With `jobs` above 1 that many worker processes take the cells in order; `run` must then be picklable.
    They end with this process, however it ends. Raises `ConfigError` when two cells are equal, and `ArtifactError` when
    a worker is killed.
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
    results = _known(paths, ledger)
    todo = [i for i, result in enumerate(results) if result is None or result.status == "failed"]
    for i, result in track(_outcomes(cells, todo, run, min(jobs, len(todo))), "cells", total=len(todo)):
        write_cell(paths[i], result)
        if ledger is not None and result.status == "done":
            ledger.add(paths[i].stem, result)
        results[i] = result
        if report is not None:
            report(result)
    return [result for result in results if result is not None]


def _known(paths: Sequence[Path], ledger: Ledger | None) -> list[CellResult | None]:
    """What is known of every cell, from its file or else from the ledger, which gets what it lacks."""
    results = [read_cell(path) if path.exists() else None for path in paths]
    if ledger is None:
        return results
    kept = ledger.read()
    for path, result in zip(paths, results, strict=True):
        if result is not None and result.status == "done" and path.stem not in kept:
            ledger.add(path.stem, result)
    return [
        kept.get(path.stem, result) if result is None or result.status == "failed" else result
        for path, result in zip(paths, results, strict=True)
    ]


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
