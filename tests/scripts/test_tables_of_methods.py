"""The tables of methods, end to end on a planted folder: rows, slices, files, resumption, several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from llm_rec.errors import ConfigError
from llm_rec.recipes.tables import TableRow, select
from semantic_ids.quantizers import RQKMeansConfig
from tests.scripts.loading import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pad_table() -> ModuleType:
    return load("pad_table")


@pytest.fixture(scope="module")
def sequential_table() -> ModuleType:
    return load("sequential_table")


def run(script: ModuleType, data: Path, out: Path, *options: str) -> int:
    words = [
        "--data", str(data), "--out", str(out), "--encoder", "hashing", "--seeds", "1", "--epochs", "2", "--jobs", "1"
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", *words, *options])
        status: int = script.main()
    return status


def read_table(out: Path) -> pd.DataFrame:
    return pd.DataFrame(json.loads((out / "table.json").read_text()))


def test_pad_and_its_first_phase_share_one_training_and_are_compared(
    pad_table: ModuleType, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["SASRec (BCE)", "PAD (BCE)", "PAD (BCE): single bucket"]
    assert run(pad_table, data, tmp_path, "--ablation-seeds", "1", "--rows", *rows) == 0

    frame = read_table(tmp_path)
    assert sorted(frame.model.unique()) == sorted(rows)
    assert {"all", "unseen", "1-4", "lt5", "lt10", "warm", "bucket_1", "bucket_10"} <= set(frame.slice)
    counts = frame[(frame.metric == "targets") & (frame.model == "PAD (BCE)")].set_index("slice")["mean"]
    assert (counts["all"], counts["unseen"]) == (60, 6)
    tests = pd.DataFrame(json.loads((tmp_path / "tests.json").read_text()))
    assert set(zip(tests.model, tests.baseline, strict=True)) == {(rows[1], rows[0]), (rows[2], rows[1])}
    assert set(tests.slice) <= {"all", "unseen", "lt5", "warm"}
    assert "| PAD (BCE) | unseen | 6 | 0." in (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.endswith((tmp_path / "table.md").read_text() + "\n")

    curves = [path.read_text() for path in sorted((tmp_path / "runs").glob("*/01-pretrain/log.jsonl"))]
    assert len(curves) == 3
    assert len({curve for curve in curves if curve}) <= 2  # phase 1 of the first two rows is one training
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
    assert list((tmp_path / "phases").iterdir())  # other rows may begin with them


def test_every_ablation_trains_and_is_tested_against_pad(pad_table: ModuleType, data: Path, tmp_path: Path) -> None:
    assert run(pad_table, data, tmp_path, "--ablation-seeds", "1", "--epochs", "1") == 0
    tests = pd.DataFrame(json.loads((tmp_path / "tests.json").read_text()))
    ablated = {model for model in read_table(tmp_path).model if model.startswith("PAD (BCE): ")}
    assert len(ablated) == 12
    assert ablated < set(tests[tests.baseline == "PAD (BCE)"].model)
    assert not (tmp_path / "phases").exists()


def test_a_finished_cell_is_not_trained_again_and_a_failed_one_is(
    pad_table: ModuleType, data: Path, tmp_path: Path
) -> None:
    options = ["--rows", "SASRec (sampled softmax)", "text only"]
    run(pad_table, data, tmp_path, *options)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    gone = next(path for path in before if path.name.startswith("text-only") and path.suffix == ".json")
    gone.unlink()
    for folder in (tmp_path / "runs").glob("text-only*"):
        for file in folder.rglob("manifest.json"):  # as if the run had been stopped in its phase
            file.unlink()
    first = (tmp_path / "table.json").read_text()
    run(pad_table, data, tmp_path, *options)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert after.keys() == before.keys()
    assert {path.name.split("-seed0")[0] for path in after if after[path] != before[path]} == {"text-only"}
    assert (tmp_path / "table.json").read_text() == first


def test_other_data_in_the_same_folder_is_refused(pad_table: ModuleType, data: Path, tmp_path: Path) -> None:
    run(pad_table, data, tmp_path, "--rows", "text only")
    other = tmp_path / "other"
    other.mkdir()
    items = pd.read_parquet(data / "items.parquet")
    items["title"] = items["title"].str.upper()
    items.to_parquet(other / "items.parquet")
    pd.read_parquet(data / "interactions.parquet").to_parquet(other / "interactions.parquet")
    with pytest.raises(ConfigError, match=r"catalog was not made from .*other as it is now; choose another --out"):
        run(pad_table, other, tmp_path, "--rows", "text only")


def test_every_row_of_the_sequential_table_trains(sequential_table: ModuleType, data: Path, tmp_path: Path) -> None:
    tiny = {
        "moc": RQKMeansConfig(num_codebooks=2, codebook_size=3),
        "rqvae": RQKMeansConfig(num_codebooks=1, codebook_size=3),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential_table, "QUANTIZERS", tiny)
        assert run(sequential_table, data, tmp_path, "--dim", "8") == 0
    frame = read_table(tmp_path)
    assert frame.model.nunique() == 9
    assert (frame.seeds == 1).all()
    assert frame.exploratory.all()
    tests = pd.DataFrame(json.loads((tmp_path / "tests.json").read_text()))
    assert set(tests[tests.baseline == sequential_table.TUNED].model) == set(frame.model.unique()[3:])


def test_the_tuning_grid_is_ordered_by_validation(sequential_table: ModuleType, data: Path, tmp_path: Path) -> None:
    rows = [
        f"dim 64, dropout 0.2, item dropout {item_dropout}, 256 negatives, {block}"
        for item_dropout in (0.2, 0.0)
        for block in ("released", "pre-norm")
    ]
    run(sequential_table, data, tmp_path, "--tune", "--rows", *rows)
    frame = read_table(tmp_path / "tune")
    validation = frame[frame.metric == "validation"]["mean"].tolist()
    assert len(validation) == 4
    assert validation == sorted(validation, reverse=True)


def test_two_processes_give_the_same_table(data: Path, tmp_path: Path, pad_table: ModuleType) -> None:
    rows = ["--rows", "SASRec (sampled softmax)", "text only"]
    run(pad_table, data, tmp_path / "one", *rows)
    command = [
        sys.executable,
        str(ROOT / "scripts" / "pad_table.py"),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "two"),
    ]
    options = ["--encoder", "hashing", "--seeds", "1", "--epochs", "2", "--jobs", "2"]
    done = subprocess.run(
        [*command, *options, *rows], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two" / "table.json").read_text() == (tmp_path / "one" / "table.json").read_text()


def test_an_unknown_row_is_named_with_the_nearest(pad_table: ModuleType, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no row is called 'PAD \(BCF\)'; did you mean 'PAD \(BCE\)'\?"):
        run(pad_table, data, tmp_path, "--rows", "PAD (BCF)")
    row = TableRow(
        name="text only",
        method=pad_table.setup(pad_table.options().parse_args(["--data", "x"])).with_items(
            pad_table.IdItemsConfig(), seen=True
        ),
        seeds=1,
    )
    with pytest.raises(ConfigError, match=r"no row is called 'zzz'; the rows are text only"):
        select([row], ["zzz"])


def test_the_papers_own_settings_are_a_named_config(pad_table: ModuleType) -> None:
    args = pad_table.options().parse_args(["--data", "x", "--config", "paper"])
    setup = pad_table.setup(args)
    assert (setup.pad.dim, setup.pad.backbone.num_layers, setup.training.align.learning_rate) == (128, 5, 1e-5)
    names = [row.name for row in pad_table.table_rows(setup, 5, 3)]
    assert len(names) == len(set(names)) == 22
