"""The table of patterns: its rows, how it measures denoising, and a quick run on tiny logs."""

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from ctr_models.sequences.pattern_corruption import CorruptionConfig
from llm_rec.ctr.method import build_click_model
from llm_rec.ctr.planted_patterns import PlantedPatternsConfig, planted_patterns
from llm_rec.data.columns import ClickLog
from tests.scripts.loading import load

NUM_ROWS = 300


@pytest.fixture(scope="module", name="script")
def fixture_script() -> ModuleType:
    return load("pattern_table")


@pytest.fixture(scope="module", name="log")
def fixture_log(tmp_path_factory: pytest.TempPathFactory) -> ClickLog:
    return planted_patterns(PlantedPatternsConfig(num_rows=NUM_ROWS)).write(tmp_path_factory.mktemp("world") / "log")


def arguments(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"seeds": 2, "epochs": None, "quick": False, "grid": "reduced", **changes})


def names(script: ModuleType, data: str, encoder: str, **changes: object) -> list[str]:
    return [name for name, _, _ in script.variants(arguments(**changes), data, encoder)]


def test_all_ablations_stand_over_one_encoder_and_what_patterns_add_over_three(script: ModuleType) -> None:
    main = names(script, "planted", script.MAIN)
    assert main == [
        "no patterns",
        "DPN",
        "DPN, no pre-training",
        "DPN, frozen refiner",
        "DPN, mean pool",
        "DPN, all patterns",
        "DPN, newest patterns",
        "DPN, target attention",
    ]
    assert len(script.ENCODERS) == 3
    assert names(script, "ml-1m", script.MAIN) == [name for name in main if name != "DPN, all patterns"]
    assert names(script, "ml-1m", "bst") == main[:3]
    assert names(script, "ml-1m", "bst", grid="full") == main
    sizes = set(names(script, script.PLANTED, script.MAIN, grid="full")) - set(main)
    assert sizes == {f"DPN, {what}" for what in ("length 2", "length 3", "length 6", "length 8", "K 5", "K 20")} | {
        "DPN, noise 0.1",
        "DPN, noise 0.3",
    }


def test_rows_differ_in_what_they_are_named_after_alone(script: ModuleType, log: ClickLog) -> None:
    rows = {row.full_name: row for row in script.log_rows(arguments(), log.path, script.PLANTED)}
    assert len(rows) == 8 + 3 + 3
    for encoder in script.ENCODERS:
        plain, full, untrained = (
            rows[f"{name} (data planted, encoder {encoder})"].method
            for name in ("no patterns", "DPN", "DPN, no pre-training")
        )
        assert plain.model.sequence.patterns is None
        assert plain.model.sequence.encoder == full.model.sequence.encoder
        assert untrained.model == full.model
        assert untrained.pattern_pretraining is None
        assert full.pattern_pretraining is not None
        for method in (plain, full, untrained):
            build_click_model(method, log.schema)
    refined = {name.split(" (")[0] for name, row in rows.items() if row.method.pattern_pretraining is not None}
    assert refined == {"DPN", "DPN, frozen refiner", "DPN, all patterns", "DPN, newest patterns"}


def test_windows_end_at_past_events_of_the_part_and_know_their_noise(script: ModuleType, log: ClickLog) -> None:
    rows, world = log.part("test"), script.planted(NUM_ROWS)
    numbers = script.window_numbers(rows, 3, seed=0)
    assert numbers.shape == (min(script.MEASURED, int(np.diff(rows.windows).sum())), 3)
    firsts, ends = rows.windows[:, 0], rows.windows[:, 1]
    for window in numbers[:200]:
        (row,) = np.flatnonzero((firsts <= window[-1]) & (window[-1] < ends))
        expected = [number if number >= firsts[row] else 0 for number in range(window[-1] - 2, window[-1] + 1)]
        assert window.tolist() == expected
    assert script.event_ids(log, numbers[:1]).tolist() == log.events.ids[numbers[:1]].tolist()
    assert not world.noise[numbers[numbers == 0]].any()


def test_an_untrained_refiner_denoises_by_chance_and_a_mean_not_at_all(script: ModuleType, log: ClickLog) -> None:
    rows = {row.full_name: row for row in script.log_rows(arguments(), log.path, script.PLANTED)}
    torch.manual_seed(0)
    full = build_click_model(rows["DPN (data planted, encoder dare)"].method, log.schema)
    found = {record.metric: record.value for record in script.Denoising(CorruptionConfig(), NUM_ROWS)(full, log)}
    assert set(found) > {"precision", "recall", "recovered", "restored"}
    assert found["detection_auc"] == pytest.approx(0.5, abs=0.1)
    assert 0.1 < found["noise_share"] < 0.4
    assert found["recovered"] < 0.2
    unknown = {record.metric for record in script.Denoising(CorruptionConfig())(full, log)}
    assert unknown == {"recovered", "popular", "restored", "unchanged"}
    for name in ("no patterns", "DPN, mean pool", "DPN, target attention"):
        other = build_click_model(rows[f"{name} (data planted, encoder dare)"].method, log.schema)
        assert script.Denoising(CorruptionConfig(), NUM_ROWS)(other, log) == []


@pytest.fixture(scope="module", name="movies")
def fixture_movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("movies")
    items = {"item_id": [f"i{i}" for i in range(30)], "title": [f"film {i}" for i in range(30)]}
    pd.DataFrame({**items, "genres": ["Action|War", "Drama"] * 15}).to_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    events = [(f"u{u}", f"i{i}", k) for u in range(12) for k, i in enumerate(rng.permutation(30)[:14].tolist())]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    return folder


def test_a_quick_run_writes_figures_of_both_logs_and_is_not_repeated(
    script: ModuleType, movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "QUICK_ROWS", 200)
    command = ["pattern_table", "--data", str(movies), "--out", str(tmp_path), "--quick", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    frame = pd.DataFrame(json.loads((tmp_path / "table.json").read_text()))
    assert set(zip(frame.model, frame.data, strict=True)) == {
        (name, data) for name in script.QUICK for data in ("planted", movies.name)
    }
    figures = frame[(frame.model == "DPN") & (frame.data == "planted")].set_index("metric")["mean"]
    assert {"auc", "gauc", "log_loss", *script.NOISE_METRICS} <= set(figures.index)
    assert "gauc" in set(frame[frame.data == movies.name].metric)
    assert "Best AUC on the planted log: 0.8995." in (tmp_path / "table.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert len(written) == 6
    assert script.main() == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == written
