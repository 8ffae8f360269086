"""The released DARE code as a peer: rows, options and clocks, and a stand-in for the clone that reads them."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Cell, CellResult, Record
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log
from tests.scripts.loading import SCRIPTS, load

TINY = ["--items", "60", "--categories", "7", "--history", "9", "--dim", "4", "--batch-size", "16"]
FAST = ["--training-rows", "48", "--steps", "2", "--rounds", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def released() -> ModuleType:
    return load("dare_released")


@pytest.fixture(scope="module")
def training(released: ModuleType) -> ModuleType:
    load("bench_ctr_training")
    return load("bench_long_sequence_training")


@pytest.fixture(scope="module")
def parity(training: ModuleType) -> ModuleType:
    load("bench_ctr_forms")
    load("bench_ctr")
    return load("dare_parity")


@pytest.fixture(name="code")
def fixture_code() -> Iterator[ModuleType]:
    yield load("peers/dare_code")
    del sys.modules["dare_code"]


@pytest.fixture
def args(training: ModuleType, tmp_path: Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for option, kind in (("--threads", int), ("--seed", int), ("--out", Path)):
        parser.add_argument(option, type=kind, default=0)
    parser.add_argument("--quick", action="store_true")
    training.add_training_options(parser)
    return parser.parse_args([*TINY, *FAST, "--out", str(tmp_path)])


def test_drawn_rows_have_full_pasts_of_their_own_and_items_one_category(
    training: ModuleType, args: argparse.Namespace, tmp_path: Path
) -> None:
    log = training.drawn_log(tmp_path, 60, args)
    assert dict(log.rows) == {"train": 48, "validation": 1, "test": 1}
    windows = np.concatenate([log.part(part).windows for part in log.rows])
    assert np.diff(windows).tolist() == [[9]] * 50
    assert len(set(windows[:, 0].tolist())) == 50
    events = log.events.ids[1:]
    assert (events[:, 0].min(), events[:, 0].max()) >= (2, 2)
    assert (events < [60, 7]).all()
    assert len(np.unique(events, axis=0)) == len(np.unique(events[:, 0]))
    assert training.drawn_log(tmp_path, 60, args).fingerprint == log.fingerprint


@pytest.mark.parametrize("kind", ["dense", "lazy_adam", "rowwise_adagrad"])
def test_every_column_takes_steps_that_are_timed(
    training: ModuleType, args: argparse.Namespace, tmp_path: Path, kind: str
) -> None:
    assert min(training.our_seconds(training.drawn_log(tmp_path, 60, args), kind, args)) > 0
    method = training.our_method(kind, args)
    assert (method.tables, method.trainer.learning_rate, method.weight_init) == (kind, 0.01, 0.01)


def test_without_the_clone_its_column_is_left_out_with_a_message(
    training: ModuleType, args: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, _ = training.measure_training(args)
    assert {(line.what, line.against) for line in lines} == {
        (f"training step, 60 items, {kind}", "dense") for kind in ("lazy_adam", "rowwise_adagrad")
    }
    said = capsys.readouterr().out
    assert "the released code is left out; to compare with it, git clone https://github.com/thuml/DARE, and" in said


def test_medians_stand_beside_the_released_code(training: ModuleType) -> None:
    def result(model: str, turn: int, value: float) -> CellResult:
        return CellResult(Cell(model, {"items": 5}, turn), "done", 1.0, [Record("ms", value), Record("cpu ms", value)])

    turns = [result("dense", turn, value) for turn, value in enumerate([10.0, 90.0, 20.0])]
    found = list(training.side_by_side([*turns, result("released DARE", 0, 60.0), result("dense", 0, 1.0)], 5))
    assert [(line.against, line.unit, line.ratio) for line in found] == [
        ("released DARE", "ms", 4.0),
        ("released DARE", "cpu ms", 4.0),
    ]


CLONE = """
    import argparse, numpy as np, torch

    class SeqRecDataset:
        def __init__(self, path, batch_size, max_length):
            self.path, self.batch_size, self.max_length, self.data_size, self.i = path, batch_size, max_length, 5, 0
        def __iter__(self):
            return self
        def __next__(self):
            if self.i == 3:
                raise StopIteration
            self.i += 1
            return {"number": self.i}
        def reset(self):
            self.i = 0

    def get_args():
        import sys
        return argparse.Namespace(words=sys.argv[1:], train_dataset_path="x", category_embedding_dim=4,
                                  learning_rate=0.01, weight_decay=1e-6, seed=[1])

    SEEN = []

    def train(train_dataset, **others):
        for _ in range(9):
            train_dataset.reset()
            for batch in train_dataset:
                SEEN.append(batch["number"])
"""


def test_the_runner_hands_over_the_options_of_the_paper_and_stops_the_loop(
    code: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train_pytorch.py").write_text(textwrap.dedent(CLONE))
    load("peers/common")
    runner = load("peers/dare_training")
    words = ["--dare", str(tmp_path), "--rows", "r", "--items", "7", "--categories", "3", "--warmup", "1"]
    monkeypatch.setattr(sys, "argv", ["dare_training", *words, "--steps", "4"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    runner.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1].removeprefix("RESULT "))
    assert found["steps"] == 4
    assert found["seconds"] > 0
    clone = sys.modules.pop("train_pytorch")
    assert clone.SEEN == [1, 2, 3, 1, 2]  # one to warm up, four that count, and again from the first
    given = code.its_arguments(clone, runner.options().parse_args(words), "logs", 5).words
    pairs = dict(zip(given[::2], given[1::2], strict=True))
    assert (pairs["-item_n"], pairs["-cate_n"], pairs["-long_seq_split"], pairs["-top_k"]) == ("7", "3", "0:200", "20")
    assert (pairs["-model_name"], pairs["-use_aux_loss"], pairs["-learning_rate"]) == ("DARE", "True", "0.01")
    for name in ("common", "dare_training"):
        del sys.modules[name]


def test_a_folder_without_the_code_is_named(code: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"holds no train_pytorch.py; make a clone: git clone https://github.com/thuml"
    ):
        code.opened(tmp_path)


def test_pins_and_runners_of_the_peer_are_whole() -> None:
    pins = (SCRIPTS / "peers" / "requirements-dare.txt").read_text().splitlines()
    assert all("==" in line for line in pins if not line.startswith("#"))
    for runner in ("training", "quality"):
        compile((SCRIPTS / "peers" / f"dare_{runner}.py").read_text(), runner, "exec")


# --- parity --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="log")
def fixture_log(tmp_path_factory: pytest.TempPathFactory) -> ClickLog:
    """40 users over 60 items; the first five have 12 events, too few, the others 30."""
    folder = tmp_path_factory.mktemp("movies")
    items = {"item_id": [f"i{i}" for i in range(60)], "title": [f"film {i}" for i in range(60)]}
    pd.DataFrame({**items, "genres": ["Action|War", "Drama"] * 30}).to_parquet(folder / "items.parquet")
    rng = np.random.default_rng(0)
    events = [
        (f"u{u}", f"i{i}", k)
        for u in range(40)
        for k, i in enumerate(rng.permutation(60)[: 12 if u < 5 else 30].tolist())
    ]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(folder / "interactions.parquet")
    config = InteractionRowsConfig(last=8, negatives=2, histories=True)
    return ClickLog.load(click_log(folder, folder / "logs", config))


def test_comparable_rows_have_k_events_and_the_fields_of_the_past_alone(
    parity: ModuleType, log: ClickLog, tmp_path: Path
) -> None:
    found = parity.comparable(log, tmp_path)
    assert [field.name for field in found.schema.id_fields] == ["item", "category"]
    assert dict(found.rows) == {"train": 35 * 6 * 3, "validation": 35 * 3, "test": 35 * 3}
    for part in found.rows:
        assert (np.diff(found.part(part).windows) >= 20).all()
        kept = np.diff(log.part(part).windows)[:, 0] >= 20
        assert np.array_equal(found.part(part).ids, log.part(part).ids[kept][:, 1:])
        assert np.array_equal(found.part(part).groups, log.part(part).groups[kept])
    assert parity.comparable(log, tmp_path).fingerprint == found.fingerprint
    path, export = parity.exported(found, tmp_path, 20)
    assert parity.exported(found, tmp_path, 20) == (path, export)
    assert export.rows == dict(found.rows)


def test_both_sides_scores_go_through_one_function(parity: ModuleType, log: ClickLog, tmp_path: Path) -> None:
    labels = log.part("test").labels[:, 0]
    np.save(tmp_path / "s.npy", (0.2 + 0.6 * labels).astype(np.float32))
    figures = {record.metric: record.value for record in parity.figures("x", parity.read(tmp_path / "s.npy"), log)}
    assert (figures["auc"], figures["gauc"]) == (1.0, 1.0)
    assert figures["log_loss"] == pytest.approx(-np.log(0.8), rel=1e-6)


def test_differences_have_a_sign_that_says_who_is_better(parity: ModuleType, tmp_path: Path) -> None:
    def result(of: str, seed: int, auc: float, loss: float) -> CellResult:
        records = [Record("auc", auc, {"of": of}), Record("log_loss", loss, {"of": of})]
        return CellResult(Cell(of, {}, seed), "done", 1.0, records)

    results = [result("ours", 0, 0.8, 0.5), result("ours", 1, 0.6, 0.5), result("released", 0, 0.5, 0.25)]
    lines = {(line.what, line.against): line.ratio for line, _ in parity.differences(results)}
    assert lines == {("test auc", "released"): pytest.approx(1.4), ("test log_loss", "released"): 0.5}
    text = parity.write_parity(tmp_path, results, {})
    assert "auc of ours less released: +0.20000, standard error inf, 2 and 1 seeds." in text
    assert {"table.json", "bench.json", "table.md"} <= {path.name for path in tmp_path.iterdir()}
