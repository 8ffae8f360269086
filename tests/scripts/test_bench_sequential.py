"""The benchmark of sequential training and ranking: what it feeds to whom, and how it forms ratios."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from llm_rec.experiment import Cell, CellResult, Record
from tests.scripts.loading import load

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_sequential")


@pytest.fixture(scope="module")
def common() -> ModuleType:
    return load("peers/common")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six users with histories of 4 to 9 events over 12 items, rows shuffled."""
    events = [(f"u{u}", f"i{(u * 3 + k) % 12}", k) for u in range(6) for k in range(4 + u)]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "order"]).sample(frac=1.0, random_state=0)
    frame.to_parquet(tmp_path / "interactions.parquet")
    pd.DataFrame({"item_id": [f"i{k}" for k in range(12)], "title": [f"Item {k}" for k in range(12)]}).to_parquet(
        tmp_path / "items.parquet"
    )
    return tmp_path


def test_help_names_the_options_every_script_has() -> None:
    command = [sys.executable, str(SCRIPTS / "bench_sequential.py"), "--help"]
    env = {"PYTHONPATH": str(SCRIPTS.parent), "PATH": ""}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert {"--data", "--out", "--quick", "--peer-cache"} <= set(shown.stdout.replace(",", " ").split())


def test_peers_get_the_same_events_oldest_first(bench: ModuleType, common: ModuleType, folder: Path) -> None:
    log = bench.read_log(folder)
    users, items = common.read_rows(bench.write_rows(folder, folder / "rows" / "x.npz"))
    assert len(users) == log.num_events
    for user in range(log.num_users):
        np.testing.assert_array_equal(items[users == user], log.history(user))


def test_part_hands_out_so_many_steps_and_counts_their_targets(bench: ModuleType, folder: Path) -> None:
    split = bench.leave_one_out(bench.read_log(folder))
    source = bench.SequenceBatches(split, bench.BatchConfig(max_length=5, tokens=None, users=2), None, seed=0)
    part = bench.Part(source, 2)
    batches = list(part.epoch(0))
    assert (len(source), len(part), len(batches)) == (3, 2, 2)
    assert part.targets == sum(len(batch.targets) for batch in batches)
    assert len(bench.Part(source, 99)) == 3
    assert len(list(part.epoch(0, first_step=1))) == 1


def test_our_training_learns_from_the_whole_part(bench: ModuleType, folder: Path) -> None:
    args = bench.options().parse_args(["--data", str(folder), "--dim", "8", "--max-length", "5", "--tokens", "10"])
    args.seconds = 0.1
    speed = bench.our_training(bench.read_log(folder), args)
    assert speed.wall > 0
    assert speed.cpu > 0


def test_synthetic_users_have_different_items_and_the_last_is_the_target(bench: ModuleType) -> None:
    args = bench.options().parse_args(["--data", "x", "--items", "500", "--max-length", "6"])
    split = bench.synthetic_split(40, args)
    rows = np.asarray(split.log.items).reshape(40, 7)
    assert all(len(set(row)) == 7 for row in rows.tolist())
    assert rows.min() >= 1
    assert rows.max() <= 500
    np.testing.assert_array_equal(split.log.items[split.test], rows[:, -1])


def test_our_ranking_ranks_every_synthetic_user(bench: ModuleType) -> None:
    args = bench.options().parse_args(["--data", "x", "--items", "500", "--max-length", "6", "--dim", "8"])
    args.users = 20
    speed = bench.our_ranking(args)
    assert speed.wall > 0
    assert speed.cpu > 0


def test_peers_rank_histories_of_different_items(common: ModuleType) -> None:
    rows = common.synthetic_histories(users=30, items=200, length=9, seed=1)
    assert rows.shape == (30, 10)
    assert all(len(set(row)) == 10 for row in rows.tolist())
    assert rows.min() >= 1
    assert rows.max() <= 200


def test_ratios_pair_ours_with_every_peer_that_finished(bench: ModuleType) -> None:
    setting = {"what": "training speed", "on": "x"}

    def result(model: str, wall: float, cpu: float) -> CellResult:
        records = [Record("targets/s", wall), Record("targets/cpu-s", cpu)]
        return CellResult(Cell(model, dict(setting), 0), "done", 1.0, records)

    failed = CellResult(Cell("rectools", dict(setting), 0), "failed", 1.0, [], "PeerError: pip")
    other = CellResult(Cell("llm-rec", {"what": "full ranking", "on": "y"}, 0), "done", 1.0, [Record("users/s", 1.0)])
    results = [other, result("llm-rec", 30.0, 12.0), result("recbole", 3.0, 2.0), failed]
    lines = bench.side_by_side(results, setting)
    assert [(line.against, line.unit, line.ratio) for line in lines] == [
        ("recbole", "targets/s", 10.0),
        ("recbole", "targets/cpu-s", 6.0),
    ]


@pytest.mark.parametrize("peer", ["recbole", "rectools"])
def test_every_peer_has_pins_and_both_runners(peer: str) -> None:
    pins = (SCRIPTS / "peers" / f"requirements-{peer}.txt").read_text().splitlines()
    assert all("==" in line for line in pins if not line.startswith("#"))
    for stage in ("sasrec", "ranking"):
        compile((SCRIPTS / "peers" / f"{peer}_{stage}.py").read_text(), peer, "exec")
