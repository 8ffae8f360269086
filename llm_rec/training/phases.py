"""Training in phases: each builds its task from the one before, trains it, and leaves an artefact to go on from.

PAD (pre-train, align, experts) and other staged systems are lists of `Phase`. On disk a phase is ``NN-name/`` with
``model.safetensors``, ``result.json``, ``log.jsonl`` and, once it is finished, a ``manifest.json`` of kind "phase" that
names the fingerprint of the phase before. A finished phase is loaded, never trained again; an unfinished one resumes.
"""

import re
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic

import torch
from torch import nn

from llm_rec.artifacts import MANIFEST, Manifest, fingerprint, read_json, read_manifest, write_json, write_manifest
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import TrainingError
from llm_rec.processes import is_first
from llm_rec.training.checkpoint import differences, load_weights, save_weights
from llm_rec.training.groups import GroupParameters
from llm_rec.training.random_state import generators_untouched, seed_generators
from llm_rec.training.task import BatchSource, Task
from llm_rec.training.trainer import OPERATIONAL, BatchT, Trainer, TrainerConfig, TrainResult

KIND = "phase"


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase(Generic[BatchT]):
    """One phase: what it trains, on what, and how.

    `build` makes the task from the one before (None in the first phase) and copies what it inherits, so that the
    earlier task stays as it was; it runs under the seed of `trainer`. `trainable` says by a parameter's name whether
    it is trained; the others keep every bit (None: as built). `source` and `validate` are asked for the built task, and
    only when the phase is trained. `config` describes the phase and `inputs` what it reads (fingerprints): a finished
    phase made from others is refused.
    """

    name: str
    build: Callable[[Task[BatchT] | None], Task[BatchT]]
    source: Callable[[Task[BatchT]], BatchSource[BatchT]]
    trainer: TrainerConfig
    validate: Callable[[Task[BatchT]], Mapping[str, float]] | None = None
    trainable: Callable[[str], bool] | None = None
    groups: GroupParameters | None = None
    config: Mapping[str, Plain] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise ValueError(f"a phase's name becomes a folder: lower case letters, digits, - and _, got {self.name!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedPhase(Generic[BatchT]):
    """A phase that is done. `trained` is False when it was loaded. Its module lies on the CPU, in evaluation mode."""

    name: str
    task: Task[BatchT]
    result: TrainResult
    fingerprint: str
    trained: bool


def run_phases(
    phases: Sequence[Phase[BatchT]],
    folder: Path | None = None,
    *,
    only: str | None = None,
    until: str | None = None,
    shared: Path | None = None,
) -> list[FinishedPhase[BatchT]]:
    """Run `phases` in order, up to `until` (all by default), and return those that were run or loaded.

    With `only`, every phase before that one must be finished in `folder`, and that one alone is trained. Without a
    folder everything happens in memory and nothing can be resumed. `shared` is a folder where all phases but the last
    are kept for other runs: one with the same settings, inputs and phases before it is copied from there into
    `folder`, not trained again. Runs at the same time may share it.

    Raises `TrainingError` for an unknown or repeated name, and when a folder holds a phase made from other settings,
    inputs, or another phase before it.
    """
    last = _last(phases, only, until)
    done: list[FinishedPhase[BatchT]] = []
    for number, phase in enumerate(phases[: last + 1], start=1):
        place = Path(folder) / f"{number:02d}-{phase.name}" if folder is not None else None
        finished = place is not None and (place / MANIFEST).is_file()
        if only is not None and phase.name != only and not finished:
            raise TrainingError(f"phase {only!r} needs phase {phase.name!r} finished first; run until={phase.name!r}")
        before = done[-1] if done else None
        kept = None
        if place is not None and shared is not None and number < len(phases):
            kept = Path(shared) / f"{phase.name}-{fingerprint(_recipe(phase), _inputs(phase, before))}"
            if not finished and (kept / MANIFEST).is_file():
                shutil.rmtree(place, ignore_errors=True)
                _copy(kept, place)
                finished = True
        done.append(_run_phase(phase, place, before, finished=finished))
        if place is not None and kept is not None and not kept.exists() and is_first():
            _copy(place, kept)
    return done


def _inputs(phase: Phase[BatchT], before: FinishedPhase[BatchT] | None) -> dict[str, str]:
    return {**phase.inputs, **({"previous": before.fingerprint} if before else {})}


def _copy(source: Path, target: Path) -> None:
    """A copy that is whole or absent. Whoever comes second leaves what is there: equal keys name equal phases."""
    partial = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(source, partial)
        if not target.exists():
            partial.rename(target)
    except OSError:
        if not target.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run_phase(
    phase: Phase[BatchT], place: Path | None, before: FinishedPhase[BatchT] | None, *, finished: bool
) -> FinishedPhase[BatchT]:
    recipe = _recipe(phase)
    inputs = _inputs(phase, before)
    if place is not None and finished:
        _check_same(place, recipe, inputs)
    with generators_untouched():
        seed_generators(phase.trainer.seed)
        task = phase.build(before.task if before else None)
    if place is not None and finished:
        return _load(phase.name, task, place)
    built = _freeze(task.module, phase.trainable)
    validate = phase.validate
    result = Trainer(phase.trainer, place).fit(
        task,
        phase.source(task),
        validate=(lambda: validate(task)) if validate is not None else None,
        groups=phase.groups,
        inputs={**inputs, "phase": fingerprint(recipe)},
    )
    for parameter in task.module.parameters():
        parameter.requires_grad_(built[id(parameter)])
    task.module.cpu()
    mark = _store(task.module, result, place, recipe, inputs) if place is not None else fingerprint(recipe, inputs)
    return FinishedPhase(name=phase.name, task=task, result=result, fingerprint=mark, trained=True)


def _store(
    module: nn.Module, result: TrainResult, place: Path, recipe: dict[str, Plain], inputs: Mapping[str, str]
) -> str:
    """Write the finished phase, the manifest last. The fingerprint covers the weights: equal means bit-identical."""
    if is_first():
        save_weights(place / "model.safetensors", module)
        write_json(place / "result.json", result)
        mark = fingerprint(recipe, inputs, _weights_fingerprint(module))
        write_manifest(place, Manifest(kind=KIND, fingerprint=mark, inputs=dict(inputs), details={"recipe": recipe}))
        shutil.rmtree(place / "checkpoints")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return read_manifest(place, KIND).fingerprint


def _weights_fingerprint(module: nn.Module) -> str:
    values = sorted(module.state_dict().items())
    return fingerprint(*(part for name, value in values for part in (name, fingerprint(_bytes(value)))))


def _bytes(value: torch.Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _load(name: str, task: Task[BatchT], place: Path) -> FinishedPhase[BatchT]:
    load_weights(place / "model.safetensors", task.module)
    task.module.cpu().eval()
    result = from_plain(TrainResult, read_json(place / "result.json"))
    mark = read_manifest(place, KIND).fingerprint
    return FinishedPhase(name=name, task=task, result=result, fingerprint=mark, trained=False)


def _check_same(place: Path, recipe: dict[str, Plain], inputs: Mapping[str, str]) -> None:
    manifest = read_manifest(place, KIND)
    stored: dict[str, Plain] = {"recipe": manifest.details.get("recipe"), "inputs": dict(manifest.inputs)}
    changes = differences(stored, {"recipe": recipe, "inputs": dict(inputs)})
    if changes:
        raise TrainingError(
            f"{place} holds this phase made otherwise: {'; '.join(changes)}. "
            "Run in another folder, or remove this one and those after it"
        )


def _recipe(phase: Phase[BatchT]) -> dict[str, Plain]:
    trainer = to_plain(phase.trainer)
    settings = {k: v for k, v in trainer.items() if k not in OPERATIONAL} if isinstance(trainer, dict) else {}
    return {"name": phase.name, "trainer": settings, "config": to_plain(phase.config)}


def _freeze(module: nn.Module, trainable: Callable[[str], bool] | None) -> dict[int, bool]:
    """Freeze what is not trained; returns what required gradients before, by `id`.

    It is put back after training, so that the next phase starts from the same module, trained here or loaded.
    """
    built = {id(parameter): parameter.requires_grad for parameter in module.parameters()}
    if trainable is not None:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(trainable(name))
    return built


def _last(phases: Sequence[Phase[BatchT]], only: str | None, until: str | None) -> int:
    """Index of the last phase to run."""
    names = [phase.name for phase in phases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        raise TrainingError(f"two phases are named {repeated[0]!r}" if repeated else "there is no phase to run")
    if only is not None and until is not None:
        raise TrainingError(f"only={only!r} and until={until!r} exclude each other; pass one of them")
    stop = only if only is not None else until if until is not None else names[-1]
    if stop not in names:
        raise TrainingError(f"no phase is named {stop!r}; the phases are {', '.join(names)}")
    return names.index(stop)
