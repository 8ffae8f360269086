"""Click models with patterns (DPN): the phase that pre-trains their refiner, and what the click phase does with it.

Reconstruction from the published description of DPN (arXiv 2404.11456); the paper's hyper-parameters are unknown to us.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from torch import nn

from ctr_models.batch import FeatureBatch
from ctr_models.model import CTRModel, CTRModelConfig
from ctr_models.sequences.events import PartTables
from ctr_models.sequences.pattern_corruption import NoiseItems
from ctr_models.sequences.pattern_refiner import TransformerRefiner, TransformerRefinerConfig
from ctr_models.sequences.patterns import DPN
from llm_rec.ctr.event_windows import EventSequences
from llm_rec.ctr.pattern_pretraining import (
    PatternPretraining,
    PatternPretrainingConfig,
    outside_refiner,
    pretraining_phase,
    refiner_groups,
)
from llm_rec.data.columns import ClickLog
from llm_rec.errors import ConfigError, DataError
from llm_rec.training.groups import ParameterGroup
from llm_rec.training.phases import Phase


def check_pretrained(model: CTRModelConfig) -> None:
    """`ConfigError` for a model without a refiner to pre-train, or whose events have no vectors without a position."""
    sequence = model.sequence
    if sequence is None or sequence.patterns is None:
        raise ConfigError(
            "pattern_pretraining is for models with patterns; set model.sequence.patterns or leave it out"
        )
    if not isinstance(sequence.patterns.refiner, TransformerRefinerConfig):
        name = type(sequence.patterns.refiner).__name__
        raise ConfigError(f"pattern_pretraining trains a transformer refiner, and this model has {name}; leave it out")
    if sequence.events.position == "add" or sequence.events.decouple == "projection":
        raise ConfigError(
            "pattern_pretraining reads event vectors without their position: take position 'concat' or 'none', and a "
            f"decoupling without projections, not {sequence.events.position!r} and {sequence.events.decouple!r}"
        )


def pattern_phase(
    config: PatternPretrainingConfig,
    build: Callable[[], CTRModel],
    groups: Callable[[nn.Module], Sequence[ParameterGroup]],
    log: ClickLog,
    *,
    seed: int,
    inputs: Mapping[str, str],
) -> Phase[FeatureBatch]:
    """Denoising of windows of the events that train rows look back on; the tables of representation learn with it.

    `groups` are those of the click phase. `DataError` when the log has no histories.
    """
    train = log.part("train")
    if train.events is None or train.windows is None:
        raise DataError(f"{log.path} has no histories; make it with history fields to train patterns")

    def task(items: NoiseItems) -> PatternPretraining:
        model = build()
        refiner, tables = _parts(model)
        return PatternPretraining(model, refiner, tables.content, items, config, tables=tables.tables)

    return pretraining_phase(
        config,
        task,
        EventSequences.before(train.events.ids, np.asarray(train.windows)),
        seed=seed,
        inputs=inputs,
        groups=lambda module: refiner_groups(groups(module), module, 1.0),
    )


def finetuned(config: PatternPretrainingConfig | None) -> Callable[[str], bool] | None:
    """`Phase.trainable` of the click phase: all but a frozen refiner."""
    return outside_refiner if config is not None and config.finetuning == "frozen" else None


def finetuned_groups(
    config: PatternPretrainingConfig | None, groups: Sequence[ParameterGroup], module: nn.Module
) -> Sequence[ParameterGroup]:
    """Groups of the click phase, a pre-trained refiner in groups of its own."""
    return groups if config is None else refiner_groups(groups, module, config.learning_rate_factor)


def _parts(model: CTRModel) -> tuple[TransformerRefiner, PartTables]:
    """The refiner of a model that `check_pretrained` passed, and the tables of its events."""
    if model.sequence is None or not isinstance(model.sequence.encoder, DPN):
        raise TypeError("the model has no patterns; check its config first")
    refiner = model.sequence.encoder.refiner
    if not isinstance(refiner, TransformerRefiner):
        raise TypeError(f"expected a transformer refiner, got {type(refiner).__name__}")
    return refiner, model.sequence.events.representation.events
