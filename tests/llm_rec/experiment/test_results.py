"""Tables over seeds."""

import math
import re
from pathlib import Path

import pytest

from llm_rec.artifacts import read_json
from llm_rec.errors import ConfigError
from llm_rec.experiment import Cell, CellResult, Record, compare, markdown, table, write_table
from tests.llm_rec.experiment.series import results_of


class TestTable:
    def test_mean_and_sample_deviation_over_seeds(self) -> None:
        row = table(results_of({"a": [0.1, 0.2, 0.6]}, {"slice": "all"}))[0]
        assert (row.model, row.columns, row.metric, row.seeds) == ("a", {"slice": "all"}, "recall@10", 3)
        assert row.mean == pytest.approx(0.3)
        assert row.std == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))

    def test_one_seed_has_no_deviation(self) -> None:
        assert table(results_of({"a": [0.1]}))[0].std is None

    def test_fewer_than_five_seeds_are_exploratory(self) -> None:
        rows = table(results_of({"a": [0.1] * 4, "b": [0.1] * 5}))
        assert [row.exploratory for row in rows] == [True, False]

    def test_settings_and_slices_have_rows_of_their_own(self) -> None:
        results = [
            CellResult(Cell("a", {"dim": dim}, 0), "done", 1.0, [Record("auc", 0.5, {"slice": s}) for s in "xy"])
            for dim in (8, 16)
        ]
        columns = [row.columns for row in table(results)]
        assert columns == [{"dim": d, "slice": s} for d in (8, 16) for s in "xy"]

    def test_failed_cells_do_not_count(self) -> None:
        failed = CellResult(Cell("a", {}, 1), "failed", 1.0, [], "ValueError: x")
        assert table([*results_of({"a": [0.4]}), failed])[0].seeds == 1

    def test_json_is_flat(self, tmp_path: Path) -> None:
        results = results_of({"a": [0.1, 0.3], "b": [0.1, 0.2]}, {"slice": "unseen"})
        write_table(tmp_path / "table.json", table(results)[:1], compare(results, [("a", "b")], ["recall@10"]))
        assert read_json(tmp_path / "table.json") == [
            {
                "model": "a",
                "slice": "unseen",
                "metric": "recall@10",
                "mean": 0.2,
                "std": pytest.approx(math.sqrt(0.02)),
                "seeds": 2,
                "exploratory": True,
            }
        ]
        tests = read_json(tmp_path / "tests.json")
        assert isinstance(tests, list)
        assert isinstance(tests[0], dict)
        assert (tests[0]["model"], tests[0]["baseline"], tests[0]["slice"]) == ("a", "b", "unseen")

    def test_markdown_has_a_line_for_each_model_and_column(self) -> None:
        rows = table([*results_of({"a": [0.1, 0.3]}, {"slice": "x"}), *results_of({"b": [0.5] * 5}, {"slice": "x"})])
        assert markdown(rows, ["recall@10"], ["slice"]).splitlines() == [
            "| model | slice | recall@10 |",
            "| --- | --- | --- |",
            "| a | x | 0.2000 ± 0.1414 (2*) |",
            "| b | x | 0.5000 ± 0.0000 (5) |",
        ]

    def test_markdown_refuses_to_overwrite_a_line(self) -> None:
        rows = table([*results_of({"a": [0.1]}, {"slice": "x"}), *results_of({"a": [0.1]}, {"slice": "y"})])
        with pytest.raises(ConfigError, match=re.escape("several rows of recall@10 on one line; name the columns")):
            markdown(rows, ["recall@10"])
