"""Tables of domains and tasks, end to end: the planted world, folders, ages, census; rows, figures, resumption."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from llm_rec.data.columns import ClickLog
from llm_rec.data.sources.census import CATEGORIES, NUMBERS
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log, folders_log, task_log
from tests.scripts.loading import load


@pytest.fixture(scope="module")
def domain_table() -> ModuleType:
    return load("domain_table")


@pytest.fixture(scope="module")
def task_table() -> ModuleType:
    return load("task_table")


def run(script: ModuleType, out: Path, *options: str) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["table", "--out", str(out), "--quick", "--jobs", "1", *options])
        assert script.main() == 0
    return pd.DataFrame(json.loads((out / "table.json").read_text()))


def write_folder(folder: Path, *, ages: bool = False) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(len(folder.name))
    items = pd.DataFrame({"item_id": [str(item) for item in range(12)], "title": "x", "genres": "a|b", "kind": "k|l"})
    items.to_parquet(folder / "items.parquet")
    events = [
        (f"u{user}", str(item), place) for user in range(15) for place, item in enumerate(rng.permutation(12)[:5])
    ]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    if ages:
        users = pd.DataFrame({"user_id": [f"u{user}" for user in range(15)], "gender": "F", "occupation": "1"})
        users["age"] = [("18", "35")[user % 3 == 0] for user in range(15)]
        users.to_parquet(folder / "users.parquet")
    return folder


def test_the_table_has_domains_means_and_the_worst_and_is_made_once(domain_table, tmp_path: Path, capsys) -> None:
    rows = (
        "one shared tower",
        "Crocodile",
        "Crocodile: without covariance",
        "Shared-Bottom: 1+2+3",
        "Shared-Bottom: joint",
    )
    frame = run(domain_table, tmp_path, "--rows", *rows)
    assert sorted(frame.model.unique()) == sorted(rows)
    assert {"all", "domain_d0", "domain_d1", "domain_d2"} == set(frame.slice)
    values = frame[(frame.model == "Crocodile") & (frame.metric == "auc")]["mean"]
    figures = frame[(frame.model == "Crocodile") & (frame.slice == "all")].set_index("metric")["mean"]
    assert figures["macro_auc"] == pytest.approx(values.mean())
    assert figures["worst_auc"] == values.min()
    assert {"expert_correlation", "expert_deviation", "abundance_tail", "parameters", "updates"} <= set(figures.index)
    text = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.endswith(text + "\n")
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    again = run(domain_table, tmp_path, "--rows", *rows)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells
    pd.testing.assert_frame_equal(frame, again)
    assert not list((tmp_path / "runs").rglob("model.safetensors"))


def test_phases_are_tested_against_joint_training_and_parts_against_the_whole(domain_table, tmp_path: Path) -> None:
    args = domain_table.options().parse_args(["--out", str(tmp_path), "--quick"])
    rows = list(domain_table.planted_rows(args))
    named = {first.split(" (")[0]: second.split(" (")[0] for first, second in domain_table.pairs(rows)}
    assert named["MMoE: 1+3"] == "MMoE: joint"
    assert named["Crocodile: nothing"] == "Crocodile"
    assert named["STAR"] == "one shared tower"
    assert "MMoE: joint" not in named
    assert len({row.full_name for row in rows}) == len(rows) == 1 + 14 + 1 + 5 + 4 * 7


def test_folders_and_ages_become_logs_of_domains(tmp_path: Path) -> None:
    folders = [write_folder(tmp_path / name) for name in ("beauty", "sports")]
    log = ClickLog.load(folders_log(folders, tmp_path / "logs", ["kind"], last=4))
    assert log.columns[2].encoder.state["values"] == ["beauty", "sports"]
    assert log.rows["test"] == 2 * 2 * 15
    ages = write_folder(tmp_path / "movies", ages=True)
    by_age = ClickLog.load(click_log(ages, tmp_path / "logs", InteractionRowsConfig(domain="age")))
    assert by_age.schema.domain == "age"
    assert by_age.schema.num_domains == 2
    with pytest.raises(ValueError, match=r"domain must be one of .*, in rows without histories, got 'zip'"):
        InteractionRowsConfig(domain="zip")


def test_tasks_stand_beside_a_model_for_each(task_table, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "census").mkdir()
    for file, rows in (("train", 300), ("test", 100)):
        frame = pd.DataFrame({name: rng.integers(0, 50, rows) for name in NUMBERS})
        for name in CATEGORIES:
            frame[name] = rng.choice(["Never married", "x"], rows)
        frame["income_above_50k"] = (rng.random(rows) < 0.3).astype(np.int64)
        frame.to_parquet(tmp_path / "census" / f"{file}.parquet")
    single = ClickLog.load(task_log(tmp_path / "census", tmp_path / "logs", ("never_married",)))
    assert single.schema.labels == ("never_married",)
    assert "marital_stat" not in [field.name for field in single.schema.fields]
    rows = ("single task: income", "Shared-Bottom")
    frame = run(task_table, tmp_path / "out", "--data", str(tmp_path / "census"), "--rows", *rows)
    assert set(frame[frame.model == "Shared-Bottom"].slice) == {"all", "task_income", "task_never_married"}
    alone = frame[frame.model == "single task: income"]
    assert set(alone.slice) == {"all", "task_income"}
    figures = alone[alone.slice == "all"].set_index("metric")["mean"]
    assert figures["macro_auc"] == alone[(alone.slice == "task_income") & (alone.metric == "auc")]["mean"].item()
    assert "pooled_auc" not in figures.index
