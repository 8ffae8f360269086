"""AutoInt: self-attention between fields (Song et al., CIKM 2019, arXiv 1810.11921, section 4.4)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides, check_fraction
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLayerNorm, TableLinear

Residual = Literal["projected", "identity", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoIntConfig:
    """Stacked interacting layers. `attention_dim` counts all heads together (2 heads of 32 in the paper).

    `residual`: "projected" adds W_res e in every layer (the paper, eq. 8); "identity" adds e itself where the width
    stays and W_res e where it changes, as common libraries do. `scale` divides scores by sqrt(head size), which
    eq. 5 does not; `layer_norm` (before the ReLU) and `dropout` (on attention weights) are not in the paper either.
    """

    num_layers: int = 3
    num_heads: int = 2
    attention_dim: int = 64
    residual: Residual = "projected"
    scale: bool = False
    layer_norm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_at_least("num_heads", self.num_heads, 1)
        check_at_least("attention_dim", self.attention_dim, 1)
        check_divides("num_heads", self.num_heads, "attention_dim", self.attention_dim)
        check_fraction("dropout", self.dropout)


class InteractingLayer(nn.Module):
    """e'_i = ReLU( concat_h sum_j softmax_j(<Q_h e_i, K_h e_j>) V_h e_j + W_res e_i ), eqs. 5 to 8.

    Query, key, value and residual maps are one product. Rows of all sets go through one attention call.
    """

    def __init__(self, config: AutoIntConfig, num_tables: int, inputs: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_dim = config.attention_dim
        self.factor = (config.attention_dim // config.num_heads) ** -0.5 if config.scale else 1.0
        self.projected = config.residual == "projected" or (
            config.residual == "identity" and inputs != config.attention_dim
        )
        self.identity = config.residual == "identity" and not self.projected
        parts = 4 if self.projected else 3
        self.project = TableLinear(num_tables, inputs, parts * config.attention_dim, bias=False, parts=parts)
        self.dropout = Dropout(config.dropout)
        self.norm = TableLayerNorm(num_tables, 1, 1, config.attention_dim) if config.layer_norm else None

    def forward(self, fields: Float[Tensor, "tables batch fields inputs"]) -> Float[Tensor, "tables batch fields dim"]:
        parts = self.project(fields).split(self.attention_dim, dim=-1)
        query, key, value = (self._heads(part) for part in parts[:3])
        mixed = attend(query, key, value, self.dropout, self.factor)
        out = mixed.transpose(1, 2).reshape(parts[0].shape)
        if self.projected:
            out = out + parts[3]
        elif self.identity:
            out = out + fields
        if self.norm is not None:
            out = self.norm(out)
        return out.relu()

    def _heads(self, part: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "rows heads fields head_dim"]:
        return torch.unflatten(part, -1, (self.num_heads, -1)).flatten(0, 1).transpose(1, 2)


def attend(
    query: Float[Tensor, "rows heads fields head_dim"],
    key: Float[Tensor, "rows heads fields head_dim"],
    value: Float[Tensor, "rows heads fields head_dim"],
    dropout: Dropout,
    scale: float,
) -> Float[Tensor, "rows heads fields head_dim"]:
    """softmax_j(scale <Q_i, K_j>) V_j in torch's fused kernel; in plain products where that is slow: its
    backward pass in bfloat16 on a CPU takes 3 to 7 times as long as theirs (10 and 40 fields).
    """
    if query.device.type != "cpu" or query.dtype.itemsize >= torch.float32.itemsize:
        dropped = dropout.p if dropout.training else 0.0
        return nn.functional.scaled_dot_product_attention(query, key, value, dropout_p=dropped, scale=scale)
    weights: Tensor = dropout(((query * scale) @ key.transpose(-1, -2)).softmax(-1))
    return weights.to(value.dtype) @ value


class AutoInt(nn.Module):
    """Fields of the last interacting layer side by side; the paper's head is a linear map of them.

    Weights depend on the row, so a field can choose its partners; parameters do not grow with the number of fields.
    Prefer the projected products where pairs of fields matter always and alike (they are also cheaper).
    """

    def __init__(self, config: AutoIntConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        sizes = (dim, *[config.attention_dim] * (config.num_layers - 1))
        self.width = num_fields * config.attention_dim
        self.layers = nn.Sequential(*(InteractingLayer(config, num_tables, size) for size in sizes))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        out: Tensor = self.layers(fields)
        return out.flatten(2)
