"""Grids run what is missing, record what fails, and survive interruption."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_rec.errors import ConfigError, TrainingError
from llm_rec.experiment import Cell, Record, cell_name, run_grid


class TestRunGrid:
    def test_rerun_runs_only_what_is_missing(self, tmp_path: Path) -> None:
        ran: list[Cell] = []

        def run(cell: Cell) -> list[Record]:
            ran.append(cell)
            return [Record("recall@10", cell.seed / 10)]

        first = [Cell("a", {"dim": 8}, 0), Cell("a", {"dim": 8}, 1)]
        run_grid(first, run, tmp_path)
        more = [*first, Cell("b", {"dim": 8}, 0)]
        results = run_grid(more, run, tmp_path)
        assert ran == more
        assert [result.cell for result in results] == more
        assert [result.records[0].value for result in results] == [0.0, 0.1, 0.0]

    def test_a_cell_is_on_disk_before_the_next_one_starts(self, tmp_path: Path) -> None:
        def run(cell: Cell) -> list[Record]:
            if cell.seed == 2:
                raise KeyboardInterrupt
            return [Record("recall@10", 1.0)]

        cells = [Cell("a", {}, seed) for seed in range(4)]
        with pytest.raises(KeyboardInterrupt):
            run_grid(cells, run, tmp_path)
        names = sorted(path.name for path in (tmp_path / "cells").iterdir())
        assert names == sorted(f"{cell_name(cell, {})}.json" for cell in cells[:2])

    def test_failed_cells_are_recorded_and_run_again(self, tmp_path: Path) -> None:
        broken = True

        def run(cell: Cell) -> list[Record]:
            if broken and cell.seed == 0:
                raise TrainingError("the loss is not finite; lower the learning rate")
            return [Record("recall@10", 0.5)]

        cells = [Cell("a", {}, 0), Cell("a", {}, 1)]
        failed, done = run_grid(cells, run, tmp_path)
        assert (failed.status, failed.records, done.status) == ("failed", [], "done")
        assert failed.error is not None
        assert failed.error.endswith("TrainingError: the loss is not finite; lower the learning rate")
        broken = False
        assert [result.status for result in run_grid(cells, run, tmp_path)] == ["done", "done"]

    def test_a_mistake_in_the_script_ends_the_grid(self, tmp_path: Path) -> None:
        def run(cell: Cell) -> list[Record]:
            raise TypeError("unexpected argument")

        with pytest.raises(TypeError, match="unexpected argument"):
            run_grid([Cell("a", {}, 0)], run, tmp_path)
        assert not list(tmp_path.rglob("*.json"))

    def test_contexts_in_one_folder_never_mix(self, tmp_path: Path) -> None:
        cells = [Cell("a", {}, 0)]
        run_grid(cells, lambda cell: [Record("auc", 0.1)], tmp_path, context={"quick": True})
        results = run_grid(cells, lambda cell: [Record("auc", 0.9)], tmp_path, context={"quick": False})
        assert results[0].records[0].value == 0.9
        again = run_grid(cells, lambda cell: [Record("auc", 0.5)], tmp_path, context={"quick": True})
        assert again[0].records[0].value == 0.1

    def test_equal_cells_are_refused(self, tmp_path: Path) -> None:
        cells = [Cell("a", {"dim": 8}, 0), Cell("a", {"dim": 8}, 0)]
        with pytest.raises(ConfigError, match="occurs more than once in the grid; give each run a seed or setting"):
            run_grid(cells, lambda cell: [], tmp_path)

    def test_report_sees_only_the_cells_that_ran(self, tmp_path: Path) -> None:
        seen: list[int] = []
        for _ in range(2):
            run_grid(
                [Cell("a", {}, 3)],
                lambda cell: [Record("auc", 0.5)],
                tmp_path,
                report=lambda result: seen.append(result.cell.seed),
            )
        assert seen == [3]

    @pytest.mark.parametrize(
        ("setting", "columns", "name"), [({}, {"seeds": 1}, "seeds"), ({"dim": 8}, {"dim": 8}, "dim")]
    )
    def test_a_column_may_not_hide_another(
        self, tmp_path: Path, setting: dict[str, int], columns: dict[str, int], name: str
    ) -> None:
        result = run_grid([Cell("a", dict(setting), 0)], lambda cell: [Record("auc", 0.5, dict(columns))], tmp_path)[0]
        assert result.error is not None
        assert f"a: auc: column '{name}' is already taken; rename it" in result.error

    def test_a_value_that_is_not_finite_fails_its_cell(self, tmp_path: Path) -> None:
        result = run_grid([Cell("a", {}, 0)], lambda cell: [Record("auc", math.nan)], tmp_path)[0]
        assert result.error is not None
        assert "a: auc is nan; a record holds a finite number" in result.error


WORKERS = """
import os, signal, sys
from pathlib import Path
from llm_rec.experiment import Cell, Record, run_grid

def run(cell):
    if cell.model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.model == "wrong":
        raise ValueError("no such thing")
    return [Record("auc", cell.seed / 10), Record("pid", float(os.getpid()))]

if __name__ == "__main__":
    cells = [Cell(model, {}, seed) for model in sys.argv[2:] for seed in range(2)]
    results = run_grid(cells, run, Path(sys.argv[1]), jobs=2)
    assert [r.cell for r in results] == cells
    assert all(r.records[1].value != os.getpid() for r in results if r.records)
    print([r.status for r in results])
"""


def run_workers(tmp_path: Path, *models: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    command = [sys.executable, str(script), str(tmp_path / "out"), *models]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_cells_run_in_worker_processes_and_a_killed_one_ends_the_grid(tmp_path: Path) -> None:
    stopped = run_workers(tmp_path, "good", "wrong", "killed")
    assert "a worker process was killed (out of memory?); finished cells are kept" in stopped.stderr
    done = run_workers(tmp_path, "good", "wrong")
    assert done.stdout == "['done', 'done', 'failed', 'failed']\n", done.stderr


def test_less_than_one_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="jobs must be at least 1, got 0"):
        run_grid([], lambda cell: [], tmp_path, jobs=0)
