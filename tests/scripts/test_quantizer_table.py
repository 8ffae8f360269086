"""The table of quantisers, end to end on a planted folder: who is trained with how many seeds, and what is written."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from llm_rec.errors import ConfigError
from llm_rec.experiment import Cell, CellResult, Record
from llm_rec.recipes.quantizer_tables import best_rows, with_seeds
from llm_rec.recipes.tables import TableRow
from tests.scripts.loading import load

pytestmark = pytest.mark.filterwarnings("ignore::semantic_ids.kmeans.FewRowsWarning")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("quantizer_table")


def run(script: ModuleType, data: Path, out: Path, *options: str) -> int:
    words = ["--data", str(data), "--out", str(out), "--encoder", "hashing", "--jobs", "1", "--quick", "--epochs", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words, "--books", "2", "--codes", "4", *options])
        status: int = script.main()
    return status


@pytest.fixture(scope="module")
def quick(script: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantizers")
    assert run(script, data, out, "--kinds", "rqkmeans", "letter", "random") == 0
    return out


def test_controls_and_the_best_kind_have_two_seeds_and_the_other_one(quick: Path) -> None:
    frame = pd.DataFrame(json.loads((quick / "table.json").read_text()))
    seeds = frame[(frame.metric == "recall@10") & (frame.slice == "all")].set_index("model").seeds
    assert seeds[["ids alone", "text alone", "ids + random"]].tolist() == [2, 2, 2]
    assert sorted(seeds[["ids + rqkmeans", "ids + letter"]].tolist()) == [1, 2]
    tests = pd.DataFrame(json.loads((quick / "tests.json").read_text()))
    assert set(tests.baseline) == {"ids alone", "ids + random"}


def test_each_row_stands_beside_the_health_of_its_codes(quick: Path) -> None:
    lines = [line.strip("| ").split(" | ") for line in (quick / "quantizers.md").read_text().splitlines()]
    rows = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert rows["ids alone"]["overlap@10"] == "-"
    assert float(rows["ids + rqkmeans"]["overlap@10"]) > 0
    assert rows["ids + letter"]["usage"].count(" ") == 1
    compared = json.loads((quick / "comparisons" / "text-2x4-seed0" / "comparison.json").read_text())
    assert [row["kind"] for row in compared["rows"]] == ["letter", "rqkmeans", "random"]


def test_collaborative_vectors_are_made_once_and_belong_to_one_model(
    script: ModuleType, data: Path, quick: Path
) -> None:
    before = (quick / "embeddings" / "collaborative" / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match=r"collaborative are vectors of another model; choose another --out"):
        run(script, data, quick, "--kinds", "letter", "--epochs", "2")
    assert (quick / "embeddings" / "collaborative" / "manifest.json").read_bytes() == before


def result(name: str, validation: float, seed: int = 0) -> CellResult:
    records = [Record("validation", validation, {"slice": "all"})]
    return CellResult(Cell(name, {}, seed), "done", 1.0, records)


def test_the_best_are_chosen_by_validation_of_seed_zero_beside_the_controls(script: ModuleType) -> None:
    results = [result("a", 0.1), result("b", 0.3), result("c", 0.2), result("random", 0.9), result("a", 0.9, seed=1)]
    assert best_rows(results, 2, ["random"]) == {"b", "c", "random"}
    row = next(script.table_rows(script.Setup(), []))
    rows = [TableRow(name=name, method=row.method, seeds=1) for name in ("a", "b")]
    assert [(row.name, row.seeds) for row in with_seeds(rows, {"b"}, 3)] == [("a", 1), ("b", 3)]
