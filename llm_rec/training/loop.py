"""One run of the trainer, step by step. `Trainer` is its public face."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Generic

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from ctr_models.optim import RowSums, clip_gradient_norm_, scale_gradients_
from llm_rec.artifacts import write_bytes
from llm_rec.codec import Plain
from llm_rec.errors import TrainingError
from llm_rec.progress import progress
from llm_rec.training.checkpoint import (
    CheckpointFolder,
    Position,
    load_module,
    load_optimizer,
    load_weights,
    module_tensors,
    optimizer_tensors,
    run_fingerprint,
    save_weights,
)
from llm_rec.training.devices import build_accelerator
from llm_rec.training.groups import GroupParameters, optimizer_groups
from llm_rec.training.optimizers import build_optimizer, drop_vanished_moments, row_optimizers
from llm_rec.training.random_state import generators_untouched, read_generators, seed_generators, write_generators
from llm_rec.training.schedule import count_plateaus, learning_rate_factor
from llm_rec.training.task import BatchSource, StepLoss, Task
from llm_rec.training.trainer import BatchT, TrainerConfig, TrainResult, Validate, identity

LOSS_CHECK_EVERY = 1000  # updates between two looks at the loss sum: the only reads of the device inside an epoch
MOMENTS_CHECK_EVERY = 100  # updates between two looks for moments that have vanished, on a CPU
CHECKPOINT_SECONDS = 10.0


class TaskLoss(nn.Module, Generic[BatchT]):
    """A task as a module whose forward is its loss: what DDP and autocast can wrap while tasks stay plain objects.

    Buffers are not sent around in every step, as DDP would: a frozen embedding table may be larger than the model.
    """

    def __init__(self, task: Task[BatchT]) -> None:
        super().__init__()
        self.module = task.module
        self._task = task
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def forward(self, batch: BatchT) -> StepLoss:
        return self._task.loss(batch)


class LossSums:
    """Weighted sums of the losses of an epoch's steps, float64 on the device until the host asks for them."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weight = 0.0

    def add(self, step: StepLoss, weight: float) -> None:
        self.weight += weight
        for name, value in {"total": step.total, **step.parts}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=value.device)
            self.sums[name].add_(value.detach(), alpha=weight)

    def tensor(self, device: torch.device) -> Tensor:
        """The weight and every sum, as one vector."""
        weight = torch.tensor(self.weight, dtype=torch.float64, device=device)
        return torch.stack([weight, *self.sums.values()])

    def load(self, names: Sequence[str], values: Tensor) -> None:
        self.weight = values[0].item()
        self.sums = {name: value.clone() for name, value in zip(names, values[1:], strict=True)}


class Loop(Generic[BatchT]):
    """State and steps of one run."""

    def __init__(
        self,
        config: TrainerConfig,
        folder: Path | None,
        task: Task[BatchT],
        source: BatchSource[BatchT],
        *,
        validate: Validate | None,
        groups: GroupParameters | None,
        inputs: Mapping[str, str],
    ) -> None:
        if len(source) == 0:
            raise TrainingError("the source has no batch; there is nothing to train on")
        if config.patience is not None and validate is None:
            raise TrainingError(
                f"patience {config.patience} needs a validation, and none was given; pass validate or no patience"
            )
        if config.schedule == "plateau" and validate is None:
            raise TrainingError("schedule 'plateau' needs a validation, and none was given; pass validate or another")
        self.config, self.folder, self.source, self.validate = config, folder, source, validate
        self.accelerator = build_accelerator(config, folder)
        self.device: torch.device = self.accelerator.device
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.module = task.module.to(self.device)
        chosen = optimizer_groups(
            self.module, groups, weight_decay=config.weight_decay, learning_rate=config.learning_rate
        )
        self.parameters = [p for group in chosen for p in group["params"]]
        self.row_sums = RowSums()
        self.optimizer = build_optimizer(config, chosen, self.row_sums)
        # Accelerate's wrapper looks for packages on the disk in every step; only a gradient scaler needs it.
        scaled = self.accelerator.scaler is not None
        self.step_optimizer = self.accelerator.prepare_optimizer(self.optimizer) if scaled else self.optimizer
        self.step_module = self.accelerator.prepare_model(TaskLoss(task), device_placement=False)
        if self.world > 1:
            broadcast(list(self.module.buffers()))  # once, from the first process
        self.span = config.accumulation * self.world  # batches of the source in one update
        self.updates_per_epoch = math.ceil(len(source) / self.span)
        tables = row_optimizers(self.module, chosen)
        self.has_sparse = bool(tables)
        self.identity = identity(config, self.module, len(source), self.world, inputs, tables)
        self.checkpoints = CheckpointFolder(folder / "checkpoints") if folder is not None else None
        self.position = Position()
        self.sums = LossSums()
        self.checked = 0  # updates of this epoch whose losses are known to be finite
        self.rate = config.learning_rate
        self.plateaus = 0  # of the epochs before this one
        self.best: dict[str, Tensor] = {}
        self.started = self.saved = time.perf_counter()

    def run(self) -> TrainResult:
        with generators_untouched():
            seed_generators(self.config.seed + self.rank)
            self._resume()
            try:
                while not self.position.finished:
                    self._epoch()
            finally:
                for tracker in self.accelerator.trackers:
                    tracker.finish()
        self._take_best()
        self.module.eval()
        place = self.position
        return TrainResult(best_epoch=place.best_epoch, best_value=place.best_value, history=place.history)

    # One epoch

    def _epoch(self) -> None:
        place = self.position
        self.module.train()
        self.plateaus = count_plateaus(list(_monitored(place.history, self.config.monitor)))
        self.started = time.perf_counter()
        with progress(f"epoch {place.epoch}", self.updates_per_epoch) as advance:
            advance(place.update)
            for group in self._groups():
                self._update(group)
                place.update += 1
                place.updates += 1
                advance()
                if place.update < self.updates_per_epoch:
                    self._inside_epoch()
        self._end_epoch()

    def _groups(self) -> Iterator[list[BatchT]]:
        """The batches of each update that is left in this epoch."""
        stream = self.source.epoch(self.position.epoch, self.position.update * self.span)
        for _ in range(self.position.update, self.updates_per_epoch):
            yield list(islice(stream, self.span))

    def _update(self, group: list[BatchT]) -> None:
        """One optimiser update. A process that has one batch less than others repeats the last with weight 0."""
        rounds = math.ceil(len(group) / self.world)
        weights = 0.0
        for turn in range(rounds):
            index = turn * self.world + self.rank
            batch = group[min(index, len(group) - 1)].to(self.device)
            with nullcontext() if turn == rounds - 1 else self.accelerator.no_sync(self.step_module):
                step: StepLoss = self.step_module(batch)
                weight = step.weight if index < len(group) else 0.0
                self.sums.add(step, weight)
                self.accelerator.backward(step.total if self.span == 1 else step.total * weight)
            weights += weight
        if self.span > 1:
            self._divide_gradients(weights)
        if self.config.clip_norm is not None:
            self._clip_gradients(self.config.clip_norm)
        self._set_learning_rate()
        self.step_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cpu" and (self.position.updates + 1) % MOMENTS_CHECK_EVERY == 0:
            drop_vanished_moments(self.optimizer)

    def _clip_gradients(self, norm: float) -> None:
        if self.has_sparse:
            self.accelerator.unscale_gradients()
            clip_gradient_norm_(self.parameters, norm, self.row_sums)
        else:
            self.accelerator.clip_grad_norm_(self.parameters, norm)

    def _divide_gradients(self, weights: float) -> None:
        """Sums of weighted gradients -> their weighted mean. DDP has averaged over processes; undo that."""
        if self.world == 1:
            scale_gradients_(self.parameters, 1.0 / weights)
        else:
            total = torch.full((), weights, dtype=torch.float64, device=self.device)
            scale_gradients_(self.parameters, self.world / self.accelerator.reduce(total, reduction="sum"))

    def _set_learning_rate(self) -> None:
        config, at = self.config, self.position.updates
        updates = self.updates_per_epoch * config.epochs
        factor = learning_rate_factor(
            config.schedule, at, updates=updates, warmup=config.warmup_steps, plateaus=self.plateaus
        )
        self.rate = config.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = group["learning_rate"] * factor

    def _inside_epoch(self) -> None:
        every, at = self.config.checkpoint_every, self.position.updates
        if self.checkpoints is not None and every is not None and at % every == 0:
            self._read_losses()
            self._save()
        elif at % LOSS_CHECK_EVERY == 0:
            self._read_losses()

    # End of an epoch

    def _end_epoch(self) -> None:
        place, config = self.position, self.config
        losses, examples = self._read_losses()
        seconds = place.seconds + time.perf_counter() - self.started
        due = place.epoch % config.eval_every == 0 or place.epoch == config.epochs
        metrics = self._evaluate() if self.validate is not None and due else {}
        entry: dict[str, Plain] = {
            "epoch": place.epoch,
            "updates": place.updates,
            "losses": dict(losses),
            "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
            "learning_rate": self.rate,
            "examples": examples,
            "examples_per_second": examples / max(seconds, 1e-9),
            "seconds": seconds,
        }
        place.history.append(entry)
        self._log(entry, {**{f"loss/{k}": v for k, v in losses.items()}, **metrics})
        stopped = config.patience is not None and place.evaluations_since_best >= config.patience
        place.finished = stopped or place.epoch == config.epochs
        place.epoch, place.update, place.seconds, self.sums = place.epoch + 1, 0, 0.0, LossSums()
        self.checked = 0
        self.started = time.perf_counter()
        rested = (
            self.world > 1
            or config.checkpoint_every is not None
            or time.perf_counter() - self.saved > CHECKPOINT_SECONDS
        )
        if self.checkpoints is not None and (place.finished or rested):
            self._save()

    def _evaluate(self) -> dict[str, float]:
        """Metrics of the module as it is; keeps its weights when the monitored one is the best so far."""
        if self.validate is None:
            return {}
        self.module.eval()
        with generators_untouched(), torch.no_grad():
            metrics = {name: float(value) for name, value in self.validate().items()}
        self.module.train()
        place, monitor = self.position, self.config.monitor
        if monitor not in metrics:
            known = ", ".join(metrics) or "none"
            raise TrainingError(f"the validation gives no {monitor!r} to monitor; it gives: {known}")
        value = self._same_everywhere(metrics[monitor])
        if not math.isfinite(value):
            raise TrainingError(
                f"{monitor} is {value} after epoch {place.epoch}; look at the validation's targets and scores"
            )
        if place.best_value is None or value > place.best_value:
            place.best_epoch, place.best_value, place.evaluations_since_best = place.epoch, value, 0
            self._keep_best()
        else:
            place.evaluations_since_best += 1
        return metrics

    def _same_everywhere(self, value: float) -> float:
        """The first process's value: all must stop, or go on, together."""
        if self.world == 1:
            return value
        shared: Tensor = broadcast(torch.tensor([value], dtype=torch.float64, device=self.device))
        return shared.item()

    def _keep_best(self) -> None:
        self.best = {name: value.detach().cpu().clone() for name, value in module_tensors(self.module).items()}
        if self.checkpoints is not None and self.accelerator.is_main_process:
            save_weights(self.checkpoints.best_path(self.position.best_epoch), self.module)

    def _take_best(self) -> None:
        if self.position.best_value is None:
            self.position.best_epoch = len(self.position.history)
        elif self.best:
            load_module(self.module, self.best)
        elif self.checkpoints is not None:
            load_weights(self.checkpoints.best_path(self.position.best_epoch), self.module)

    def _log(self, entry: Mapping[str, Plain], flat: Mapping[str, float]) -> None:
        self.accelerator.log(dict(flat), step=self.position.epoch)
        if self.folder is not None and self.accelerator.is_main_process:
            with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(_line(entry))

    # Losses

    def _read_losses(self) -> tuple[dict[str, float], float]:
        """Means over the epoch so far, and over how many examples. The only wait for the device in a run's updates."""
        sums = self._per_process(self.sums.tensor(self.device)).sum(0)
        norms = torch._foreach_norm([p.detach() for p in self.parameters])
        weight, *values = sums.tolist()
        means = {name: value / weight for name, value in zip(self.sums.sums, values, strict=True)}
        place = self.position
        steps = f"epoch {place.epoch}, updates {self.checked + 1} to {place.update}"
        kept = f"; the last good checkpoint stays in {self.checkpoints.path}" if self.checkpoints is not None else ""
        advice = "lower the learning rate, clip the gradient, or look for a division by zero in the loss"
        if not math.isfinite(means["total"]):
            raise TrainingError(f"the loss became {means['total']} in {steps}; {advice}{kept}")
        if not bool(torch.stack([norm.double() for norm in norms]).isfinite().all()):
            raise TrainingError(f"a weight became infinite or NaN in {steps}; {advice}{kept}")
        self.checked = place.update
        return means, weight

    def _per_process(self, value: Tensor) -> Tensor:
        """The values of all processes, stacked: (processes, ...)."""
        stacked = value.to(self.device)[None]
        gathered: Tensor = self.accelerator.gather(stacked) if self.world > 1 else stacked
        return gathered

    # Checkpoints

    def _save(self) -> None:
        """Write a checkpoint: collective, the first process writes."""
        if self.checkpoints is None:
            return
        place = self.position
        place.seconds += time.perf_counter() - self.started
        self.started = time.perf_counter()
        each = {f"random.{name}": self._per_process(value) for name, value in read_generators().items()}
        if place.update > 0:
            each["sums"] = self._per_process(self.sums.tensor(self.device))
        place.losses = list(self.sums.sums)
        if self.accelerator.is_main_process:
            place.scaler = dict(self.accelerator.scaler.state_dict()) if self.accelerator.scaler is not None else {}
            model = {f"module.{name}": value for name, value in module_tensors(self.module).items()}
            state = {f"optimizer.{n}": v for n, v in optimizer_tensors(self.optimizer, self.module).items()}
            self.checkpoints.save(place, {**model, **state, **each}, run_fingerprint(self.identity))
        self.accelerator.wait_for_everyone()
        self.saved = time.perf_counter()

    def _resume(self) -> None:
        if self.checkpoints is None or self.folder is None:
            return
        first = self.accelerator.is_main_process
        self.checkpoints.open(self.identity, write=first)
        self.accelerator.wait_for_everyone()
        found = self.checkpoints.load()
        if found is not None:
            self.position, tensors = found
            self._load(tensors)
        if first:
            write_bytes(self.folder / "log.jsonl", "".join(map(_line, self.position.history)).encode())

    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"module": {}, "optimizer": {}, "random": {}, "sums": {}}
        for path, value in tensors.items():
            part, _, name = path.partition(".")
            parts[part][name] = value
        load_module(self.module, parts["module"])
        load_optimizer(self.optimizer, self.module, parts["optimizer"])
        write_generators({name: value[self.rank].clone() for name, value in parts["random"].items()})
        for values in parts["sums"].values():
            self.sums.load(self.position.losses, values[self.rank].to(self.device))
        self.checked = self.position.update
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.position.scaler)
        if self.position.best_value is not None and self.checkpoints is not None:
            best = self.checkpoints.best_path(self.position.best_epoch)
            if not best.is_file():
                raise TrainingError(
                    f"{best} is gone, and the checkpoints beside it need it; remove {self.checkpoints.path}"
                )


def _monitored(history: Sequence[Mapping[str, Plain]], monitor: str) -> Iterator[float]:
    """The monitored metric of every epoch that was evaluated."""
    for entry in history:
        metrics = entry.get("metrics")
        value = metrics.get(monitor) if isinstance(metrics, dict) else None
        if isinstance(value, int | float):
            yield float(value)


def _line(entry: Mapping[str, Plain]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
