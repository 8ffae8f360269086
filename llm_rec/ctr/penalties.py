"""Penalties of the multi-embedding ablations as settings of a click task (arXiv 2310.04400; `ctr_models.losses`)."""

from dataclasses import dataclass
from typing import TypeAlias, assert_never

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.interactions.functions import InteractionFunction
from ctr_models.losses import (
    orthogonality,
    singular_value_variance,
    subspace_similarity,
    weight_norm_alignment,
)
from ctr_models.model import CTRModel
from llm_rec.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightAlignmentConfig:
    """`weight_norm_alignment` of the full-matrix cross layers: all sets weigh pairs of fields alike."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class OrthogonalityConfig:
    """`orthogonality` of the blocks of the full-matrix cross layers, without scales (the code's first variant)."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubspaceSimilarityConfig:
    """`subspace_similarity` of the sets on each batch."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class SingularVarianceConfig:
    """`singular_value_variance` of every field's vectors on each batch."""

    weight: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.weight)


PenaltyConfig: TypeAlias = (
    WeightAlignmentConfig | OrthogonalityConfig | SubspaceSimilarityConfig | SingularVarianceConfig
)


def penalty(config: PenaltyConfig, model: CTRModel, batch: FeatureBatch) -> Float[Tensor, ""]:
    """The penalty of a model on a batch, times its weight. `ConfigError` for a model without what it reads."""
    match config:
        case WeightAlignmentConfig():
            return config.weight * weight_norm_alignment(cross_layers(model))
        case OrthogonalityConfig():
            return config.weight * orthogonality(cross_layers(model))
        case SubspaceSimilarityConfig():
            return config.weight * subspace_similarity(_vectors(model, batch))
        case SingularVarianceConfig():
            return config.weight * singular_value_variance(_vectors(model, batch))
        case _:
            assert_never(config)


def cross_layers(model: nn.Module) -> Float[Tensor, "tables layers fields dim fields dim"]:
    """Blocks of all projected layers: (j, :, i, :) maps field i into field j. `ConfigError` without such a layer."""
    layers = [
        rearrange(module.block_weight(), "t i j d a -> t j a i d")
        for module in model.modules()
        if isinstance(module, InteractionFunction) and module.config.kind == "projected" and not module.config.whole
    ]
    if not layers:
        raise ConfigError("this penalty is on full-matrix cross layers, and the model has none; take dcn_v2")
    return torch.stack(layers, dim=1)


def _vectors(model: CTRModel, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
    if model.sources is None:
        raise ConfigError("this penalty is on field vectors, and the model has none; take another model")
    return model.sources(batch)


def _check(weight: float) -> None:
    if not 0 < weight < float("inf"):
        raise ConfigError(f"weight of a penalty must be finite and above 0, got {weight}")
