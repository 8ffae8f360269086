"""DCN-Mix: cross layers of low rank, mixed by gates (Wang et al., WWW 2021, arXiv 2008.13535,
"Cost-effective mixture of low-rank DCN").
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.layers import TableLinear, xavier


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossNetMixConfig:
    """`gate` and `activation` are the paper's G (softmax or sigmoid) and g (tanh, its example); with "identity"
    a layer is a mixture of plain low-rank cross layers.
    """

    num_layers: int = 3
    num_experts: int = 4
    rank: int = 32
    gate: Literal["softmax", "sigmoid"] = "softmax"
    activation: Literal["tanh", "identity"] = "tanh"

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_at_least("num_experts", self.num_experts, 1)
        check_at_least("rank", self.rank, 1)


class MixtureCrossLayer(nn.Module):
    """x_(l+1) = sum_i G_i(x_l) x_0 * (U_i g(C_i g(V_i^T x_l)) + b) + x_l.

    Gates act before U, since it is linear, so that all experts share one product down and one up; they have no bias
    and are each layer's own (our reading; some libraries share one gate among all layers).
    """

    def __init__(self, config: CrossNetMixConfig, num_tables: int, width: int) -> None:
        super().__init__()
        self.config = config
        experts, rank = config.num_experts, config.rank
        self.down = TableLinear(num_tables, width, experts * rank, bias=False, parts=experts)
        self.inner = nn.Parameter(xavier(num_tables, experts, inputs=rank, outputs=rank))
        self.up = nn.Parameter(xavier(num_tables, experts, inputs=rank, outputs=width))
        self.bias = nn.Parameter(torch.zeros(num_tables, 1, width))
        self.gate = TableLinear(num_tables, width, experts, bias=False)

    def forward(
        self, start: Float[Tensor, "tables batch width"], x: Float[Tensor, "tables batch width"]
    ) -> Float[Tensor, "tables batch width"]:
        gates = self.gate(x).softmax(-1) if self.config.gate == "softmax" else torch.sigmoid(self.gate(x))
        low = torch.unflatten(self._activate(self.down(x)), -1, self.inner.shape[1:3])
        low = self._activate(torch.einsum("tber,ters->tbes", low, self.inner)) * gates.unsqueeze(-1)
        mixed = torch.bmm(low.flatten(2), self.up.flatten(1, 2)) + gates.sum(-1, keepdim=True) * self.bias
        return torch.addcmul(x, start, mixed)

    def _activate(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return torch.tanh(x) if self.config.activation == "tanh" else x


class CrossNetMix(nn.Module):
    """Mixture cross layers over all fields side by side.

    (2 width rank + rank^2 + width) experts parameters a layer where a full cross layer has width^2: prefer it for wide
    inputs, and the full one for narrow inputs or where exact polynomial degrees are wanted (tanh is none).
    """

    def __init__(self, config: CrossNetMixConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.width = num_fields * dim
        self.layers = nn.ModuleList(MixtureCrossLayer(config, num_tables, self.width) for _ in range(config.num_layers))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        start = x = fields.flatten(2)
        for layer in self.layers:
            x = layer(start, x)
        return x
