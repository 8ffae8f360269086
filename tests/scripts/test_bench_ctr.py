"""The benchmark of click models: what it draws, what peers read, how it forms ratios; naive forms give our values."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.sources.frappe import FIELDS, FrappeConfig, frappe
from llm_rec.experiment import Cell, CellResult, Record
from llm_rec.metrics.classification import grouped_auc
from tests.scripts.loading import load

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = ["--rows", "60", "--fields", "3", "--dim", "4", "--cross-layers", "1", "--widths", "8", "--batch-size", "16"]


@pytest.fixture(scope="module")
def forms() -> ModuleType:
    return load("bench_ctr_forms")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    return load("bench_ctr_training")


@pytest.fixture(scope="module")
def bench(forms: ModuleType, training: ModuleType) -> ModuleType:
    return load("bench_ctr")


@pytest.fixture
def common() -> Iterator[ModuleType]:
    yield load("peers/common")
    del sys.modules["common"]


@pytest.fixture
def args(bench: ModuleType, tmp_path: Path) -> argparse.Namespace:
    found: argparse.Namespace = bench.options().parse_args([*TINY, "--seconds", "0.05", "--out", str(tmp_path)])
    return found


@pytest.mark.parametrize("script", ["bench_ctr", "bench_ctr_forms"])
def test_help_names_the_options_every_script_has(script: str) -> None:
    command = [sys.executable, str(SCRIPTS / f"{script}.py"), "--help"]
    env = {"PYTHONPATH": str(SCRIPTS.parent), "PATH": ""}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert {"--out", "--quick", "--threads"} <= set(shown.stdout.replace(",", " ").split())


def test_ids_are_values_of_the_vocabulary_and_follow_zipfs_law(training: ModuleType) -> None:
    ids = training.zipf_ids(np.random.default_rng(0), 20_000, 2, 6, 1.0)
    assert (ids.min(), ids.max(), ids.dtype) == (2, 5, np.int32)
    weights = 1 / np.arange(1, 5)
    np.testing.assert_allclose(np.bincount(ids.ravel())[2:] / ids.size, weights / weights.sum(), atol=0.01)


def test_peers_read_the_rows_that_we_train_on(
    training: ModuleType, common: ModuleType, args: argparse.Namespace, tmp_path: Path
) -> None:
    log = training.drawn_log(tmp_path, 90, args)
    assert training.drawn_log(tmp_path, 90, args).fingerprint == log.fingerprint
    clicks = common.Clicks(training.write_rows(log, "train", tmp_path / "x.npz"))
    assert (len(clicks), clicks.sizes, clicks.ids.dtype) == (60, [30, 30, 30], np.int64)
    np.testing.assert_array_equal(clicks.ids, log.part("train").ids)
    np.testing.assert_array_equal(clicks.labels, log.part("train").labels[:, 0])
    rows = clicks.first(70)
    assert rows.tolist() == [*range(60), *range(10)]
    np.testing.assert_array_equal(clicks.columns(rows)["field2"], clicks.ids[rows, 2])


def test_other_rows_are_another_log(training: ModuleType, args: argparse.Namespace, tmp_path: Path) -> None:
    first = training.drawn_log(tmp_path, 90, args)
    args.seed = 1
    assert training.drawn_log(tmp_path, 90, args).path != first.path


def test_steps_go_on_into_the_next_epochs(training: ModuleType, args: argparse.Namespace, tmp_path: Path) -> None:
    log = training.drawn_log(tmp_path, 90, args)
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=16, drop_last=True), 0)
    steps = training.Steps(source, 4, warmup=2)
    batches = [batch.ids for batch in steps.epoch(1)]
    expected = [batch.ids for epoch in (1, 2, 3) for batch in source.epoch(epoch)][:7]
    assert (len(source), len(steps), len(batches)) == (3, 7, 7)
    for first_step in (0, 2, 3, 5):
        rest = [batch.ids for batch in steps.epoch(1, first_step)]
        assert len(rest) == 7 - first_step
        assert all(torch.equal(found, wanted) for found, wanted in zip(rest, expected[first_step:], strict=True))


def test_the_clocks_stop_when_the_batch_after_the_last_step_is_asked_for(
    training: ModuleType, args: argparse.Namespace, tmp_path: Path
) -> None:
    source = ClickBatches(training.drawn_log(tmp_path, 90, args), "train", ClickBatchConfig(batch_size=16), 0)
    steps = training.Steps(source, 2, warmup=3)
    clocks = [steps.wall for _ in steps.epoch(1)]
    assert clocks[:5] == [0.0] * 5  # three to warm up, two that count
    assert len(clocks) == len(steps) == 6
    assert clocks[5] == steps.wall > 0


@pytest.mark.parametrize("kind", ["dense", "lazy_adam", "rowwise_adagrad"])
def test_every_column_trains_and_is_timed(
    training: ModuleType, args: argparse.Namespace, tmp_path: Path, kind: str
) -> None:
    log = training.drawn_log(tmp_path, 90, args)
    assert min(training.our_speed(log, kind, args)) > 0
    trained = training.trained(training.our_method(kind, args), log, seed=0)
    before = [parameter.detach().clone() for parameter in trained.task.model.parameters()]
    trained.run(training.Steps(ClickBatches(log, "train", ClickBatchConfig(batch_size=16), 0), 2))
    assert not any(torch.equal(a, b) for a, b in zip(before, trained.task.model.parameters(), strict=True))


def test_medians_of_one_size_meet_every_peer_that_ran(bench: ModuleType) -> None:
    def result(model: str, size: int, turn: int, value: float) -> CellResult:
        records = [Record("rows/s", value), Record("rows/cpu-s", 2 * value)]
        return CellResult(Cell(model, {"size": size}, turn), "done", 1.0, records)

    failed = CellResult(Cell("rechub", {"size": 10}, 0), "failed", 1.0, [], "PeerError: pip")
    turns = [result("lazy_adam", 10, turn, value) for turn, value in enumerate([30.0, 90.0, 40.0])]
    lines = bench.side_by_side([*turns, result("deepctr", 10, 0, 4.0), result("deepctr", 20, 0, 1.0), failed], 10)
    assert [(line.what, line.against, line.unit, line.ratio) for line in lines] == [
        ("training, 10 table rows, lazy_adam", "deepctr", "rows/s", 10.0),
        ("training, 10 table rows, lazy_adam", "deepctr", "rows/cpu-s", 10.0),
    ]


def test_one_seed_has_no_standard_error(bench: ModuleType) -> None:
    assert bench.difference_of_means([0.5], [0.25, 0.25]) == (0.25, float("inf"))


def test_our_auc_comes_from_the_test_rows_and_repeats(
    bench: ModuleType, args: argparse.Namespace, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.integers(0, 4, 200).astype(str) for name in FIELDS})
    frame["label"] = (frame["item"] == "1").astype(np.int64)
    frame["split"] = np.array(["train", "valid", "test", "train"])[np.arange(200) % 4]
    frame.to_parquet(tmp_path / "ctr.parquet")
    source = frappe(FrappeConfig(path=tmp_path))
    log = encode_log(source.files, source.spec, tmp_path / "log")
    args.epochs = 60
    found = bench.our_auc(log, 0, args)
    assert found == bench.our_auc(log, 0, args)
    assert found > 0.9


def test_auc_needs_data(bench: ModuleType, args: argparse.Namespace) -> None:
    with pytest.raises(SystemExit, match="--auc needs --data, the folder of frappe"):
        next(bench.compare_auc(args, {}))


# --- peers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ["fuxictr", "deepctr", "rechub"])
def test_every_peer_has_pins_and_a_runner(peer: str) -> None:
    pins = (SCRIPTS / "peers" / f"requirements-{peer}.txt").read_text().splitlines()
    assert all("==" in line for line in pins if not line.startswith("#"))
    compile((SCRIPTS / "peers" / f"{peer}_clicks.py").read_text(), peer, "exec")


def test_runners_know_every_option_they_get(bench: ModuleType, training: ModuleType, common: ModuleType) -> None:
    known = common.click_options("x").parse_args(["--rows", "x"])
    assert set(training.PEER_OPTIONS) <= set(vars(known))
    ours = bench.options().parse_args([])
    assert all(getattr(known, name) == getattr(ours, name) for name in training.PEER_OPTIONS)


def test_peers_are_timed_after_two_warm_ups(common: ModuleType) -> None:
    calls: list[int] = []
    known = common.click_options("x").parse_args(["--rows", "x", "--warmup", "2", "--seconds", "0"])
    timed = common.timed_steps(lambda steps: calls.append(sum(range(10_000)) and steps), known)
    assert calls == [2, 2, 2]
    assert timed["steps"] == 2
    assert timed["per_second"] == pytest.approx(2 * known.batch_size / timed["seconds"])


# --- naive forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("batch", [64, 300])
def test_both_forms_of_a_loss_have_one_value_and_one_gradient(forms: ModuleType, number: int, batch: int) -> None:
    form, rows = forms.FORMS[number], forms.rows_of(batch, seed=3)
    double = rows._replace(logits=rows.logits.double(), labels=rows.labels.double())
    torch.testing.assert_close(form.ours(double), form.naive(double))
    torch.testing.assert_close(forms.both_ways(form.ours, double), forms.both_ways(form.naive, double))


def test_the_loop_over_groups_gives_gauc(forms: ModuleType) -> None:
    rng = np.random.default_rng(0)
    scores, labels, groups = rng.integers(0, 9, 300) / 8, rng.random(300) < 0.3, rng.integers(0, 40, 300)
    assert forms.gauc_by_loop(scores, labels, groups) == pytest.approx(grouped_auc(scores, labels, groups).value)


def test_rows_at_rest_have_denormal_moments_unless_they_are_dropped(forms: ModuleType) -> None:
    def moments(*, dropping: bool) -> torch.Tensor:
        optimizer = forms.rested(3, 0, dropping=dropping)
        return next(iter(optimizer.state.values()))["exp_avg"]

    left = moments(dropping=False)
    assert (left.ne(0) & left.abs().lt(torch.finfo(torch.float32).tiny)).all()
    assert moments(dropping=True).eq(0).all()


def test_the_svd_gives_information_abundance(forms: ModuleType) -> None:
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    assert forms.abundance(table) == pytest.approx(forms.abundance_by_svd(table))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak")
def test_peak_memory_counts_what_a_call_holds(forms: ModuleType) -> None:
    assert 60 < forms.peak_memory(lambda: np.ones(2**23)) < 80  # 64 MiB


def test_lines_of_a_tiny_loss_name_time_and_memory(forms: ModuleType) -> None:
    lines = forms.measure_losses(forms.rows_of(64, 0), 1)
    assert {(line.what, line.unit) for line in lines if line.unit == "ms"} == {
        ("pair loss, batch 64", "ms"),
        ("listwise loss in groups, batch 64", "ms"),
        ("JRC loss in groups, batch 64", "ms"),
    }
    assert all(not line.higher_is_better for line in lines)
