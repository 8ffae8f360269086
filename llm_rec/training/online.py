"""One pass over rows in time order; every batch is predicted before it is learned from (prequential evaluation).

    for each batch, oldest first:   predict (evaluation mode, no gradient)  ->  record  ->  loss  ->  one update

So every figure is of rows that the model had not seen, and no part of the log is spent on validation. The optimiser is
never reset: its moments go on from batch to batch, and from an earlier run (`start`). One process, one device, a
constant learning rate.

That arXiv 2403.00793 keeps training on fresh data is known from its summaries alone; this loop is our reading.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from ctr_models.optim import RowSums, clip_gradient_norm_
from llm_rec.artifacts import fingerprint
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import TrainingError
from llm_rec.metrics.classification import ClickMetrics, click_metrics
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
from llm_rec.training.groups import GroupParameters, optimizer_groups
from llm_rec.training.optimizers import build_optimizer, row_optimizers
from llm_rec.training.random_state import generators_untouched, read_generators, seed_generators, write_generators
from llm_rec.training.task import BatchSource, Movable, StepLoss
from llm_rec.training.trainer import TrainerConfig, identity

Batch_contra = TypeVar("Batch_contra", contravariant=True)
BatchT = TypeVar("BatchT", bound=Movable)


@runtime_checkable
class OnlineTask(Protocol[Batch_contra]):
    """A model of clicks that is asked before it is told. `module` holds every parameter and buffer."""

    @property
    def module(self) -> nn.Module: ...

    def predict(self, batch: Batch_contra) -> Float[Tensor, "batch"]:
        """Log odds of a click, one a row; reads no label."""
        ...

    def labels(self, batch: Batch_contra) -> Float[Tensor, "batch"]:
        """0 or 1 a row."""
        ...

    def loss(self, batch: Batch_contra, weights: Float[Tensor, "batch"] | None = None) -> StepLoss:
        """What to minimise; `weights` multiply the rows' terms."""
        ...


# Weights of all rows in their order, or of a batch from what is in it alone: a function with a memory of its own would
# not resume exactly. What depends on earlier rows (how often a user saw an ad) is an array, made beforehand.
RowWeights: TypeAlias = Float[np.ndarray, "rows"] | Callable[[BatchT], Float[Tensor, "batch"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineConfig:
    """`window` counts the batches of one line of figures, after which a checkpoint is written; the last window takes
    what is left. ECE is over `num_buckets` buckets of equally many rows of a window.
    """

    learning_rate: float = 1e-3
    optimizer: Literal["adamw", "adam"] = "adam"
    weight_decay: float = 0.0
    clip_norm: float | None = None
    window: int = 100
    num_buckets: int = 10
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("num_buckets", self.num_buckets)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        _ = self.trainer  # checks the others

    @property
    def trainer(self) -> TrainerConfig:
        """The same settings as the trainer's optimisers take them."""
        return TrainerConfig(
            epochs=1,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            seed=self.seed,
            device=self.device,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Figures of the rows `first_row` .. `first_row` + rows - 1, each predicted before it was learned from, and the
    mean loss, in row weights, of learning them. Figures never carry row weights: judge the log as it is.
    """

    first_row: int
    loss: float
    metrics: ClickMetrics


@dataclass(frozen=True, eq=False)
class OnlineResult:
    """Windows in order, and what was predicted for every row; `metrics` are over all rows."""

    windows: list[Window]
    logits: Float64[np.ndarray, "rows"]
    labels: Float32[np.ndarray, "rows"]
    num_buckets: int

    @property
    def metrics(self) -> ClickMetrics:
        """AUC compares rows of different times, when the model knew different things."""
        return click_metrics(self.logits, self.labels, num_buckets=self.num_buckets)


def train_online(
    config: OnlineConfig,
    task: OnlineTask[BatchT],
    source: BatchSource[BatchT],
    *,
    weights: RowWeights[BatchT] | None = None,
    groups: GroupParameters | None = None,
    folder: Path | None = None,
    start: Path | None = None,
    inputs: Mapping[str, str] | None = None,
) -> OnlineResult:
    """Train `task` on the batches of ``source.epoch(1)``, which must come in time order. The module ends as the last
    batch left it, in evaluation mode.

    With a folder a stopped run goes on from its last window, on a CPU bit for bit, and a finished one returns its
    result. `start` is the folder of an earlier run of this loop or of `Trainer`, with checkpoints: weights and
    optimiser state go on from there. `inputs` are fingerprints of what the run is made from. Raises `TrainingError`
    when predictions are not finite, when weights do not fit, and when the folder holds another run.
    """
    return _Pass(config, task, source, weights, groups, folder, start, inputs or {}).run()


class _Pass(Generic[BatchT]):
    """State and steps of one pass."""

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
        self.device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")
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
