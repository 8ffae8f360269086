"""EDCN: a cross network and an MLP that meet after every layer (Chen et al., CIKM 2021, "Enhancing Explicit and
Implicit Feature Interactions via Information Sharing for Parallel Deep CTR Models").
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_fraction, check_positive
from ctr_models.dropout import Dropout
from ctr_models.layers import TableBatchNorm, TableLinear

Bridge = Literal["product", "sum", "concat", "attention"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EDCNConfig:
    """`bridge`: how both branches meet. `temperature` of the softmax over fields that shares fields among branches;
    `batch_norm` after it. `residual`: the cross layer's + x_l, as in DCN; some libraries leave it out here.
    """

    num_layers: int = 3
    bridge: Bridge = "product"
    temperature: float = 1.0
    batch_norm: bool = False
    residual: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_positive("temperature", self.temperature)
        check_fraction("dropout", self.dropout)


class Branches(NamedTuple):
    """What goes into the cross layer and into the deep layer."""

    cross: Float[Tensor, "tables batch width"]
    deep: Float[Tensor, "tables batch width"]


class Regulation(nn.Module):
    """Each branch sees fields times softmax(g / temperature) of its own g, which starts uniform: 1 / fields each."""

    def __init__(self, config: EDCNConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.dim = dim
        self.logits = nn.Parameter(torch.ones(num_tables, 2, 1, num_fields))
        norms = [TableBatchNorm(num_tables, num_fields * dim) for _ in range(2)] if config.batch_norm else []
        self.norms = nn.ModuleList(norms)

    def forward(self, x: Float[Tensor, "tables batch width"]) -> Branches:
        gates = (self.logits / self.temperature).softmax(-1).repeat_interleave(self.dim, dim=-1)
        cross, deep = (x.unsqueeze(1) * gates).unbind(1)
        if self.norms:
            cross, deep = self.norms[0](cross), self.norms[1](deep)
        return Branches(cross, deep)


class BridgeModule(nn.Module):
    """Meets two vectors: x * y, x + y, ReLU(W [x; y]), or a(x) * x + b(y) * y with a and b softmax networks."""

    def __init__(self, bridge: Bridge, num_tables: int, width: int) -> None:
        super().__init__()
        self.bridge: Bridge = bridge
        if bridge == "concat":
            self.joint = TableLinear(num_tables, 2 * width, width)
        elif bridge == "attention":
            self.cross = _Attention(num_tables, width)
            self.deep = _Attention(num_tables, width)

    def forward(
        self, cross: Float[Tensor, "tables batch width"], deep: Float[Tensor, "tables batch width"]
    ) -> Float[Tensor, "tables batch width"]:
        match self.bridge:
            case "product":
                return cross * deep
            case "sum":
                return cross + deep
            case "concat":
                joined: Tensor = self.joint(torch.cat([cross, deep], dim=-1))
                return joined.relu()
            case "attention":
                attended: Tensor = self.cross(cross) + self.deep(deep)
                return attended
            case _:
                assert_never(self.bridge)


class CrossLayer(nn.Module):
    """x_(l+1) = x_0 (w . x_l) + b + x_l, the layer of DCN."""

    def __init__(self, num_tables: int, width: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.weight = TableLinear(num_tables, width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(num_tables, 1, width))

    def forward(
        self, start: Float[Tensor, "tables batch width"], x: Float[Tensor, "tables batch width"]
    ) -> Float[Tensor, "tables batch width"]:
        out: Tensor = start * self.weight(x) + self.bias
        return out + x if self.residual else out


class EDCN(nn.Module):
    """Per layer: a cross layer and a deep layer (linear, ReLU, dropout) of equal width, then their bridge, from which
    the regulation makes both inputs of the next layer. Result: both branches and the last bridge, side by side.

    Prefer it to DCN with a parallel MLP where branches should share what they find; all layers have the input's width.
    """

    def __init__(self, config: EDCNConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        size, layers = num_fields * dim, range(config.num_layers)
        self.width = 3 * size
        self.regulations = nn.ModuleList(Regulation(config, num_tables, num_fields, dim) for _ in layers)
        self.crosses = nn.ModuleList(CrossLayer(num_tables, size, residual=config.residual) for _ in layers)
        self.deeps = nn.ModuleList(TableLinear(num_tables, size, size) for _ in layers)
        self.bridges = nn.ModuleList(BridgeModule(config.bridge, num_tables, size) for _ in layers)
        self.dropout = Dropout(config.dropout)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        bridge = fields.flatten(2)
        start = cross = deep = bridge
        parts = zip(self.regulations, self.crosses, self.deeps, self.bridges, strict=True)
        for number, (regulation, cross_layer, deep_layer, meet) in enumerate(parts):
            cross, deep = regulation(bridge)
            start = cross if number == 0 else start
            cross = cross_layer(start, cross)
            deep = self.dropout(deep_layer(deep).relu())
            bridge = meet(cross, deep)
        return torch.cat([cross, deep, bridge], dim=-1)


class _Attention(nn.Module):
    """softmax(V ReLU(U x + u)) * x: weights over coordinates."""

    def __init__(self, num_tables: int, width: int) -> None:
        super().__init__()
        self.hidden = TableLinear(num_tables, width, width)
        self.logits = TableLinear(num_tables, width, width, bias=False)

    def forward(self, x: Float[Tensor, "tables batch width"]) -> Float[Tensor, "tables batch width"]:
        weights: Tensor = self.logits(self.hidden(x).relu()).softmax(-1)
        return weights * x
