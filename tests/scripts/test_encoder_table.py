"""The table of tuned encoders, end to end on a planted folder with a tiny model: rows, tests, ledger, resumption."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from llm_rec.artifacts import read_manifest
from llm_rec.errors import ConfigError
from tests.llm_rec.encoders.tiny_models import make_bert
from tests.scripts.loading import load

ENCODERS = ("untuned", "both")
ROWS = ("neighbours", "text only")


@pytest.fixture(scope="module")
def encoder_table() -> ModuleType:
    return load("encoder_table")


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("model"), pd.read_parquet(data / "items.parquet").title.tolist())


def run(script: ModuleType, data: Path, model: Path, out: Path, *options: str) -> int:
    words = ["--data", str(data), "--out", str(out), "--model", str(model), "--jobs", "1", "--batch-size", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words, "--quick", *options])
        status: int = script.main()
    return status


def read_table(out: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads((out / "table.json").read_text()))


@pytest.fixture(scope="module")
def finished(encoder_table: ModuleType, data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert run(encoder_table, data, model, out, "--rows", *ROWS, "--ledger", str(out / "ledger.jsonl")) == 0
    return out


def test_every_encoder_has_its_neighbours_and_its_recommender(finished: Path) -> None:
    frame = read_table(finished)
    assert set(frame.model) == {f"{row}, {name}" for row in ROWS for name in ENCODERS}
    stores = [read_manifest(store).inputs["encoder"] for store in finished.glob("encoders/*/embeddings/text")]
    assert len(set(stores)) == len(ENCODERS)
    counts = frame[frame.metric == "targets"].groupby("slice")["mean"].unique()
    assert (counts["all"].tolist(), counts["unseen"].tolist()) == ([60.0], [6.0])
    assert [folder.name.startswith("both-") for folder in (finished / "adapters").iterdir()] == [True]


def test_rows_are_tested_against_those_of_the_untuned_encoder(finished: Path) -> None:
    tests = pd.DataFrame(json.loads((finished / "tests.json").read_text()))
    pairs = set(zip(tests.model, tests.baseline, strict=True))
    assert pairs == {(f"{row}, both", f"{row}, untuned") for row in ROWS}


def test_run_again_nothing_is_computed_twice_and_a_ledger_knows_the_cells(
    encoder_table: ModuleType, data: Path, model: Path, finished: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")}
    lines = (finished / "ledger.jsonl").read_bytes().count(b"\n")
    assert lines == 4
    table = (finished / "table.json").read_bytes()
    for cell in finished.rglob("cells/*.json"):
        cell.unlink()
    assert run(encoder_table, data, model, finished, "--rows", *ROWS, "--ledger", str(finished / "ledger.jsonl")) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*.safetensors")} == before
    assert (finished / "table.json").read_bytes() == table
    assert (finished / "ledger.jsonl").read_bytes().count(b"\n") == lines


def test_every_encoder_is_tuned_by_its_own_pairs(encoder_table: ModuleType) -> None:
    args = encoder_table.options().parse_args(["--data", "x", "--steps", "7"])
    found = {name: encoder_table.tuning_of(args, name).pairs for name in encoder_table.PAIRS}
    sources = {name: (pairs.co_interaction is not None, pairs.views is not None) for name, pairs in found.items()}
    assert sources == {"co-interaction": (True, False), "views": (False, True), "both": (True, True)}
    assert {pairs.steps for pairs in found.values()} == {7}


def test_a_row_that_there_is_not_is_an_error(
    encoder_table: ModuleType, data: Path, model: Path, finished: Path
) -> None:
    with pytest.raises(ConfigError, match="no row is called 'text olny, untuned'; did you mean 'text only, untuned'?"):
        run(encoder_table, data, model, finished, "--encoders", "untuned", "--rows", "text olny")
