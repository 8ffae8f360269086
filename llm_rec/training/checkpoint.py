"""Checkpoints: atomic folders of safetensors and JSON, from which a run goes on bit for bit.

``checkpoints/run.json`` holds what the run is (its config and the shape of its task); a rerun that differs is refused.
``checkpoints/update-00000120/`` holds ``state.safetensors`` (weights, optimiser state, loss sums, random generators of
every process) and ``state.json`` (position, history, best value). The last two are kept.
``checkpoints/best-00003.safetensors`` holds the weights of the best epoch so far. Nothing is pickled.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from llm_rec.artifacts import (
    canonical_json,
    fingerprint,
    read_json,
    read_manifest,
    replacing,
    write_artifact,
    write_json,
)
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError, TrainingError

KEPT = 2
KIND = "checkpoint"


@dataclass(kw_only=True, slots=True)
class Position:
    """Where a run is, and what it knows besides tensors. `epoch` is the one in progress (from 1)."""

    epoch: int = 1
    update: int = 0
    updates: int = 0
    seconds: float = 0.0
    finished: bool = False
    best_epoch: int = 0
    best_value: float | None = None
    evaluations_since_best: int = 0
    history: list[dict[str, Plain]] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)
    scaler: dict[str, float] = field(default_factory=dict)


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each tied tensor once."""
    seen: set[tuple[object, ...]] = set()
    tensors = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise TrainingError(
                f"{name} of the module's state is a {type(value).__name__}, not a tensor; make it a buffer"
            )
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() == 0 or place not in seen:
            tensors[name] = value
        seen.add(place)
    return tensors


@torch.no_grad()
def load_module(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy `tensors` into the module; `TrainingError` when names or shapes differ."""
    own = module_tensors(module)
    if own.keys() != tensors.keys():
        name = sorted(own.keys() ^ tensors.keys())[0]
        side = "module but not in the file" if name in own else "file but not in the module"
        raise TrainingError(f"tensor {name} is in the {side}; build the module that the weights were saved from")
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise TrainingError(
                f"tensor {name} is {tuple(value.shape)} in the file, {tuple(own[name].shape)} in the module"
            )
        own[name].copy_(value)


def save_weights(path: Path, module: nn.Module) -> None:
    """Write the module's tensors to a safetensors file, atomically."""
    save_tensors(path, module_tensors(module))


def load_weights(path: Path, module: nn.Module) -> None:
    """Read the module's tensors from a safetensors file."""
    load_module(module, load_tensors(path))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with replacing(path) as partial:
        save_file(_on_cpu(tensors), partial)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: cannot be read ({error}); remove its folder to go on from the one before"
        ) from error


def optimizer_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Optimiser state by parameter name: ``name.exp_avg`` and so on."""
    names: dict[Tensor, str] = {p: name for name, p in module.named_parameters()}
    state = ((names[p], entries) for p, entries in optimizer.state.items())
    return {f"{name}.{key}": value for name, entries in state for key, value in entries.items()}


def load_optimizer(optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; every tensor goes to its parameter's device and memory layout."""
    parameters = dict(module.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit(".", 1)
        parameter = parameters[name]
        like = torch.empty_like(
            parameter if value.shape == parameter.shape else value, dtype=value.dtype, requires_grad=False
        )
        optimizer.state[parameter][key] = like.to(parameter.device).copy_(value)


class CheckpointFolder:
    """The ``checkpoints`` folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, identity: Mapping[str, Plain], *, write: bool) -> None:
        """Start the folder, or check that it belongs to this very run; `TrainingError` names every difference."""
        file = self.path / "run.json"
        if file.exists():
            stored = read_json(file)
            if stored != identity:
                changes = differences(stored, identity)
                raise TrainingError(
                    f"{self.path.parent} holds another run: {'; '.join(changes)}. "
                    "Train in another folder, or remove this one to start again"
                )
        elif write:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(file, identity)
        if write:
            for left in self.path.glob(".*"):  # what a killed process was writing
                shutil.rmtree(left) if left.is_dir() else left.unlink()

    def save(self, position: Position, tensors: Mapping[str, Tensor], run: str) -> None:
        """Write a checkpoint, then drop all but the last two and the best weights that none of them names."""
        target = self.path / f"update-{position.updates:08d}"
        with write_artifact(target, kind=KIND, fingerprint=run, overwrite=True) as folder:
            save_file(_on_cpu(tensors), folder / "state.safetensors")
            (folder / "state.json").write_bytes(canonical_json(position))
        for old in self._checkpoints()[:-KEPT]:
            shutil.rmtree(old)
        needed = {self.best_path(self._position(kept).best_epoch) for kept in self._checkpoints()}
        for best in self.path.glob("best-*.safetensors"):
            if best not in needed:
                best.unlink()

    def load(self) -> tuple[Position, dict[str, Tensor]] | None:
        """The newest checkpoint, if there is one."""
        found = self._checkpoints()
        if not found:
            return None
        return self._position(found[-1]), load_tensors(found[-1] / "state.safetensors")

    def best_path(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:05d}.safetensors"

    def _checkpoints(self) -> list[Path]:
        return sorted(item for item in self.path.glob("update-*") if re.fullmatch(r"update-\d{8}", item.name))

    def _position(self, checkpoint: Path) -> Position:
        read_manifest(checkpoint, KIND)
        try:
            return from_plain(Position, read_json(checkpoint / "state.json"))
        except ConfigError as error:
            raise ArtifactError(f"{checkpoint}: {error}; remove this folder to go on from the one before") from error


def differences(stored: Plain, asked: Mapping[str, Plain]) -> list[str]:
    """What two JSON values differ in, with both values, by dotted path.

    >>> differences({"config": {"seed": 1, "epochs": 3}}, {"config": {"seed": 2, "epochs": 3}})
    ['config.seed is 1 in the folder, 2 here']
    """
    there, here = _leaves(stored), _leaves(to_plain(asked))
    names = [*here, *(name for name in there if name not in here)]
    pairs = ((name, there.get(name, "absent"), here.get(name, "absent")) for name in names)
    return [f"{name} is {old} in the folder, {new} here" for name, old, new in pairs if old != new]


def _leaves(value: Plain, path: str = "") -> dict[str, Plain]:
    if isinstance(value, dict) and value:
        inner = (_leaves(item, f"{path}.{key}" if path else key) for key, item in value.items())
        return {name: leaf for leaves in inner for name, leaf in leaves.items()}
    return {path: value}


def run_fingerprint(identity: Mapping[str, Plain]) -> str:
    return fingerprint(identity)
