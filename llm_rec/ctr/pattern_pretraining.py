"""Pre-training of a pattern refiner by denoising, on histories of the train period, and how a click model goes on.

    1. "pretrain-patterns"   noise goes into windows of train events; the refiner (and the tables it reads, where they
                             are to be trained) learns to find it and to recover what it hid
    2. the click phase       starts from those weights: the refiner frozen, or trained with a tenth of the learning rate

Windows come from `EventWindows` (each train event once an epoch), or from the newest events of any batch with histories
(the train rows of a click log). Validation and test events must not be among them: `EventSequences.until` cuts a log,
and noise items are those of the same events.

Reconstruction from the published description of DPN (arXiv 2404.11456); the paper's hyper-parameters are unknown to us.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.sequences.pattern_corruption import CorruptionConfig, NoiseItems, corrupt
from ctr_models.sequences.pattern_losses import DenoisingConfig, EventLookup, denoising_loss
from ctr_models.sequences.pattern_refiner import TransformerRefiner
from llm_rec.codec import to_plain
from llm_rec.ctr.event_windows import EventSequences, EventWindows
from llm_rec.errors import ConfigError, DataError
from llm_rec.training.groups import GroupParameters, ParameterGroup
from llm_rec.training.phases import Phase
from llm_rec.training.task import StepLoss, Task
from llm_rec.training.trainer import TrainerConfig

PHASE = "pretrain-patterns"
_UNUSED = "pattern_norm"  # of the refiner: makes the pattern's vector, which the pretext task does not read


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternPretrainingConfig:
    """The pretext task, its training, and what the click phase does with the refiner: `joint` training at
    `learning_rate_factor` times the learning rate, or `frozen`. `max_windows`: at most so many windows an epoch, for
    logs with many more events than rows. All defaults are our choices.
    """

    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    denoising: DenoisingConfig = field(default_factory=DenoisingConfig)
    batch_size: int = 1024
    max_windows: int | None = None
    finetuning: Literal["joint", "frozen"] = "joint"
    learning_rate_factor: float = 0.1
    trainer: TrainerConfig = field(default_factory=lambda: TrainerConfig(epochs=5, optimizer="adam"))

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ConfigError(f"batch_size must be at least 2, for negatives of the batch, got {self.batch_size}")
        if self.max_windows is not None and self.max_windows < 2:
            raise ConfigError(f"max_windows must be at least 2, got {self.max_windows}")
        if self.learning_rate_factor <= 0:
            raise ConfigError(
                f"learning_rate_factor must be above 0, got {self.learning_rate_factor}; "
                "finetuning 'frozen' leaves the refiner as it is"
            )


class PatternPretraining:
    """Task: denoise the newest `refiner.num_slots` events of each row's history.

    `module` is what a checkpoint keeps and must hold `refiner`: a whole click model, or tables and refiner. `vectors`
    looks events up in it, and `tables` is what it reads there, trained along; None leaves event vectors as they are.
    Noise is drawn from torch's global generator on the batch's device, as dropout is.
    """

    def __init__(
        self,
        module: nn.Module,
        refiner: TransformerRefiner,
        vectors: EventLookup,
        items: NoiseItems,
        config: PatternPretrainingConfig,
        *,
        tables: nn.Module | None = None,
    ) -> None:
        held = {id(parameter) for parameter in module.parameters()}
        if not all(id(parameter) in held for parameter in refiner.parameters()):
            raise ConfigError("the module does not hold the refiner; pass the model that the refiner is a part of")
        self._module, self.refiner, self.vectors, self.config = module, refiner, vectors, config
        self.items, self.tables = items, tables

    @property
    def module(self) -> nn.Module:
        return self._module

    def trained(self) -> frozenset[str]:
        """Names, in `module`, of the parameters that the pretext task trains: all others get no gradient from it."""
        chosen = {id(p) for name, p in self.refiner.named_parameters() if not name.startswith(_UNUSED)}
        chosen |= {id(p) for p in self.tables.parameters()} if self.tables is not None else set()
        return frozenset(name for name, p in self._module.named_parameters() if id(p) in chosen)

    def loss(self, batch: FeatureBatch) -> StepLoss:
        """Mean over the events of the batch. The part `changed` is the share of events that were."""
        ids = newest_events(batch, self.refiner.num_slots)
        self.items = self.items.to(ids.device)
        patterns = corrupt(ids, self.items, self.config.corruption)
        found = denoising_loss(self.refiner, self.vectors, patterns, self.items, self.config.denoising)
        changed = patterns.changed.sum() / patterns.mask.sum().clamp(min=1)
        parts = {"recovery": found.recovery.detach(), "detection": found.detection.detach(), "changed": changed}
        return StepLoss(found.total, parts, float(len(ids)))


def newest_events(batch: FeatureBatch, slots: int) -> Int64[Tensor, "batch {slots} fields"]:
    """The window that ends each row's history; `DataError` when the batch has none."""
    if batch.history is None:
        raise DataError("patterns come from histories, and these batches have none; read a log with histories")
    ids = batch.history.ids[:, -slots:]
    return F.pad(ids, (0, 0, slots - ids.shape[1], 0))


def pretraining_phase(
    config: PatternPretrainingConfig,
    build: Callable[[NoiseItems], PatternPretraining],
    events: EventSequences,
    *,
    seed: int,
    inputs: Mapping[str, str],
    validate: Callable[[Task[FeatureBatch]], Mapping[str, float]] | None = None,
    groups: GroupParameters | None = None,
) -> Phase[FeatureBatch]:
    """The first phase. `events` are those of the train period alone (`EventSequences.until`); windows and noise items
    come from them. `inputs` fingerprints them. `groups` is needed where tables have a row optimiser.
    """
    items = NoiseItems.seen(torch.from_numpy(events.ids))

    trained: set[str] = set()

    def make(previous: Task[FeatureBatch] | None) -> Task[FeatureBatch]:
        task = build(items)
        trained.update(task.trained())
        return task

    def source(task: Task[FeatureBatch]) -> EventWindows:
        if not isinstance(task, PatternPretraining):
            raise TypeError(f"expected pattern pre-training, got {type(task).__name__}")
        return EventWindows(events, task.refiner.num_slots, config.batch_size, seed, max_windows=config.max_windows)

    settings = to_plain(config, tagged=True)
    return Phase(
        name=PHASE,
        build=make,
        source=source,
        trainer=replace(config.trainer, seed=seed),
        validate=validate,
        trainable=trained.__contains__,
        groups=groups,
        config=settings if isinstance(settings, dict) else {},
        inputs=inputs,
    )


def inherit(module: nn.Module, previous: Task[FeatureBatch] | None) -> None:
    """Copy the weights of the pre-training phase into `module`, built alike; the earlier one stays as it was."""
    if not isinstance(previous, PatternPretraining):
        raise ConfigError(f"the phase before must be {PHASE!r}, got {type(previous).__name__}")
    module.load_state_dict(previous.module.state_dict())


def outside_refiner(name: str) -> bool:
    """`Phase.trainable` of a click phase with finetuning "frozen".

    >>> outside_refiner("encoder.refiner.slots"), outside_refiner("encoder.queries.weight")
    (False, True)
    """
    return "refiner" not in name.split(".")


def refiner_groups(
    groups: Sequence[ParameterGroup], module: nn.Module, learning_rate_factor: float
) -> list[ParameterGroup]:
    """The click phase's parameter groups with refiners in groups of their own, at `learning_rate_factor` times the
    learning rate their group had. What a phase has frozen is left out, as an optimiser needs it.
    """
    refiners = [part for part in module.modules() if isinstance(part, TransformerRefiner)]
    apart = {id(parameter) for refiner in refiners for parameter in refiner.parameters()}
    found: list[ParameterGroup] = []
    for group in groups:
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        others = [parameter for parameter in trained if id(parameter) not in apart]
        refined = [parameter for parameter in trained if id(parameter) in apart]
        factor = group.get("learning_rate_factor", 1.0) * learning_rate_factor
        found.append({**group, "params": others})
        found.append({**group, "params": refined, "learning_rate_factor": factor})
    return [group for group in found if group["params"]]
