"""The table of exploring policies, end to end on made-up logs of both campaigns: figures, text, resumption."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_rec.data.sources.open_bandit import OpenBanditConfig, open_bandit
from tests.scripts.loading import load


@pytest.fixture(scope="module")
def bandit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 rows a log; item 0 is clicked far more often than the three others, and the second policy shows it more."""
    folder = tmp_path_factory.mktemp("bandit")
    rng = np.random.default_rng(0)
    for campaign in ("men", "women"):
        features = {f"item_feature_{i}": ["x", "y", "x", "y"] for i in (1, 2, 3)}
        items = pd.DataFrame({"item_id": range(4), "item_feature_0": [0.1, 0.5, -1.0, 0.0], **features})
        items.to_parquet(folder / f"{campaign}_items.parquet")
        for policy, chances in (("random", [0.25] * 4), ("bts", [0.7, 0.1, 0.1, 0.1])):
            actions = rng.choice(4, 400, p=chances)
            frame = pd.DataFrame(
                {
                    "timestamp": pd.date_range("2019-11-24", periods=400, freq="min", tz="UTC"),
                    "item_id": actions,
                    "position": rng.integers(1, 4, 400),
                    "click": (rng.random(400) < np.where(actions == 0, 0.6, 0.05)).astype(int),
                    "propensity_score": np.array(chances)[actions],
                    **{f"user_feature_{i}": rng.choice(["p", "q"], 400) for i in range(4)},
                }
            )
            frame.to_parquet(folder / f"{campaign}_{policy}.parquet")
    return folder


def test_the_table_holds_every_policy_and_a_rerun_does_nothing(bandit, tmp_path, monkeypatch, capsys) -> None:
    script = load("exploration_table")
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(bandit), "--out", str(tmp_path), "--quick"])
    assert script.main() == 0
    text = (tmp_path / "table.md").read_text()
    rows = json.loads((tmp_path / "table.json").read_text())
    found = {
        (row["model"], row["campaign"], row["log"], row["estimator"]): row["mean"]
        for row in rows
        if row["metric"] == "value" and row.get("clip") is None and "policy" not in row and "estimator" in row
    }
    assert len(found) == len(script.POLICIES) * 2 * 2 * 4
    earned = {
        (row["campaign"], row["policy"]): row["mean"]
        for row in rows
        if row["metric"] == "value" and row.get("estimator") == "mean"
    }
    for campaign in script.CAMPAIGNS:
        for policy in ("random", "bts"):
            log = open_bandit(OpenBanditConfig(path=bandit, campaign=campaign, policy=policy))
            assert earned[campaign, policy] == pytest.approx(1000 * log.clicks.mean())
            assert found["greedy", campaign, policy, "dr"] > 1.5 * found["uniform", campaign, policy, "dr"]
            assert found["uniform", campaign, policy, "dr"] == pytest.approx(187.5, rel=0.4)
    assert "greedy (above)" in text
    assert [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| men | ")] == ["yes |"] * 2
    assert "| one pass | 8 |" in text
    assert "| frozen | 2 |" not in text
    assert "| isotonic |" in text
    assert "| corrected by row | first exposures |" in text
    cells = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert script.main() == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == cells
    assert (tmp_path / "table.md").read_text() == text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("tmp")] == []


def test_splits_of_a_seed_share_no_row_and_another_seed_is_another_split(bandit) -> None:
    script = load("exploration_table")
    first, second = (script.fitted_half(bandit, "men", seed).held_out for seed in (0, 1))
    assert len(first) == 200
    assert len(np.unique(first)) == 200
    assert not np.array_equal(first, second)
