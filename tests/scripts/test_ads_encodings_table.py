"""The table of feature encodings, end to end on made-up data; no row of frappe sees its own event."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctr_models.encode import NumeralsConfig, QuantileConfig
from ctr_models.schema import Numerals
from llm_rec.data.columns import ClickLog
from llm_rec.data.sources.census import CATEGORIES, NUMBERS
from llm_rec.data.sources.frappe import FIELDS
from llm_rec.encoders import HashingEncoderConfig, build_encoder
from llm_rec.errors import DataError
from llm_rec.recipes.encoding_logs import app_catalog, encoding_log, encoding_source, frappe_with_apps
from tests.scripts.loading import load

APPS = 12
TEXTS = HashingEncoderConfig(dim=16)


@pytest.fixture(scope="module")
def frappe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 events, each with two negatives, of 8 users and 12 apps; nothing is known of app 11."""
    folder = tmp_path_factory.mktemp("frappe")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 4, 600) for name in FIELDS})
    frame["user"], frame["item"] = np.repeat(rng.integers(0, 8, 200), 3), rng.integers(0, APPS, 600)
    frame["label"], frame["log_row"] = np.tile([1, 0, 0], 200), np.repeat(np.arange(200), 3)
    frame["split"] = rng.choice(["train", "valid", "test"], 600, p=[0.6, 0.2, 0.2])
    frame.astype(dict.fromkeys(FIELDS, "str")).to_parquet(folder / "ctr.parquet")
    apps = pd.DataFrame({"item_id": [str(app) for app in range(APPS)]})
    apps["name"] = [f"app {app}" for app in range(APPS)]
    apps["category"] = ["Tools", "Music", "Games"] * 4
    apps["short desc"] = [f"{word} for all" for word in ("hammer", "violin", "chess", "saw") * 3]
    apps["rating"] = [str(4 + app / 10) for app in range(APPS)]
    apps["price"] = ["Free", "$2.99", "3,59 €"] * 4
    apps.loc[APPS - 1, ["name", "category", "short desc", "rating", "price"]] = "unknown"
    apps.to_parquet(folder / "items.parquet")
    return folder


def test_similarities_are_those_of_a_loop_that_leaves_out_the_row_s_own_event(frappe: Path, tmp_path: Path) -> None:
    rows = pd.read_parquet(frappe_with_apps(frappe, tmp_path, TEXTS) / "ctr.parquet")
    apps = pd.read_parquet(frappe / "items.parquet")
    catalog = app_catalog({name: apps[name].tolist() for name in apps.columns})
    assert catalog.texts[0] == "app 0. Tools. hammer for all"
    assert catalog.texts[-1] == ""
    space = build_encoder(TEXTS).encode(catalog.texts[:-1]).astype(np.float64)
    space = np.concatenate([space, np.zeros((1, space.shape[1]))])
    train = rows[(rows["split"] == "train") & (rows["label"] == 1)]
    for row in rows.itertuples():
        past = train[train["user"] == row.user]
        if row.split == "train":
            past = past[past["log_row"] != row.log_row]
        mean = space[past["item"].astype(int)].sum(0)
        lengths = np.linalg.norm(mean) * np.linalg.norm(space[int(row.item)])
        if lengths:
            assert row.similarity == pytest.approx(mean @ space[int(row.item)] / lengths, abs=1e-5)
        else:
            assert np.isnan(row.similarity)
    assert rows["similarity"].isna().any()
    assert rows.loc[rows["item"] == "2", "price"].unique().tolist() == [3.59]
    assert rows.loc[rows["item"] == "11", ["price", "rating"]].isna().all(axis=None)


def test_the_quick_table_trains_every_encoding(frappe: Path, census: Path, tmp_path: Path, monkeypatch) -> None:
    script = load("ads_encodings_table")
    words = ["--data", str(census), str(frappe), "--quick", "--epochs", "1", "--encoder", "hashing", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["ads_encodings_table.py", *words, "--out", str(tmp_path)])
    assert script.main() == 0
    table = json.loads((tmp_path / "table.json").read_text())
    aucs = {(row["model"], row["data"]) for row in table if row["metric"] == "auc" and row["slice"] == "all"}
    numeric = {(name, data.name) for name in script.NUMERIC for data in (census, frappe)}
    assert aucs == numeric | {(name, frappe.name) for name in script.SIMILARITY}
    assert all(0 < row["mean"] < 1 for row in table if row["metric"] == "auc")
    assert "MNSE concat" in (tmp_path / "table.md").read_text()


def test_a_log_has_the_encoding_that_its_row_names(frappe: Path, census: Path, tmp_path: Path) -> None:
    source = encoding_source(census, tmp_path, TEXTS, NumeralsConfig(levels=50), None)
    log = ClickLog.load(encoding_log(source, "census", tmp_path / "logs"))
    assert [type(field) is Numerals for field in log.schema.fields] == [True] * len(NUMBERS) + [False] * len(CATEGORIES)
    with pytest.raises(DataError, match="frappe has a similarity and may have no numbers, census-income the other"):
        encoding_source(census, tmp_path, TEXTS, None, QuantileConfig())
