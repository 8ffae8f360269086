"""The generative method: material with codes -> a trained generative recommender, in one phase."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from llm_rec.codec import to_plain
from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError
from llm_rec.generative.batches import GenerativeBatch, GenerativeBatchConfig, GenerativeBatches
from llm_rec.generative.model import GenerativeConfig, GenerativeModel, unique_codes
from llm_rec.generative.rates import relative_rates
from llm_rec.generative.task import NextCodesTask
from llm_rec.metrics.lists import rank_lists
from llm_rec.metrics.ranking import per_target
from llm_rec.recipes.material import Material
from llm_rec.training.phases import Phase
from llm_rec.training.task import Task
from llm_rec.training.trainer import TrainerConfig

VALIDATION_CUTS = (5, 10)


def _trainer() -> TrainerConfig:
    return TrainerConfig(epochs=100, learning_rate=1e-3, clip_norm=1.0, patience=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerativeMethodConfig:
    """A model that writes the codes of the next item. Codes that items share get TIGER's digit.

    `validation_targets` is how many validation targets early stopping looks at, the same ones every time (None: all):
    beam search for all of them may cost as much as an epoch. `relative_rates` multiplies the learning rate by the size
    of each tensor, as T5's optimiser does (`generative.rates`).
    """

    model: GenerativeConfig = field(default_factory=GenerativeConfig)
    batches: GenerativeBatchConfig = field(default_factory=GenerativeBatchConfig)
    trainer: TrainerConfig = field(default_factory=_trainer)
    validation_targets: int | None = None
    relative_rates: bool = False

    def __post_init__(self) -> None:
        if self.batches.max_length != self.model.max_length:
            raise ConfigError(
                f"batches.max_length is {self.batches.max_length} but model.max_length is {self.model.max_length}; "
                "set both to one value"
            )
        if self.validation_targets is not None and self.validation_targets < 1:
            raise ConfigError(f"validation_targets must be at least 1, or none, got {self.validation_targets}")


def generative_phase(method: GenerativeMethodConfig, material: Material, seed: int) -> Phase[GenerativeBatch]:
    """The phase that trains it; `ConfigError` when the material has no codes."""
    if material.codes is None:
        raise ConfigError(
            "a generative method needs codes; index the catalog and name them (--material.codes), or choose another "
            "method"
        )
    table = unique_codes(material.codes)
    asked = some_targets(material.split, method.validation_targets)

    def build(previous: Task[GenerativeBatch] | None) -> Task[GenerativeBatch]:
        return NextCodesTask(GenerativeModel(method.model, table))

    def validate(task: Task[GenerativeBatch]) -> Mapping[str, float]:
        if not isinstance(task, NextCodesTask):
            raise TypeError(f"expected a task of next codes, got {type(task).__name__}")
        ranks = rank_lists(task.model, asked, "validation", k=max(VALIDATION_CUTS))
        return {name: float(values.mean()) for name, values in per_target(ranks, VALIDATION_CUTS).items()}

    batches = GenerativeBatches(material.split, method.batches, seed)
    return Phase(
        name="train",
        build=build,
        source=lambda task: batches,
        trainer=replace(method.trainer, seed=seed),
        validate=validate if len(material.split.validation) else None,
        groups=relative_rates if method.relative_rates else None,
        config={
            "model": to_plain(method.model),
            "batches": to_plain(method.batches),
            "validation_targets": method.validation_targets,
            "relative_rates": method.relative_rates,
        },
        inputs=material.inputs,
    )


def search_device(config: TrainerConfig) -> torch.device:
    """Where a trained model searches: on the GPU it was trained on, since a search costs about what a step does."""
    return torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else "cpu")


def some_targets(split: Split, number: int | None) -> Split:
    """The split with at most `number` validation targets, drawn once and for all."""
    if number is None or number >= len(split.validation):
        return split
    chosen = np.random.default_rng(0).choice(len(split.validation), number, replace=False)
    return replace(split, validation=split.validation[np.sort(chosen)])
