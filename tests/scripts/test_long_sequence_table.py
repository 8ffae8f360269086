"""The table of models of past behaviour: its rows, and its measures on a small planted log."""

import argparse
from pathlib import Path
from types import ModuleType

import pytest

from ctr_models.sequences.presets import PRESETS
from llm_rec.ctr.method import build_click_model
from llm_rec.ctr.planted_sequences import PlantedSequencesConfig, planted_sequences
from llm_rec.data.columns import ClickLog
from tests.scripts.loading import load

LENGTH, ROWS = 30, 400


@pytest.fixture(scope="module", name="script")
def fixture_script() -> ModuleType:
    return load("long_sequence_table")


@pytest.fixture(scope="module", name="log")
def fixture_log(tmp_path_factory: pytest.TempPathFactory) -> ClickLog:
    world = planted_sequences(PlantedSequencesConfig(length=LENGTH, num_rows=ROWS))
    return world.write(tmp_path_factory.mktemp("planted") / "log")


def arguments(**changes: object) -> argparse.Namespace:
    return argparse.Namespace(**{"seeds": 2, "epochs": None, "quick": False, "grid": "reduced", **changes})


def test_every_preset_reads_histories_of_the_length_asked_for(script: ModuleType) -> None:
    for length in (50, 1000):
        found = dict(script.models(length))
        assert set(found) == {*PRESETS, "dare, attention 8", "dare, attention 4"}
        assert all(model.history_length == length for model in found.values())
        assert found["hstu"].sequence.encoder.max_length == length
    assert found["dare, attention 4"].sequence.events.attention_dims == (4,)


def test_the_reduced_grid_has_everything_once_and_the_family_elsewhere(script: ModuleType) -> None:
    log = Path("log")
    every = [row.name for row in script.rows_of(arguments(), log, "ml-1m", 50, everything=True)]
    few = list(script.rows_of(arguments(), log, "ml-1m", 200))
    planted = next(iter(script.rows_of(arguments(), log, "planted", 200, search=script.PlantedSearch(200, 9))))
    assert every == [name for name, _ in script.models(50)]
    assert {row.name for row in few} == set(script.SEARCHED)
    assert [row.name for row in script.rows_of(arguments(grid="full"), log, "ml-1m", 200)] == every
    assert {row.method.trainer.epochs for row in few} == {2}
    assert planted.method.trainer.epochs == 20
    assert planted.columns == {"data": "planted", "length": 200}
    (dpn,) = [row for row in script.rows_of(arguments(), log, "x", 50, everything=True) if row.name == "dpn"]
    assert dpn.method.pattern_pretraining is not None


def test_measures_of_a_small_planted_log(script: ModuleType, log: ClickLog) -> None:
    rows = {row.name: row for row in script.rows_of(arguments(grid="full"), log.path, "planted", LENGTH)}
    search = script.PlantedSearch(LENGTH, ROWS, batch_size=64)
    dare, sim = (build_click_model(rows[name].method, log.schema) for name in ("dare", "sim_soft"))
    (found,) = search(dare, log)
    assert found.metric == "ndcg@20"
    assert 0 < found.value < 0.9  # untrained
    assert search(sim, log) == []
    (taken,) = script.SearchTime(rows=64, batch_size=32)(dare, log)
    assert taken.metric == "search_us"
    assert taken.value > 0
