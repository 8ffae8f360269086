"""Resume: stopped or killed anywhere, then rerun, a run ends with the same bits as one that was left alone."""

import json
import random
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

from llm_rec.artifacts import read_json, write_json
from llm_rec.errors import ArtifactError, TrainingError
from llm_rec.training import Trainer
from llm_rec.training.checkpoint import load_module, load_weights, module_tensors, save_weights
from llm_rec.training.random_state import generators_untouched, read_generators, seed_generators, write_generators
from tests.llm_rec.training.tiny import (
    CONFIG,
    Regression,
    Source,
    Stopped,
    same_tensors,
    train_transformer,
    transformer,
    without_times,
)

SHORT = replace(CONFIG, epochs=2, checkpoint_every=1, accumulation=2, device="cpu")


def _run(folder, config=SHORT, stop_at=None):
    task = transformer()
    result = Trainer(config, folder).fit(task, Source([8] * 7, stop_at=stop_at), validate=task.score)
    return dict(task.module.state_dict()), result


def _log(folder):
    return [without_times(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_stopped_once_at_any_update_and_rerun_equals_a_run_left_alone(tmp_path):
    weights, result = _run(tmp_path / "alone")
    for epoch in (1, 2):
        for step in range(epoch - 1, 7, 2):  # in the first and in the second half of an update
            folder = tmp_path / f"stopped-{epoch}-{step}"
            with pytest.raises(Stopped):
                _run(folder, stop_at=(epoch, step))
            found, again = _run(folder)
            torch.testing.assert_close(found, weights, rtol=0, atol=0)
            assert (again.best_epoch, again.best_value) == (result.best_epoch, result.best_value)
            assert _log(folder) == _log(tmp_path / "alone")


def test_stopped_at_every_step_one_after_another_equals_a_run_left_alone(tmp_path):
    weights, _ = _run(tmp_path / "alone", config=replace(SHORT, accumulation=1))
    for epoch in (1, 2):
        for step in range(7):
            with pytest.raises(Stopped):
                _run(tmp_path / "stopped", config=replace(SHORT, accumulation=1), stop_at=(epoch, step))
    found, _ = _run(tmp_path / "stopped", config=replace(SHORT, accumulation=1))
    torch.testing.assert_close(found, weights, rtol=0, atol=0)
    assert _log(tmp_path / "stopped") == _log(tmp_path / "alone")


def test_a_folder_changes_no_number_and_checkpoints_are_two(tmp_path):
    with_folder, _ = _run(tmp_path)
    without, _ = _run(None)
    torch.testing.assert_close(with_folder, without, rtol=0, atol=0)
    kept = sorted(item.name for item in (tmp_path / "checkpoints").iterdir())
    assert [name for name in kept if name.startswith("update-")] == ["update-00000007", "update-00000008"]
    assert len([name for name in kept if name.startswith("best-")]) <= 2
    assert len(kept) <= 5


def _killed_until_finished(folder, steps, kills, span, rng):
    """Kill a process at `kills` random moments of its training, then let it end; returns how many hit."""
    context = get_context("forkserver")
    hits = 0
    for attempt in range(kills + 1):
        ready, tell = context.Pipe(duplex=False)
        process = context.Process(target=train_transformer, args=(folder, steps, tell))
        process.start()
        tell.close()
        ready.poll(timeout=None)
        process.join(timeout=rng.uniform(0.0, span) if attempt < kills else None)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -9
        hits += 1
    return hits


@pytest.mark.parametrize(("kills", "steps"), [(2, 20), pytest.param(20, 150, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_rerun_equals_a_run_left_alone(tmp_path, kills, steps):
    _killed_until_finished(tmp_path / "alone", steps, 0, 0.0, random.Random(0))
    seconds = sum(json.loads(line)["seconds"] for line in (tmp_path / "alone" / "log.jsonl").read_text().splitlines())
    hits = _killed_until_finished(tmp_path / "killed", steps, kills, seconds / kills, random.Random(kills))
    assert hits >= 1
    assert same_tensors(tmp_path / "alone" / "model.safetensors", tmp_path / "killed" / "model.safetensors")
    assert _log(tmp_path / "killed") == _log(tmp_path / "alone")
    assert [line["epoch"] for line in _log(tmp_path / "killed")] == [1, 2, 3]
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*"))


def test_another_run_in_the_same_folder_is_refused_with_both_values(tmp_path):
    with pytest.raises(Stopped):
        _run(tmp_path, stop_at=(2, 1))
    with pytest.raises(TrainingError, match=r"config\.learning_rate is 0\.01 in the folder, 0\.1 here.*another folder"):
        _run(tmp_path, config=replace(SHORT, learning_rate=0.1))
    task = transformer()
    with pytest.raises(TrainingError, match="steps_per_epoch is 7 in the folder, 9 here"):
        Trainer(SHORT, tmp_path).fit(task, Source([8] * 9), validate=task.score)
    with pytest.raises(TrainingError, match=r"inputs\.data is absent in the folder, abc here"):
        Trainer(SHORT, tmp_path).fit(task, Source([8] * 7), validate=task.score, inputs={"data": "abc"})
    other = Regression(nn.Linear(4, 1))
    with pytest.raises(
        TrainingError, match=r"tensors\.weight is absent in the folder, torch\.float32 \[1, 4\] trained here"
    ):
        Trainer(SHORT, tmp_path).fit(other, Source([8] * 7), validate=other.score)
    _run(tmp_path, config=replace(SHORT, checkpoint_every=3))  # how often one saves changes no number


def test_a_damaged_checkpoint_says_what_to_remove(tmp_path):
    _run(tmp_path)
    newest = sorted((tmp_path / "checkpoints").glob("update-*"))[-1]
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"state\.safetensors: cannot be read .*; remove its folder to go on"):
        _run(tmp_path)
    state = read_json(newest / "state.json")
    write_json(newest / "state.json", {**state, "epoch": "two"})
    with pytest.raises(ArtifactError, match=r"update-00000008: epoch: expected int, got 'two'; remove this folder"):
        _run(tmp_path)


def test_a_missing_best_file_is_named(tmp_path):
    with pytest.raises(Stopped):
        _run(tmp_path, stop_at=(2, 4))
    for best in (tmp_path / "checkpoints").glob("best-*"):
        best.unlink()
    with pytest.raises(TrainingError, match="best-00001.safetensors is gone, and the checkpoints beside it need it"):
        _run(tmp_path)


def test_generators_are_restored_exactly():
    def draw():
        normal = np.random.normal()  # noqa: NPY002 - the global generator is what is tested
        return random.gauss(0, 1), normal, torch.randn(3).tolist(), random.random()

    seed_generators(7)
    draw()  # leaves a cached second normal in numpy and in python
    states = read_generators()
    expected = [draw() for _ in range(3)]
    write_generators(states)
    with generators_untouched():
        draw()
    assert [draw() for _ in range(3)] == expected


class Tied(nn.Module):
    """Input and output share one table, and a view of it is a buffer's storage no more."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.arange(6.0).reshape(3, 2))
        self.out = nn.Linear(2, 3)
        self.out.weight = self.table
        self.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).T)
        self.register_buffer("empty", torch.empty(0, 2))


def test_weights_of_tied_transposed_and_empty_tensors_round_trip(tmp_path):
    saved, loaded = Tied(), Tied()
    with torch.no_grad():
        saved.table.mul_(2.0)
        saved.transposed.mul_(3.0)
        save_weights(tmp_path / "weights.safetensors", saved)
    load_weights(tmp_path / "weights.safetensors", loaded)
    assert set(module_tensors(saved)) == {"table", "out.bias", "transposed", "empty"}
    torch.testing.assert_close(dict(loaded.state_dict()), dict(saved.state_dict()), rtol=0, atol=0)
    assert loaded.out.weight is loaded.table


def test_weights_of_another_module_are_refused():
    module = nn.Linear(2, 1)
    with pytest.raises(TrainingError, match="tensor bias is in the module but not in the file; build the module"):
        load_module(module, {"weight": torch.zeros(1, 2)})
    with pytest.raises(TrainingError, match="tensor scale is in the file but not in the module"):
        load_module(module, {**module_tensors(module), "scale": torch.zeros(1)})
    with pytest.raises(TrainingError, match=r"tensor weight is \(1, 3\) in the file, \(1, 2\) in the module"):
        load_module(module, {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)})


class Talkative(nn.Linear):
    def get_extra_state(self):
        return "text"

    def set_extra_state(self, state):
        pass


def test_state_that_is_no_tensor_is_refused():
    with pytest.raises(
        TrainingError, match="_extra_state of the module's state is a str, not a tensor; make it a buffer"
    ):
        module_tensors(Talkative(1, 1))
