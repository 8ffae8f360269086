"""A ledger keeps finished cells of any number of runs: nothing is done twice, nothing is mixed, nothing is lost."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llm_rec.codec import Plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.experiment import Cell, CellResult, Ledger, Record, cell_name, run_grid

CELLS = [Cell("a", {"dim": 8}, 0), Cell("a", {"dim": 8}, 1)]


def done(cell: Cell, value: float = 0.5) -> CellResult:
    return CellResult(cell, "done", 1.5, [Record("auc", value, {"slice": "all"})])


def grid(out: Path, ledger: Path, cells: list[Cell], context: dict[str, Plain] | None = None) -> list[Cell]:
    """The cells that had to be run."""
    ran = []

    def run(cell: Cell) -> list[Record]:
        ran.append(cell)
        if cell.model == "broken":
            raise ValueError("no such thing")
        return [Record("auc", cell.seed / 10, {"slice": "all"}, np.array([0.0, 1.0]))]

    run_grid(cells, run, out, ledger=Ledger(ledger), context=context)
    return ran


class TestLedger:
    def test_what_is_added_is_read_but_for_values_of_single_targets(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "kept" / "cells.jsonl")
        record = Record("auc", 0.5, {"slice": "all"}, np.array([0.0, 1.0]))
        ledger.add("one", CellResult(CELLS[0], "done", 1.5, [record]))
        found = ledger.read()["one"]
        assert (found.cell, found.status, found.seconds) == (CELLS[0], "done", 1.5)
        assert found.records[0].per_target is None
        assert (found.records[0].metric, found.records[0].value, found.records[0].columns) == (
            "auc",
            0.5,
            {"slice": "all"},
        )

    def test_a_ledger_that_is_not_there_is_empty(self, tmp_path: Path) -> None:
        assert Ledger(tmp_path / "none.jsonl").read() == {}

    def test_the_later_of_two_lines_of_a_name_counts(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "cells.jsonl")
        ledger.add("one", done(CELLS[0], 0.5))
        ledger.add("one", done(CELLS[0], 0.7))
        assert ledger.read()["one"].records[0].value == 0.7

    def test_what_a_killed_writer_left_is_passed_over_and_dropped(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path / "cells.jsonl")
        ledger.add("one", done(CELLS[0]))
        with ledger.path.open("ab") as file:
            file.write(b'{"name": "two", "resu')
        assert list(ledger.read()) == ["one"]
        ledger.add("three", done(CELLS[1]))
        assert list(ledger.read()) == ["one", "three"]
        assert all(json.loads(line) for line in ledger.path.read_text().splitlines())

    def test_a_failed_cell_is_not_kept(self, tmp_path: Path) -> None:
        failed = CellResult(CELLS[0], "failed", 1.0, [], "why")
        with pytest.raises(ConfigError, match="one is failed: a ledger keeps finished cells alone"):
            Ledger(tmp_path / "cells.jsonl").add("one", failed)

    @pytest.mark.parametrize("line", ["[]", "no json", '{"name": "x"}', '{"name": "x", "result": {"cell": 1}}'])
    def test_a_line_that_is_no_cell_is_named(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "cells.jsonl"
        path.write_text(f"\n{line}\n")
        with pytest.raises(ArtifactError, match=re.escape(f"{path}:2: not a finished cell")):
            Ledger(path).read()


class TestGridWithLedger:
    def test_what_another_run_finished_is_not_run_again(self, tmp_path: Path) -> None:
        ledger = tmp_path / "cells.jsonl"
        assert grid(tmp_path / "first", ledger, CELLS[:1]) == CELLS[:1]
        assert grid(tmp_path / "second", ledger, CELLS) == CELLS[1:]
        results = run_grid(CELLS, lambda cell: [], tmp_path / "third", ledger=Ledger(ledger))
        assert [result.records[0].value for result in results] == [0.0, 0.1]

    def test_a_cell_of_other_data_is_run(self, tmp_path: Path) -> None:
        ledger = tmp_path / "cells.jsonl"
        grid(tmp_path / "first", ledger, CELLS, {"data": "one"})
        assert grid(tmp_path / "second", ledger, CELLS, {"data": "another"}) == CELLS

    def test_what_is_finished_in_the_folder_already_is_added(self, tmp_path: Path) -> None:
        ledger = tmp_path / "cells.jsonl"
        run_grid(CELLS, lambda cell: [Record("auc", 0.25)], tmp_path / "out")
        assert grid(tmp_path / "out", ledger, CELLS) == []
        assert set(Ledger(ledger).read()) == {cell_name(cell, {}) for cell in CELLS}
        assert grid(tmp_path / "elsewhere", ledger, CELLS) == []

    def test_a_failed_cell_is_tried_again_and_taken_from_the_ledger_once_it_is_there(self, tmp_path: Path) -> None:
        broken, ledger = Cell("broken", {}, 0), tmp_path / "cells.jsonl"
        assert grid(tmp_path / "out", ledger, [broken]) == [broken]
        assert grid(tmp_path / "out", ledger, [broken]) == [broken]
        Ledger(ledger).add(cell_name(broken, {}), done(broken))
        assert grid(tmp_path / "out", ledger, [broken]) == []
