"""One pass of `llm_rec.training.online`, step by step."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Generic

import numpy as np
import torch
from torch import Tensor, nn

from ctr_models.optim import RowSums, clip_gradient_norm_
from llm_rec.artifacts import fingerprint
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import TrainingError
from llm_rec.metrics.classification import click_metrics
from llm_rec.progress import progress
from llm_rec.training.checkpoint import (
    CheckpointFolder,
    Position,
    load_module,
    load_optimizer,
    load_tensors,
    module_tensors,
    optimizer_tensors,
    run_fingerprint,
    save_tensors,
)
from llm_rec.training.devices import training_device
from llm_rec.training.groups import GroupParameters, optimizer_groups
from llm_rec.training.online import BatchT, OnlineConfig, OnlineResult, OnlineTask, RowWeights, Window
from llm_rec.training.optimizers import build_optimizer, row_optimizers
from llm_rec.training.random_state import generators_untouched, read_generators, seed_generators, write_generators
from llm_rec.training.task import BatchSource, StepLoss
from llm_rec.training.trainer import identity


class OnePass(Generic[BatchT]):
    """State and steps of one pass; see `train_online`."""

    def __init__(
        self,
        config: OnlineConfig,
        task: OnlineTask[BatchT],
        source: BatchSource[BatchT],
        weights: RowWeights[BatchT] | None,
        groups: GroupParameters | None,
        folder: Path | None,
        start: Path | None,
        inputs: Mapping[str, str],
    ) -> None:
        if len(source) == 0:
            raise TrainingError("the source has no batch; there is nothing to train on")
        self.config, self.task, self.source, self.weights = config, task, source, weights
        self.device = training_device(config.device)
        self.module = task.module.to(self.device)
        chosen = optimizer_groups(
            self.module, groups, weight_decay=config.weight_decay, learning_rate=config.learning_rate
        )
        self.parameters = [p for group in chosen for p in group["params"]]
        self.sums = RowSums()
        self.optimizer = build_optimizer(config.trainer, chosen, self.sums)
        for group in self.optimizer.param_groups:
            group["lr"] = group["learning_rate"]
        self.folder = folder
        self.checkpoints = None if folder is None else CheckpointFolder(folder / "checkpoints")
        self.position = Position()
        self.windows: list[Window] = []
        self.predicted: list[dict[str, Tensor]] = []  # of every finished window
        self.rows = 0  # learned so far
        tables = row_optimizers(self.module, chosen)
        self.identity = _identity(config, self.module, len(source), inputs, tables, weights, start)
        if start is not None:
            self._warm(start)

    def run(self) -> OnlineResult:
        with generators_untouched():
            seed_generators(self.config.seed)
            self._resume()
            stream, place = self.source.epoch(1, self.position.update), self.position
            with progress("one pass", len(self.source)) as advance:
                advance(place.update)
                while place.update < len(self.source):
                    seen = _Seen()
                    for _ in range(min(self.config.window, len(self.source) - place.update)):
                        self._meet(next(stream).to(self.device), seen)
                        place.update += 1
                        advance()
                    self._end_window(seen)
        self.module.eval()
        if isinstance(self.weights, np.ndarray) and len(self.weights) != self.rows:
            raise TrainingError(f"there are {len(self.weights)} weights, but the source gave {self.rows} rows")
        found = {name: torch.cat([part[name] for part in self.predicted]).numpy() for name in ("logits", "labels")}
        return OnlineResult(self.windows, found["logits"], found["labels"], self.config.num_buckets)

    def _meet(self, batch: BatchT, seen: "_Seen") -> None:
        """Predict, record, learn: in this order, and before the next batch is asked for."""
        self.module.eval()
        with torch.no_grad():
            logits = self.task.predict(batch)
        labels = self.task.labels(batch)
        self.module.train()
        step = self.task.loss(batch, self._weights_of(batch, seen.rows, len(labels)))
        torch.autograd.backward(step.total)
        seen.add(logits, labels, step)
        if self.config.clip_norm is not None:
            clip_gradient_norm_(self.parameters, self.config.clip_norm, self.sums)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _weights_of(self, batch: BatchT, seen: int, number: int) -> Tensor | None:
        if self.weights is None:
            return None
        if isinstance(self.weights, np.ndarray):
            first = self.rows + seen
            found = torch.from_numpy(self.weights[first : first + number].astype(np.float32)).to(self.device)
        else:
            found = self.weights(batch).to(self.device)
        if len(found) != number:
            raise TrainingError(f"batch {self.position.update} has {number} rows, but {len(found)} weights")
        return found

    def _end_window(self, seen: "_Seen") -> None:
        """The only place where the host waits for the device."""
        predicted = seen.predicted()
        steps = f"batches {self.position.updates + 1} to {self.position.update}"
        if not bool(predicted["logits"].isfinite().all()):
            raise TrainingError(f"a prediction is not finite in {steps}; lower the learning rate or clip the gradient")
        logits, labels = predicted["logits"].numpy(), predicted["labels"].numpy()
        metrics = click_metrics(logits, labels, num_buckets=self.config.num_buckets)
        self.windows.append(Window(first_row=self.rows, loss=seen.loss(), metrics=metrics))
        self.predicted.append(predicted)
        self.rows += len(labels)
        self.position.updates = self.position.update
        self._save(predicted)

    # Checkpoints

    def _save(self, predicted: dict[str, Tensor]) -> None:
        if self.checkpoints is None or self.folder is None:
            return
        place = self.position
        place.finished = place.update == len(self.source)
        plain = to_plain(self.windows[-1])
        place.history.append(plain if isinstance(plain, dict) else {})
        save_tensors(self._window_path(len(self.windows)), predicted)
        model = {f"module.{name}": value for name, value in module_tensors(self.module).items()}
        state = {f"optimizer.{n}": v for n, v in optimizer_tensors(self.optimizer, self.module).items()}
        random = {f"random.{name}": value for name, value in read_generators().items()}
        self.checkpoints.save(place, {**model, **state, **random}, run_fingerprint(self.identity))

    def _resume(self) -> None:
        if self.checkpoints is None or self.folder is None:
            return
        self.checkpoints.open(self.identity, write=True)
        (self.folder / "windows").mkdir(exist_ok=True)
        found = self.checkpoints.load()
        if found is None:
            return
        self.position, tensors = found
        self.windows = [from_plain(Window, plain) for plain in self.position.history]
        paths = [self._window_path(number) for number in range(1, len(self.windows) + 1)]
        self.predicted = [load_tensors(path) for path in paths]
        self.rows = sum(window.metrics.rows for window in self.windows)
        self._load(tensors)
        write_generators(_below("random.", tensors))

    def _window_path(self, number: int) -> Path:
        return (self.folder or Path()) / "windows" / f"{number:06d}.safetensors"

    def _warm(self, start: Path) -> None:
        """Weights and optimiser state of an earlier run's newest checkpoint."""
        found = CheckpointFolder(start / "checkpoints").load()
        if found is None:
            raise TrainingError(f"{start} holds no checkpoint to start from; name the folder of an earlier run")
        self._load(found[1])

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        load_module(self.module, _below("module.", tensors))
        load_optimizer(self.optimizer, self.module, _below("optimizer.", tensors))


class _Seen:
    """What a window's rows were predicted to be, what they were, and what learning them cost; on the device."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.losses: list[Tensor] = []
        self.rows = 0

    def add(self, logits: Tensor, labels: Tensor, step: StepLoss) -> None:
        self.logits.append(logits.detach())
        self.labels.append(labels.detach())
        self.losses.append(step.total.detach() * len(labels))
        self.rows += len(labels)

    def predicted(self) -> dict[str, Tensor]:
        return {"logits": torch.cat(self.logits).double().cpu(), "labels": torch.cat(self.labels).float().cpu()}

    def loss(self) -> float:
        return float(torch.stack(self.losses).double().sum().item() / self.rows)


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _identity(
    config: OnlineConfig,
    module: nn.Module,
    steps: int,
    inputs: Mapping[str, str],
    tables: Mapping[str, str],
    weights: np.ndarray | Callable[[BatchT], Tensor] | None,
    start: Path | None,
) -> dict[str, Plain]:
    """What makes two passes the same one. Of a function of weights its name alone is known."""
    given = fingerprint(weights.tobytes()) if isinstance(weights, np.ndarray) else None
    given = weights.__qualname__ if given is None and isinstance(weights, FunctionType) else given
    made = {
        **inputs,
        **({} if given is None else {"weights": given}),
        **({} if start is None else {"start": str(start)}),
    }
    return identity(config.trainer, module, steps, 1, made, tables) | {"online": to_plain(config)}
