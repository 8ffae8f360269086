"""The engine of Ray Data: the bytes of the local engine, by two workers; what it refuses."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.encoders import EncodeConfig, HashingEncoderConfig, build_encoder, encode_catalog
from llm_rec.encoders.ray_engine import Pool, RayConfig, ShardActor, ShardWorker, encode_catalog_on_ray, worker_pool
from llm_rec.errors import ConfigError
from llm_rec.recipes.encode import EncodeJob
from tests.llm_rec.encoders.encode_job import JOB_CONFIG, job_catalog, job_encoder

ROOT = Path(__file__).parents[3]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a store, the manifest without its time."""
    files = {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if file.name != "manifest.json"}
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["created"]
    return {**files, "manifest.json": json.dumps(manifest, sort_keys=True).encode()}


def on_ray(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)


@needs_ray
def test_two_ray_workers_write_the_bytes_of_the_local_engine_and_finish_what_it_began(tmp_path: Path) -> None:
    catalog = job_catalog(300)
    catalog.save(tmp_path / "catalog")
    encoder = build_encoder(job_encoder("hashing", ""), "cpu")
    encode_catalog(catalog, encoder, tmp_path / "local", JOB_CONFIG)
    begun = tmp_path / "ray"
    begun.mkdir()
    (begun / "plan.json").write_text(json.dumps(plan_of(tmp_path / "local")))
    kept = begun / "shard-00000.safetensors"
    kept.write_bytes((tmp_path / "local" / kept.name).read_bytes())
    before = kept.stat().st_mtime_ns
    job = str(Path(__file__).with_name("ray_job.py"))
    done = on_ray(job, str(tmp_path / "catalog"), str(begun), "hashing", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert bytes_of(begun) == bytes_of(tmp_path / "local")
    assert kept.stat().st_mtime_ns == before


def plan_of(store: Path) -> dict[str, object]:
    """The plan that a finished store was made by."""
    manifest = json.loads((store / "manifest.json").read_text())
    details = manifest["details"]
    layout = {name: details[name] for name in ("num_items", "shard_rows")}
    plan = {"layout": layout, "inputs": manifest["inputs"]}
    return plan | {name: details[name] for name in ("batches", "environment")}


@needs_ray
@pytest.mark.slow
def test_a_language_model_on_ray_gives_the_same_bytes(tmp_path: Path, bert_folder: Path) -> None:
    catalog = job_catalog(150)
    catalog.save(tmp_path / "catalog")
    local = str(Path(__file__).with_name("encode_job.py"))
    ray = str(Path(__file__).with_name("ray_job.py"))
    model = str(bert_folder)
    assert on_ray(local, str(tmp_path / "local"), "sentence", "150", model).returncode == 0
    done = on_ray(ray, str(tmp_path / "catalog"), str(tmp_path / "ray"), "sentence", "2", model)
    assert done.returncode == 0, done.stderr[-3000:]
    assert bytes_of(tmp_path / "ray") == bytes_of(tmp_path / "local")


@needs_ray
@pytest.mark.slow
def test_the_command_line_says_what_a_worker_could_not_do(tmp_path: Path) -> None:
    job_catalog(20).save(tmp_path / "ws" / "catalog")
    words = ("-m", "llm_rec", "encode", "--workspace", str(tmp_path / "ws"), "--engine", "ray", "--ray.workers", "1")
    done = on_ray(*words, "--preset", "hashing")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "items" in done.stdout
    done = on_ray(*words, "--preset", "sentence", "--encoder.model", str(tmp_path / "nowhere"), "--name", "other")
    assert done.returncode == 2, done.stderr[-3000:]
    assert "llm-rec: " in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_actor_encodes_its_shard_and_hands_back_errors_as_values(tmp_path: Path) -> None:
    catalog = job_catalog(300)
    catalog.save(tmp_path / "catalog")
    encoder = job_encoder("hashing", "")
    encode_catalog(catalog, build_encoder(encoder, "cpu"), tmp_path / "store", JOB_CONFIG)
    folder = tmp_path / "begun"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(plan_of(tmp_path / "store")))
    actor = ShardActor(ShardWorker(tmp_path / "catalog", encoder, folder, JOB_CONFIG, 1, 0))
    assert actor({"shard": np.array([0])}) == {"shard": [0], "rows": [64], "kind": [""], "error": [""]}
    name = "shard-00000.safetensors"
    assert (folder / name).read_bytes() == (tmp_path / "store" / name).read_bytes()
    other = ShardActor(ShardWorker(tmp_path / "catalog", HashingEncoderConfig(dim=8), folder, JOB_CONFIG, 1, 0))
    found = other({"shard": np.array([1])})
    assert (found["rows"], found["kind"]) == ([0], ["ArtifactError"])
    assert "is half finished and was begun otherwise" in found["error"][0]


def test_a_pool_is_one_worker_a_gpu_or_what_the_cpus_hold() -> None:
    assert worker_pool({"CPU": 8.0, "GPU": 4.0}, RayConfig(workers=2)) == Pool(2, 1)
    assert worker_pool({"CPU": 8.0}, RayConfig(threads=3)) == Pool(2, 0)
    for resources, config, message in (
        (
            {"CPU": 8.0, "GPU": 1.0},
            RayConfig(workers=2),
            "2 workers of 1 threads and a GPU are asked for, but the cluster",
        ),
        ({"CPU": 2.0}, RayConfig(threads=4), "1 workers of 4 threads are asked for.*has 2 CPUs and 0 GPUs, room for 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            worker_pool(resources, config)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        RayConfig(workers=0)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        RayConfig(threads=0)


def test_what_does_not_go_with_ray_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="ray settings belong to engine ray; pass --engine ray, or leave them out"):
        EncodeJob(ray=RayConfig(workers=2))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine ray needs Ray Data; pip install 'llm-rec\[ray\]'"):
        encode_catalog_on_ray(tmp_path, HashingEncoderConfig(), tmp_path / "store")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match="engine ray starts its own workers; start it as one process, without torchrun"
    ):
        encode_catalog_on_ray(tmp_path, HashingEncoderConfig(), tmp_path / "store", EncodeConfig())


def test_help_names_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["encode", "--help"])
    assert stop.value.code == 0
    assert "ray.workers" in capsys.readouterr().out
