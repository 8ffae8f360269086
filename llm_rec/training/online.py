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
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Float64
from torch import Tensor, nn

from llm_rec.metrics.classification import ClickMetrics, click_metrics
from llm_rec.training.groups import GroupParameters
from llm_rec.training.task import BatchSource, Movable, StepLoss
from llm_rec.training.trainer import DeviceChoice, TrainerConfig

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
    device: DeviceChoice = "auto"

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
    from llm_rec.training.online_loop import OnePass  # optimisers take seconds to import; configs do not need them

    return OnePass(config, task, source, weights, groups, folder, start, inputs or {}).run()
