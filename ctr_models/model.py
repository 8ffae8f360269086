"""A CTR model as a sum of towers over shared field vectors: logits(x) = bias + linear(x) + sum of towers.

A parallel deep branch is a second tower (a linear map of concatenated outputs is the sum of two linear maps).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.interactions.aggregators import Aggregator
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema
from ctr_models.towers import AnyTowerConfig, Tower, build_tower, needs_one_output, start_as_one_head


@runtime_checkable
class LinearPart(Protocol):
    """First-order weights of features: one logit a row and output."""

    def __call__(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CTRModelConfig:
    """`dim` is the width of a field's vector in each of `num_tables` sets; `linear` how features enter at first order:
    one `weight` each, or one `vector` each, multiplied by the field's vector of the interaction (FeLV of FwFM, which
    doubles the tables). `joint_head` starts the linear heads of all towers as one map of their concatenated vectors
    (DCN and its kin), where each by itself would start larger.
    """

    towers: tuple[AnyTowerConfig, ...] = ()
    dim: int = 10
    num_tables: int = 1
    linear: Literal["none", "weight", "vector"] = "none"
    num_outputs: int = 1
    joint_head: bool = False

    def __post_init__(self) -> None:
        check_at_least("dim", self.dim, 1)
        check_at_least("num_tables", self.num_tables, 1)
        check_at_least("num_outputs", self.num_outputs, 1)
        if not self.towers and self.linear != "weight":
            raise ValueError(f"a model without towers needs linear 'weight', got {self.linear!r}")
        if self.linear == "vector" and self.num_tables > 1:
            raise ValueError(f"linear 'vector' is for one table, got num_tables {self.num_tables}")
        if self.num_outputs > 1 and (self.linear == "vector" or any(needs_one_output(tower) for tower in self.towers)):
            raise ValueError(f"num_outputs {self.num_outputs} needs linear heads: a sum gives one logit")


class ParameterSplit(NamedTuple):
    """Parameters by how they are regularised and trained: each once. Orders are the aggregators' layer weights, which
    are not to be decayed to 0.
    """

    embeddings: list[nn.Parameter]
    dense: list[nn.Parameter]
    orders: list[nn.Parameter]


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
            build_tower(tower, config.num_tables, num_fields, config.dim, config.num_outputs) for tower in config.towers
        )
        if config.joint_head:
            start_as_one_head(
                [tower.head for tower in self.towers if isinstance(tower, Tower) and tower.head is not None]
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
