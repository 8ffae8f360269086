"""Experts that each have a table of their own, of its own width and interaction: HeteroMoE and AME.

    z_k = sum_t g_k^t(x) O_t,    O_t = ReLU-MLP_t( I_t( e^(t) ) )

- HeteroMoE (arXiv 2403.00793, there HMoE with multi-embedding): interactions differ by table. Only vectors of one table
  meet in an interaction, and a non-linear layer follows before experts are merged: without it several tables are one
  wider table. Not the hierarchical HMoE of several scenarios.
- AME (same paper): tables of different dims for tasks of different sizes, their number free of the number of tasks, a
  gate for each task, and no stopped gradient.

Gates read the vectors of all tables side by side. Experts project to one width. Interactions and layers with batch
normalisation normalise rows of all domains together.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.features import BodyOutputs, BodySetting, as_module, plain_features
from ctr_models.domains.mixture import mix
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import Routing
from ctr_models.interactions.interaction import InteractionConfig, build_interaction
from ctr_models.interactions.network import FlattenConfig
from ctr_models.layers import MLP, MLPConfig

LAYERS, LINEAR, FLATTEN = MLPConfig(widths=(64,)), MLPConfig(widths=()), FlattenConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class TableExpertConfig:
    """A table of `dim` (None: the model's), an interaction of its fields, and `num_experts` MLPs on the result."""

    interaction: InteractionConfig = FLATTEN
    layers: MLPConfig = LAYERS
    dim: int | None = None
    num_experts: int = 1

    def __post_init__(self) -> None:
        check_at_least("num_experts", self.num_experts, 1)
        if self.dim is not None:
            check_at_least("dim", self.dim, 1)
        if not self.layers.widths:
            raise ValueError("an expert needs at least one layer after its interaction, or its table adds nothing")


TWO = (TableExpertConfig(), TableExpertConfig())


@dataclass(frozen=True, kw_only=True, slots=True)
class HeteroMoEConfig:
    """`merge`: weights by a `gate` with these hidden layers for each head, `static` ones learned for each head (softmax
    of them, equal at the start), or the plain `mean` or `sum`.
    """

    experts: tuple[TableExpertConfig, ...] = TWO
    merge: Literal["gate", "static", "mean", "sum"] = "gate"
    gate: MLPConfig = LINEAR

    def __post_init__(self) -> None:
        if not self.experts:
            raise ValueError("experts must name at least one table")
        widths = sorted({expert.layers.widths[-1] for expert in self.experts})
        if len(widths) > 1:
            raise ValueError(f"experts must end in one width to be merged, got {widths}")
        check_no_batch_norm("gate", self.gate)


class TableExperts(nn.Module):
    """Equal tables with their experts: vectors of all of them to outputs, a table's experts in a row."""

    def __init__(self, config: TableExpertConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.interaction = build_interaction(config.interaction, num_tables, num_fields, dim)
        self.layers = MLP(config.layers, num_tables * config.num_experts, self.interaction.width)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "experts batch width"]:
        vectors: Tensor = self.interaction(fields)
        if self.num_experts > 1:
            vectors = vectors.repeat_interleave(self.num_experts, 0)
        out: Tensor = self.layers(vectors)
        return out


class HeteroMoE(nn.Module):
    """See the module. Tables of one dim come from one gather, equal experts from one batched product; outputs are in
    the order of first appearance of each kind.
    """

    def __init__(self, config: HeteroMoEConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        kinds = list(dict.fromkeys(config.experts))
        dims = [setting.dim if kind.dim is None else kind.dim for kind in kinds]
        counts = [config.experts.count(kind) for kind in kinds]
        self.dims = list(dict.fromkeys(dims))
        tables = [sum(count for own, count in zip(dims, counts, strict=True) if own == dim) for dim in self.dims]
        found = [
            setting.build_sources(setting.schema, dim, count) for dim, count in zip(self.dims, tables, strict=True)
        ]
        self.sources = nn.ModuleList(as_module(source) for source in found)
        fields = found[0].num_fields
        self.experts = nn.ModuleList(
            TableExperts(kind, count, fields, dim) for kind, count, dim in zip(kinds, counts, dims, strict=True)
        )
        self.places = [(self.dims.index(dim), count) for dim, count in zip(dims, counts, strict=True)]
        self.num_experts = sum(kind.num_experts * count for kind, count in zip(kinds, counts, strict=True))
        self.width = config.experts[0].layers.widths[-1]
        inputs = fields * sum(dim * count for dim, count in zip(self.dims, tables, strict=True))
        gated = config.merge == "gate" and self.num_experts > 1
        heads = setting.num_heads
        self.gate = HeadMLP(config.gate, heads, inputs, outputs=self.num_experts) if gated else None
        static = config.merge == "static" and self.num_experts > 1
        self.static = nn.Parameter(torch.zeros(heads, self.num_experts)) if static else None

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        vectors: list[Tensor] = [source(batch) for source in self.sources]
        experts = self._experts(vectors)
        weights = self._weights(vectors, routing, experts)
        merged = mix(weights, experts)
        return BodyOutputs(plain_features(merged, self.setting.num_outputs), experts, {}, weights)

    def _experts(self, vectors: list[Tensor]) -> Float[Tensor, "experts batch width"]:
        taken = [0] * len(vectors)
        outputs = []
        for experts, (place, count) in zip(self.experts, self.places, strict=True):
            outputs.append(experts(vectors[place][taken[place] : taken[place] + count]))
            taken[place] += count
        return torch.cat(outputs)

    def _weights(
        self, vectors: list[Tensor], routing: Routing, experts: Float[Tensor, "experts batch width"]
    ) -> Float[Tensor, "views batch experts"]:
        even = experts.new_ones(1, experts.shape[1], self.num_experts)
        match self.config.merge:
            case "gate":
                if self.gate is None:
                    return even
                side_by_side = torch.cat([each.permute(1, 0, 2, 3).flatten(1) for each in vectors], 1)
                logits: Tensor = self.gate(side_by_side.unsqueeze(0), routing)
                return logits.softmax(-1)
            case "static":
                if self.static is None:
                    return even
                return routing.rows_of(self.static.softmax(-1)).expand(-1, experts.shape[1], -1)
            case "mean":
                return even / self.num_experts
            case "sum":
                return even
            case _:
                assert_never(self.config.merge)
