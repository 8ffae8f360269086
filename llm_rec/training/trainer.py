"""The trainer: one Accelerate loop over a task. Seeds, schedule, early stopping, checkpoints, exact resume.

**What one update sees.** `accumulation` x processes consecutive batches of the source make one optimiser update;
process `r` of `n` computes batches r, r + n, ... of them. So 2 processes with accumulation 1 train as 1 process with
accumulation 2, and `StepLoss.weight` makes both equal one larger batch. The last update of an epoch takes what is left.

**Randomness.** `fit` seeds the global generators from `seed` (and the process), trains, and leaves them as it found
them. Validation runs under generators of its own, so how often one evaluates does not change what is trained.

**Resume.** With a folder, a killed run goes on from its last checkpoint when the same command runs again, on a CPU bit
for bit (with the same number of threads and processes); a finished one returns its result at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import torch

from llm_rec.codec import Plain, to_plain
from llm_rec.training.groups import GroupParameters
from llm_rec.training.schedule import Schedule
from llm_rec.training.task import BatchSource, Movable, Task

BatchT = TypeVar("BatchT", bound=Movable)
Precision: TypeAlias = Literal["no", "bf16", "fp16"]
DeviceChoice: TypeAlias = Literal["auto", "cpu"]
Validate = Callable[[], Mapping[str, float]]
OPERATIONAL = ("trackers", "checkpoint_every")  # these change no number, so a rerun may change them


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerConfig:
    """How a task is trained. `patience` counts evaluations; `warmup_steps` and `checkpoint_every` count updates.

    `weight_decay` is decoupled with "adamw" and an L2 term in the gradient with "adam". A part of the parameters gets
    its own by the `groups` of `Trainer.fit`. Without `checkpoint_every` checkpoints are written at ends of epochs, in
    one process at most every ten seconds. `device="cpu"` stays off a GPU that is there.
    """

    epochs: int
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float | None = None
    accumulation: int = 1
    precision: Precision = "no"
    patience: int | None = None
    monitor: str = "ndcg@10"
    eval_every: int = 1
    checkpoint_every: int | None = None
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    seed: int = 0
    trackers: tuple[str, ...] = ()
    optimizer: Literal["adamw", "adam"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    device: DeviceChoice = "auto"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("accumulation", 1), ("eval_every", 1), ("warmup_steps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, value in (("patience", self.patience), ("checkpoint_every", self.checkpoint_every)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, or none, got {value}")
        if self.learning_rate <= 0 or self.eps <= 0:
            raise ValueError(f"learning_rate and eps must be positive, got {self.learning_rate} and {self.eps}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm must be positive, or none, got {self.clip_norm}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainResult:
    """What a run came to. `history` has one entry an epoch: the lines of ``log.jsonl``.

    `best_epoch` (from 1) and `best_value` belong to the monitored metric; without validation they are the last epoch
    and None. The module holds the weights of `best_epoch`.
    """

    best_epoch: int
    best_value: float | None
    history: list[dict[str, Plain]] = field(default_factory=list)


class Trainer:
    """Trains tasks by a config; with a folder it checkpoints there and resumes from there."""

    def __init__(self, config: TrainerConfig, folder: Path | None = None) -> None:
        self.config = config
        self.folder = Path(folder) if folder is not None else None

    def fit(
        self,
        task: Task[BatchT],
        source: BatchSource[BatchT],
        *,
        validate: Validate | None = None,
        groups: GroupParameters | None = None,
        inputs: Mapping[str, str] | None = None,
    ) -> TrainResult:
        """Train `task` on `source`. Afterwards the module holds the best weights, in evaluation mode.

        `validate` returns metrics of the module as it is (in evaluation mode); the higher the monitored one, the
        better. Without it the last weights are kept. `inputs` names what the run is made from (fingerprints of data,
        embeddings, model config): a rerun in the same folder with other inputs is refused like one with another config.

        Raises `TrainingError` when the loss, a weight or the monitored metric is not finite, when the folder
        holds another run, or when the config asks for what is not there (a tracker, fp16 on a CPU).
        """
        from llm_rec.training.loop import Loop  # Accelerate takes a second to import; configs do not need it

        loop = Loop(self.config, self.folder, task, source, validate=validate, groups=groups, inputs=inputs or {})
        return loop.run()


def identity(
    config: TrainerConfig,
    module: torch.nn.Module,
    steps: int,
    processes: int,
    inputs: Mapping[str, str],
    row_optimizers: Mapping[str, str],
) -> dict[str, Plain]:
    """What makes two runs the same run: config, tensors of the module, length of an epoch, processes, inputs.

    `row_optimizers` names the tables that one trains; a run without such tables does not mention them.
    """
    plain = to_plain(config)
    settings = {k: v for k, v in plain.items() if k not in OPERATIONAL} if isinstance(plain, dict) else {}
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    tensors: dict[str, Plain] = {
        name: f"{value.dtype} {list(value.shape)} {'trained' if name in trained else 'fixed'}"
        for name, value in module.state_dict().items()
    }
    return {
        "config": settings,
        "inputs": dict(inputs),
        "tensors": tensors,
        "steps_per_epoch": steps,
        "processes": processes,
        **({"row_optimizers": dict(row_optimizers)} if row_optimizers else {}),
    }
