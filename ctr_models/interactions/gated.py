"""GDCN: cross layers behind an information gate (Wang et al., CIKM 2023, arXiv 2311.04635)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.checks import check_at_least
from ctr_models.interactions.sets import SetLinear


@dataclass(frozen=True, kw_only=True, slots=True)
class GatedCrossConfig:
    """`initial_bias`: "zero" (ours), or "uniform": U(0, 1) as the released code draws it, so that a fresh layer adds
    about a quarter of x_0 before it has learned anything. `gate_bias`: a bias inside the gate, which the paper lacks.
    """

    num_layers: int = 3
    initial_bias: Literal["zero", "uniform"] = "zero"
    gate_bias: bool = False

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)


class GatedCrossLayer(nn.Module):
    """x_(l+1) = x_0 * (W x_l + b) * sigmoid(W_g x_l) + x_l; both matrices in one product."""

    def __init__(self, config: GatedCrossConfig, num_tables: int, width: int) -> None:
        super().__init__()
        self.project = SetLinear(num_tables, width, 2 * width, bias=False, parts=2)
        bias = torch.zeros(num_tables, 1, width)
        self.bias = nn.Parameter(bias.uniform_() if config.initial_bias == "uniform" else bias)
        self.gate_bias = nn.Parameter(torch.zeros(num_tables, 1, width)) if config.gate_bias else None

    def forward(
        self, start: Float[Tensor, "tables batch width"], x: Float[Tensor, "tables batch width"]
    ) -> Float[Tensor, "tables batch width"]:
        crossed, logits = self.project(x).chunk(2, dim=-1)
        gate = torch.sigmoid(logits if self.gate_bias is None else logits + self.gate_bias)
        out: Tensor = x + start * (crossed + self.bias) * gate
        return out


class GatedCrossNet(nn.Module):
    """Gated cross layers over all fields side by side: GDCN-S puts an MLP on top, GDCN-P one beside.

    The gate damps crosses that a row does not need, which keeps many layers trainable, at twice the cost of DCN-V2.
    """

    def __init__(self, config: GatedCrossConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.width = num_fields * dim
        self.layers = nn.ModuleList(GatedCrossLayer(config, num_tables, self.width) for _ in range(config.num_layers))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        start = x = fields.flatten(2)
        for layer in self.layers:
            x = layer(start, x)
        return x
