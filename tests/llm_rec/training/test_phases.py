"""Phases: order, inheritance, frozen parts, artefacts, and what is trained again and what is not."""

import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from llm_rec.artifacts import read_manifest
from llm_rec.errors import ArtifactError, TrainingError
from llm_rec.training import TrainerConfig
from llm_rec.training.checkpoint import load_tensors
from llm_rec.training.phases import Phase, run_phases
from tests.llm_rec.training.tiny import Regression, Source, Stopped

TRAINER = TrainerConfig(epochs=2, learning_rate=0.05, monitor="score", device="cpu")


def _first(before):
    assert before is None
    return Regression(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1)))


def _second(before):
    """Copies the first tower and puts a new head on it."""
    return Regression(nn.Sequential(copy.deepcopy(before.module[0]), nn.Dropout(0.5), nn.Linear(3, 1)))


def _phases(*, epochs=2, stop_at=None, trained=None, checkpoint_every=None):
    def source(name, stop=None):
        def make(task):
            if trained is not None:
                trained.append(name)
            return Source([8] * 5, stop_at=stop)

        return make

    return [
        Phase(name="tower", build=_first, source=source("tower"), trainer=TRAINER, config={"width": 3}),
        Phase(
            name="head",
            build=_second,
            source=source("head", stop_at),
            trainer=replace(TRAINER, epochs=epochs, checkpoint_every=checkpoint_every),
            validate=lambda task: task.score(),
            trainable=lambda name: not name.startswith("0."),
        ),
        Phase(name="all", build=lambda before: copy.deepcopy(before), source=source("all"), trainer=TRAINER),
    ]


def _weights(phases):
    return [dict(phase.task.module.state_dict()) for phase in phases]


def test_phases_run_in_order_and_leave_artefacts_that_name_the_phase_before(tmp_path):
    done = run_phases(_phases(), tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["01-tower", "02-head", "03-all"]
    assert [phase.name for phase in done] == ["tower", "head", "all"]
    assert all(phase.trained for phase in done)
    for before, phase in pairwise(done):
        number = done.index(phase) + 1
        manifest = read_manifest(tmp_path / f"{number:02d}-{phase.name}", "phase")
        manifest.require_input("previous", before.fingerprint, where=tmp_path)
        assert manifest.fingerprint == phase.fingerprint
    assert (tmp_path / "01-tower" / "log.jsonl").is_file()
    assert not (tmp_path / "01-tower" / "checkpoints").exists()


def test_frozen_parameters_keep_every_bit_and_so_does_the_phase_before(tmp_path):
    first = run_phases(_phases(), tmp_path / "first", until="tower")[0]
    tower, head, _ = run_phases(_phases(), tmp_path / "all")
    assert torch.equal(tower.task.module[0].weight, first.task.module[0].weight)
    assert torch.equal(head.task.module[0].weight, tower.task.module[0].weight)
    assert torch.equal(head.task.module[0].bias, tower.task.module[0].bias)
    assert not torch.equal(head.task.module[2].weight, _second(tower.task).module[2].weight)
    assert head.result.best_value is not None
    stored = load_tensors(tmp_path / "all" / "02-head" / "model.safetensors")
    torch.testing.assert_close(stored, dict(head.task.module.state_dict()), rtol=0, atol=0)


def test_finished_phases_are_loaded_and_not_trained_again(tmp_path):
    trained = []
    once = run_phases(_phases(trained=trained), tmp_path, until="head")
    again = run_phases(_phases(trained=trained), tmp_path)
    assert trained == ["tower", "head", "all"]
    assert [phase.trained for phase in again] == [False, False, True]
    assert [phase.result for phase in again[:2]] == [phase.result for phase in once]
    torch.testing.assert_close(_weights(again)[:2], _weights(once), rtol=0, atol=0)
    assert not again[0].task.module.training


def test_stopped_in_a_phase_and_rerun_equals_a_run_left_alone_in_a_folder_or_in_memory(tmp_path):
    alone = run_phases(_phases(), tmp_path / "alone")
    torch.manual_seed(99)  # whatever the caller drew before
    with pytest.raises(Stopped):
        run_phases(_phases(stop_at=(2, 3), checkpoint_every=2), tmp_path / "stopped")
    stopped = run_phases(_phases(), tmp_path / "stopped")
    in_memory = run_phases(_phases())
    torch.testing.assert_close(_weights(stopped), _weights(alone), rtol=0, atol=0)
    torch.testing.assert_close(_weights(in_memory), _weights(alone), rtol=0, atol=0)
    assert [phase.fingerprint for phase in stopped] == [phase.fingerprint for phase in alone]


def test_shared_phases_are_trained_once_by_runs_that_begin_alike(tmp_path):
    trained = []
    shared = tmp_path / "shared"
    once = run_phases(_phases(trained=trained), tmp_path / "a", shared=shared)
    again = run_phases(_phases(trained=trained), tmp_path / "b", shared=shared)
    assert trained == ["tower", "head", "all", "all"]
    assert [phase.fingerprint for phase in again] == [phase.fingerprint for phase in once]
    other = run_phases(_phases(trained=trained, epochs=3), tmp_path / "c", shared=shared)
    assert trained[4:] == ["head", "all"]
    assert other[0].fingerprint == once[0].fingerprint
    assert sorted(path.name.split("-")[0] for path in shared.iterdir()) == ["head", "head", "tower"]


def test_a_phase_stopped_half_way_gives_way_to_a_shared_one(tmp_path):
    phases = _phases(stop_at=(1, 2), checkpoint_every=1)
    with pytest.raises(Stopped):
        run_phases(phases, tmp_path / "stopped", shared=tmp_path / "shared")
    alone = run_phases(_phases(), tmp_path / "whole", shared=tmp_path / "shared")
    trained = []
    done = run_phases(_phases(trained=trained), tmp_path / "stopped", shared=tmp_path / "shared")
    assert trained == ["all"]
    assert done[-1].fingerprint == alone[-1].fingerprint


def test_one_phase_alone_needs_those_before_it(tmp_path):
    with pytest.raises(TrainingError, match="phase 'head' needs phase 'tower' finished first; run until='tower'"):
        run_phases(_phases(), tmp_path, only="head")
    run_phases(_phases(), tmp_path, until="tower")
    tower, head = run_phases(_phases(), tmp_path, only="head")
    assert (tower.trained, head.trained) == (False, True)


def test_a_phase_made_otherwise_is_refused_with_both_values(tmp_path):
    run_phases(_phases(), tmp_path)
    with pytest.raises(
        TrainingError, match=r"02-head holds this phase made otherwise: .*epochs is 2 in the folder, 3 here"
    ):
        run_phases(_phases(epochs=3), tmp_path)
    wider = _phases()
    wider[0] = replace(wider[0], config={"width": 4})
    with pytest.raises(TrainingError, match=r"01-tower holds .*recipe\.config\.width is 3 in the folder, 4 here"):
        run_phases(wider, tmp_path)


def test_a_phase_made_from_another_phase_before_it_is_refused(tmp_path):
    run_phases(_phases(), tmp_path)
    other = _phases()
    other[0] = replace(other[0], trainer=replace(TRAINER, seed=1))
    for item in sorted((tmp_path / "01-tower").iterdir()):
        item.unlink()
    with pytest.raises(
        TrainingError, match=r"02-head holds this phase made otherwise: inputs\.previous is [0-9a-f]{16} in"
    ):
        run_phases(other, tmp_path)


def test_names_are_checked():
    phases = _phases()
    with pytest.raises(TrainingError, match="no phase is named 'tail'; the phases are tower, head, all"):
        run_phases(phases, until="tail")
    with pytest.raises(TrainingError, match="two phases are named 'tower'"):
        run_phases([phases[0], phases[0]])
    with pytest.raises(TrainingError, match="only='head' and until='all' exclude each other"):
        run_phases(phases, only="head", until="all")
    with pytest.raises(TrainingError, match="there is no phase to run"):
        run_phases([])
    with pytest.raises(ValueError, match="a phase's name becomes a folder: .* got 'Big Head'"):
        replace(phases[0], name="Big Head")


def test_a_damaged_weights_file_is_named(tmp_path):
    run_phases(_phases(), tmp_path, until="tower")
    (tmp_path / "01-tower" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"01-tower/model\.safetensors: cannot be read"):
        run_phases(_phases(), tmp_path)
