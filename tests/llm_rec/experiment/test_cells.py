"""A cell's result on disk."""

import re
from pathlib import Path

import numpy as np
import pytest

from llm_rec.errors import ArtifactError
from llm_rec.experiment import Cell, CellResult, Record, cell_name, read_cell, write_cell


class TestCellFile:
    def test_round_trip_keeps_values_columns_and_targets(self, tmp_path: Path) -> None:
        hits = np.array([0.0, 1.0, 1.0])
        records = [Record("recall@10", 2 / 3, {"slice": "all"}, hits), Record("mrr", 0.1, {"slice": "unseen"})]
        path = tmp_path / "cells" / "x.json"
        write_cell(path, CellResult(Cell("a", {"dim": 8, "items": {"kind": "id"}}, 7), "done", 1.5, records))
        back = read_cell(path)
        assert back.cell == Cell("a", {"dim": 8, "items": {"kind": "id"}}, 7)
        assert [(r.metric, r.value, r.columns) for r in back.records] == [
            (r.metric, r.value, r.columns) for r in records
        ]
        assert back.records[0].per_target is not None
        np.testing.assert_array_equal(back.records[0].per_target, hits)
        assert back.records[1].per_target is None

    def test_no_partial_file_stays_behind(self, tmp_path: Path) -> None:
        record = Record("recall@10", 1.0, {}, np.ones(2))
        write_cell(tmp_path / "cells" / "x.json", CellResult(Cell("a", {}, 0), "done", 1.0, [record]))
        assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["x.json", "x.npz"]

    @pytest.mark.parametrize("text", ["[]", "{}", '{"arrays": [], "records": []}', '{"arrays": [], "records": [3]}'])
    def test_a_foreign_file_is_refused(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "x.json"
        path.write_text(text)
        with pytest.raises(ArtifactError, match=re.escape(str(path)) + ".*remove the file to run the cell again"):
            read_cell(path)

    def test_names_differ_by_model_setting_seed_and_context(self) -> None:
        cells = [Cell("a", {}, 0), Cell("b", {}, 0), Cell("a", {"dim": 1}, 0), Cell("a", {}, 1)]
        names = {cell_name(cell, context) for cell in cells for context in ({}, {"quick": True})}
        assert len(names) == 8
        assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
