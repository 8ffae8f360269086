"""A CTR model as a sum of towers over shared field vectors.

    tower(x)  = head( combine over sets m of  set_layers^(m)( [I_1^(m)(e^(m)); I_2^(m)(e^(m)); ...] ) )
    logits(x) = bias + linear(x) + sum of towers

A parallel deep branch is a second tower (a linear map of concatenated outputs is the sum of two linear maps); a stacked
one is the `hidden` of the first. Multi-embedding (arXiv 2310.04400, h = (1/M) sum_m I^(m)(e^(m)), y = F(h)) is
`num_tables` above 1 with a non-linear `set_layers`; the mean then comes before the shared `hidden` layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, TypeAlias, assert_never, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.interactions.aggregators import Aggregator
from ctr_models.interactions.network import FlattenConfig, InteractionConfig, build_interaction
from ctr_models.layers import MLP, MLPConfig, TableLinear
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema

Combine = Literal["mean", "sum", "concat"]


@runtime_checkable
class LinearPart(Protocol):
    """First-order weights of features: one logit a row and output."""

    def __call__(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TowerConfig:
    """Interactions side by side, layers of each set, combination of sets, shared layers, head.

    `head`: a `linear` map to the outputs (its bias is the model's), or the `sum` of all numbers (family of FM).
    `shared_interaction`: one interaction with its set layers for all sets, an ablation of multi-embedding (what is
    shared there is not published; we share all that lies before the combination).
    """

    interactions: tuple[InteractionConfig, ...] = field(default_factory=lambda: (FlattenConfig(),))
    set_layers: MLPConfig | None = None
    combine: Combine = "mean"
    hidden: MLPConfig | None = None
    head: Literal["linear", "sum"] = "linear"
    shared_interaction: bool = False

    def __post_init__(self) -> None:
        if not self.interactions:
            raise ValueError("a tower needs at least one interaction; FlattenConfig() is the plain concatenation")


@dataclass(frozen=True, kw_only=True, slots=True)
class CTRModelConfig:
    """`dim` is the width of a field's vector in each of `num_tables` sets; `linear` how features enter at first order:
    one `weight` each, or one `vector` each, multiplied by the field's vector of the interaction (FeLV of FwFM, which
    doubles the tables).
    """

    towers: tuple[TowerConfig, ...] = ()
    dim: int = 10
    num_tables: int = 1
    linear: Literal["none", "weight", "vector"] = "none"
    num_outputs: int = 1

    def __post_init__(self) -> None:
        for name, value in (("dim", self.dim), ("num_tables", self.num_tables), ("num_outputs", self.num_outputs)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.towers and self.linear != "weight":
            raise ValueError(f"a model without towers needs linear 'weight', got {self.linear!r}")
        if self.linear == "vector" and self.num_tables > 1:
            raise ValueError(f"linear 'vector' is for one table, got num_tables {self.num_tables}")
        if self.num_outputs > 1 and (self.linear == "vector" or any(t.head == "sum" for t in self.towers)):
            raise ValueError(f"num_outputs {self.num_outputs} needs linear heads: a sum gives one logit")


class ParameterSplit(NamedTuple):
    """Parameters by how they are regularised and trained: each once. Orders are the aggregators' layer weights, which
    are not to be decayed to 0.
    """

    embeddings: list[nn.Parameter]
    dense: list[nn.Parameter]
    orders: list[nn.Parameter]


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
        vectors = self._combine(self._interact(fields))
        if self.hidden is not None:
            vectors = self.hidden(vectors)
        if self.head is None:
            return vectors.sum(2, keepdim=True).squeeze(0)
        logits: Tensor = self.head(vectors)
        return logits.squeeze(0)

    def _interact(self, fields: Tensor) -> Tensor:
        shared = self.config.shared_interaction
        inputs = fields.flatten(0, 1).unsqueeze(0) if shared else fields
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


class CTRModel(nn.Module):
    """See the module and `CTRModelConfig`. Parts that hold tables are passed in built: `sources` of the field vectors
    (None without towers), `linear` for first-order weights and `linear_vectors` for `linear="vector"`.
    """

    def __init__(
        self,
        config: CTRModelConfig,
        sources: FieldSource | None,
        *,
        linear: LinearPart | None = None,
        linear_vectors: FieldSource | None = None,
    ) -> None:
        super().__init__()
        if (linear is not None) != (config.linear == "weight"):
            raise ValueError(f"linear is {config.linear!r} in the config but the part is {type(linear).__name__}")
        if (linear_vectors is not None) != (config.linear == "vector"):
            given = type(linear_vectors).__name__
            raise ValueError(f"linear is {config.linear!r} in the config but linear_vectors is {given}")
        if sources is None and config.towers:
            raise ValueError("towers read field vectors: pass sources")
        self.config = config
        self.sources = sources if config.towers else None
        self.linear = linear
        self.linear_vectors = linear_vectors
        num_fields = sources.num_fields if sources is not None else 0
        self.towers = nn.ModuleList(
            Tower(tower, config.num_tables, num_fields, config.dim, config.num_outputs) for tower in config.towers
        )
        self.bias = nn.Parameter(torch.zeros(config.num_outputs))

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]:
        """Logits, one column an output. Vectors of another layout than the config's raise ValueError."""
        logits = self.bias.expand(batch.labels.shape[0], -1)  # len() would fix the batch in an exported graph
        if self.linear is not None:
            logits = logits + self.linear(batch)
        if self.sources is None:
            return logits
        fields = self._fields(self.sources(batch))
        if self.linear_vectors is not None:
            logits = logits + (fields * self.linear_vectors(batch)).sum((0, 2, 3)).unsqueeze(1)
        for tower in self.towers:
            logits = logits + tower(fields)
        return logits

    def _fields(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch fields dim"]:
        expected, found = (self.config.num_tables, self.config.dim), (fields.shape[0], fields.shape[3])
        if found != expected:
            raise ValueError(f"the sources give (num_tables, dim) {found} but the config says {expected}")
        return fields

    def split_parameters(self) -> ParameterSplit:
        """Every parameter once: those of sources and first-order parts, layer weights of aggregators, all others."""
        parts = [part for part in (self.sources, self.linear, self.linear_vectors) if isinstance(part, nn.Module)]
        embeddings = [p for part in parts for p in part.parameters()]
        orders = [p for module in self.modules() if isinstance(module, Aggregator) for p in module.parameters()]
        seen = {id(p) for p in (*embeddings, *orders)}
        return ParameterSplit(embeddings, [p for p in self.parameters() if id(p) not in seen], orders)


SourceBuilder: TypeAlias = Callable[[Schema, int, int], FieldSource]
LinearBuilder: TypeAlias = Callable[[Schema, int], LinearPart]


def build_ctr_model(
    config: CTRModelConfig, schema: Schema, *, build_sources: SourceBuilder, build_linear: LinearBuilder
) -> CTRModel:
    """The model of `config` over `schema`: sources of (schema, dim, num_tables), linear part of (schema, num_outputs).

    A model without towers reads no vectors and gets no source.
    """
    return CTRModel(
        config,
        build_sources(schema, config.dim, config.num_tables) if config.towers else None,
        linear=build_linear(schema, config.num_outputs) if config.linear == "weight" else None,
        linear_vectors=build_sources(schema, config.dim, 1) if config.linear == "vector" else None,
    )
