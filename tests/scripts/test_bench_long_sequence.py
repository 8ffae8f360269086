"""The benchmark of long histories: what it times is right, and its floors and lines are those of its own figures."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ctr_models.sequences.separable import by_column
from tests.scripts.loading import load

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZES = ["--candidates", "1", "3", "--lengths", "30", "--dims", "6", "9", "--k", "4", "--users", "2"]
TINY = [*SIZES, "--vocabulary", "5000", "--seconds", "0", "--least-calls", "2"]


@pytest.fixture(scope="module")
def serving() -> ModuleType:
    return load("bench_long_sequence_serving")


@pytest.fixture(scope="module")
def bench(serving: ModuleType) -> ModuleType:
    for name in ("bench_ctr_training", "dare_released", "bench_long_sequence_training"):
        load(name)
    return load("bench_long_sequence")


@pytest.fixture
def args(bench: ModuleType, tmp_path: Path) -> argparse.Namespace:
    found: argparse.Namespace = bench.options().parse_args([*TINY, "--quick", "--out", str(tmp_path)])
    return found


def test_help_names_the_options_every_script_has() -> None:
    command = [sys.executable, str(SCRIPTS / "bench_long_sequence.py"), "--help"]
    env = {"PYTHONPATH": str(SCRIPTS.parent), "PATH": ""}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert {"--out", "--quick", "--threads", "--parts", "--dare"} <= set(shown.stdout.replace(",", " ").split())


@pytest.mark.parametrize("way", ["float32", "bfloat16", "int8", "position in keys", "recomputed keys"])
def test_every_way_finds_the_best_events_of_its_user(serving: ModuleType, args: argparse.Namespace, way: str) -> None:
    setting = serving.Setting(3, 30, 9)
    world = serving.World.drawn(way, setting, args)
    request = world.request(way, 4)
    for ids in (*world.ids, world.ids[0]):
        scores = world.queries @ world.keys_of(ids).T
        if world.bias is not None:
            scores = scores + by_column(world.bias, 30)
        found = request()
        indices = found if isinstance(found, torch.Tensor) else found.indices
        assert torch.equal(indices, scores.topk(4).indices)


def test_the_positions_third_is_read_only_where_it_is_in_the_keys(serving: ModuleType) -> None:
    setting = serving.Setting(10, 2000, 48)
    assert [setting.width(way) for way in serving.WAYS] == [32, 32, 32, 48, 32]


def test_the_floor_is_the_slower_of_memory_and_arithmetic(serving: ModuleType) -> None:
    one, many = serving.Setting(1, 1000, 48), serving.Setting(500, 1000, 48)
    fast = {"GB/s": 10.0, "float32 Gflop/s": 1e6, "bfloat16 Gflop/s": 1e6}
    assert serving.floor("float32", one, 20, fast) == pytest.approx((1000 * 32 * 4 + 32 * 4 + 160) / 10e3)
    assert serving.floor("int8", one, 20, fast) == pytest.approx((1000 * 32 + 32 * 4 + 160) / 10e3)
    slow = {"GB/s": 1e6, "float32 Gflop/s": 10.0, "bfloat16 Gflop/s": 40.0}
    assert serving.floor("position in keys", many, 20, slow) == pytest.approx(2 * 1000 * 48 * 500 / 10e3)
    assert serving.floor("bfloat16", many, 20, slow) == pytest.approx(2 * 1000 * 32 * 500 / 40e3)


def test_lines_set_the_cache_beside_floor_other_ways_and_the_largest_dim(serving: ModuleType) -> None:
    small, large = serving.Setting(1, 30, 6), serving.Setting(1, 30, 9)
    rates = {"GB/s": 1.0, "float32 Gflop/s": 1.0, "bfloat16 Gflop/s": 1.0}
    times = {("float32", small): 2.0, ("recomputed keys", small): 6.0, ("float32", large): 3.0}
    figures = {key: {"p50 us": value, "p99 us": 10 * value, "cpu us": value} for key, value in times.items()}
    found = {(line.what, line.against): line.ratio for line in serving.lines(figures, rates, 4)}
    start = "search, 1 candidates, 30 events, dim"
    assert found[f"{start} 6, float32, p50", "recomputed keys"] == 3.0
    assert found[f"{start} 6, float32, p50", "dim 9"] == 1.5
    floor = serving.floor("float32", small, 4, rates)
    assert found[f"{start} 6, float32, p99", "floor"] == pytest.approx(floor / 20)
    assert found[f"{start} 6, float32, processor", "dim 9"] == 1.5
    assert len(found) == 3 * 2 + 2 * 2


def test_a_run_writes_lines_and_details_and_is_not_repeated(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", *TINY, "--quick", "--threads", "1", "--parts", "serving", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    bench.main()
    measured = json.loads((tmp_path / "bench.json").read_text())
    assert {"what", "against", "ours", "peer", "unit", "ratio"} <= set(measured[0])
    assert {line["against"] for line in measured} == {"floor", "position in keys", "recomputed keys", "dim 9"}
    details = json.loads((tmp_path / "bench_details.json").read_text())["serving"]
    assert {"GB/s", "float32 Gflop/s", "bfloat16 Gflop/s"} == set(details["machine"])
    assert len(details["cells"]) == 5 * 2 * 2
    assert all(cell["recall"] > 0.9 for cell in details["cells"] if cell["way"] in ("bfloat16", "int8"))
    before = capsys.readouterr().out
    bench.main()
    again = capsys.readouterr().out
    assert "GB/s" in before
    assert "GB/s" not in again
    assert json.loads((tmp_path / "bench.json").read_text()) == measured
