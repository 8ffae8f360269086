"""Training by several processes writes one run, the one that a single process writes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.data.synthetic import planted_world
from llm_rec.recipes.runs import load_targets
from llm_rec.report.report import Report
from llm_rec.serving.recommender import Recommender

SMALL = ("--method.model.dim", "8", "--method.model.max-length", "6", "--method.batches.max-length", "6")
QUICK = (*SMALL, "--method.trainer.epochs", "2", "--method.batches.tokens", "32", "--evaluation.samples", "20")
SMOOTH = ("--method.model.backbone.dropout", "0", "--method.trainer.eps", "0.01")  # Adam makes rounding errors large


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    world = planted_world(60, 30, num_clusters=3, seed=2)
    place = tmp_path / "ws"
    world.catalog.save(place / "catalog")
    world.log.save(place / "interactions")
    return place


def train(workspace: Path, name: str, *options: str) -> list[str]:
    return ["train", "--workspace", str(workspace), "--name", name, *QUICK, *options]


def test_two_processes_train_as_one_with_twice_the_accumulation(workspace: Path) -> None:
    main(train(workspace, "one", "--method.trainer.accumulation", "2", *SMOOTH))
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "llm_rec", *train(workspace, "two", "--overwrite", *SMOOTH)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two, test") == 1  # only one process speaks

    one, two = (Report.load(workspace / "runs" / name) for name in ("one", "two"))
    assert one.counts == two.counts
    a, b = (Recommender.load(workspace / "runs" / name / "recommender").item_vectors for name in ("one", "two"))
    np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4)
    ranks = [load_targets(workspace / "runs" / name)[0]["mrr"] for name in ("one", "two")]
    np.testing.assert_allclose(*ranks, atol=1e-3)
