"""Towers: field vectors of all sets -> logits.

    tower(x) = head( combine over sets m of  set_layers^(m)( [I_1^(m)(e^(m)); I_2^(m)(e^(m)); ...] ) )

Multi-embedding (arXiv 2310.04400, h = (1/M) sum_m I^(m)(e^(m)), y = F(h)) is more than one set with a non-linear
`set_layers`; the mean then comes before the shared `hidden` layers. FinalMLP is a kind of its own: two such vectors,
each averaged over sets, meet in one bilinear form.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.bilinear import BilinearFusion, BilinearFusionConfig, Stream, StreamConfig
from ctr_models.interactions.interaction import InteractionConfig, build_interaction
from ctr_models.interactions.network import FlattenConfig
from ctr_models.layers import MLP, MLPConfig, TableLinear

Combine = Literal["mean", "sum", "concat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """Interactions side by side, layers of each set, combination of sets, shared layers, head.

    `head`: a `linear` map to the outputs (its bias is the model's), or the `sum` of all numbers (family of FM).
    `shared_interaction`: one interaction with its set layers for all sets, an ablation of multi-embedding (what is
    shared there is not published; we share all that lies before the combination).
    """

    interactions: tuple[InteractionConfig, ...] = (FlattenConfig(),)
    set_layers: MLPConfig | None = None
    combine: Combine = "mean"
    hidden: MLPConfig | None = None
    head: Literal["linear", "sum"] = "linear"
    shared_interaction: bool = False

    def __post_init__(self) -> None:
        if not self.interactions:
            raise ValueError("a tower needs at least one interaction; FlattenConfig() is the plain concatenation")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalMLPConfig:
    """Two streams, each averaged over sets, and their bilinear fusion, which is the head (`ctr_models.interactions.
    bilinear`). `shared_interaction`: one pair of streams for all sets, as in `TowerConfig`.
    """

    first: StreamConfig = field(default_factory=StreamConfig)
    second: StreamConfig = field(default_factory=StreamConfig)
    fusion: BilinearFusionConfig = field(default_factory=BilinearFusionConfig)
    shared_interaction: bool = False


AnyTowerConfig: TypeAlias = TowerConfig | FinalMLPConfig


class Tower(nn.Module):
    """See `TowerConfig`: (tables batch fields dim) -> (batch outputs)."""

    def __init__(self, config: TowerConfig, num_tables: int, num_fields: int, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.config, self.num_tables = config, num_tables
        own = 1 if config.shared_interaction else num_tables
        modules = [build_interaction(interaction, own, num_fields, dim) for interaction in config.interactions]
        self.interactions = nn.ModuleList(modules)
        width = sum(module.width for module in modules)
        self.set_layers = None if config.set_layers is None else MLP(config.set_layers, own, width)
        width = width if self.set_layers is None else self.set_layers.width
        width = width * num_tables if config.combine == "concat" else width
        self.hidden = None if config.hidden is None else MLP(config.hidden, 1, width)
        width = width if self.hidden is None else self.hidden.width
        self.head = TableLinear(1, width, num_outputs, bias=False) if config.head == "linear" else None

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "batch outputs"]:
        return self.read_out(self.vectors(fields))

    def vectors(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "1 batch width"]:
        """What the head reads."""
        vectors = self._combine(self._interact(fields))
        return vectors if self.hidden is None else self.hidden(vectors)

    def read_out(self, vectors: Float[Tensor, "1 batch width"]) -> Float[Tensor, "batch outputs"]:
        """The head alone."""
        if self.head is None:
            return vectors.sum(2, keepdim=True).squeeze(0)
        logits: Tensor = self.head(vectors)
        return logits.squeeze(0)

    def _interact(self, fields: Tensor) -> Tensor:
        shared = self.config.shared_interaction
        inputs = as_one_set(fields) if shared else fields
        parts = [module(inputs) for module in self.interactions]
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        if self.set_layers is not None:
            vectors = self.set_layers(vectors)
        return vectors.view(*fields.shape[:2], -1) if shared else vectors

    def _combine(self, vectors: Float[Tensor, "tables batch width"]) -> Float[Tensor, "1 batch combined"]:
        if self.num_tables == 1:
            return vectors
        match self.config.combine:
            case "mean":
                return vectors.mean(0, keepdim=True)
            case "sum":
                return vectors.sum(0, keepdim=True)
            case "concat":
                return vectors.transpose(0, 1).flatten(1).unsqueeze(0)
            case _:
                assert_never(self.config.combine)


class FinalMLP(nn.Module):
    """See `FinalMLPConfig`: (tables batch fields dim) -> (batch outputs)."""

    def __init__(self, config: FinalMLPConfig, num_tables: int, num_fields: int, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.shared = config.shared_interaction
        own = 1 if self.shared else num_tables
        self.first = Stream(config.first, own, num_fields, dim)
        self.second = Stream(config.second, own, num_fields, dim)
        self.fusion = BilinearFusion(config.fusion, self.first.width, self.second.width, num_outputs)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "batch outputs"]:
        inputs = as_one_set(fields) if self.shared else fields
        first, second = self.first(inputs), self.second(inputs)
        if self.shared:
            first, second = (stream.view(*fields.shape[:2], -1) for stream in (first, second))
        logits: Tensor = self.fusion(first.mean(0), second.mean(0))
        return logits


AnyTower: TypeAlias = Tower | FinalMLP


def build_tower(config: AnyTowerConfig, num_tables: int, num_fields: int, dim: int, num_outputs: int) -> AnyTower:
    """The tower of `config` over `num_tables` sets of fields of `dim` numbers."""
    match config:
        case TowerConfig():
            return Tower(config, num_tables, num_fields, dim, num_outputs)
        case FinalMLPConfig():
            return FinalMLP(config, num_tables, num_fields, dim, num_outputs)
        case _:
            assert_never(config)


def needs_one_output(config: AnyTowerConfig) -> bool:
    """Whether the tower's head can give but one logit."""
    return isinstance(config, TowerConfig) and config.head == "sum"


@torch.no_grad()
def start_as_one_head(heads: Sequence[TableLinear]) -> None:
    """Scale the Xavier starts of `heads`, in place, to that of one map of all their inputs."""
    inputs = sum(head.weight.shape[1] for head in heads)
    for head in heads:
        own, outputs = head.weight.shape[1:]
        head.weight.mul_(math.sqrt((own + outputs) / (inputs + outputs)))


def as_one_set(fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "1 rows fields dim"]:
    """The rows of all sets as rows of one set, for modules that serve all sets with one set of parameters."""
    return fields.flatten(0, 1).unsqueeze(0)
