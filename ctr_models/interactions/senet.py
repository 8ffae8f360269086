"""SENet of FiBiNET: one weight a field from all fields of the row (Huang et al., RecSys 2019, arXiv 1905.09433)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.layers import TableLinear


@dataclass(frozen=True, kw_only=True, slots=True)
class SENetConfig:
    """`squeeze` makes one number of a field's vector (the paper prefers the mean); the bottleneck has
    max(1, fields // `reduction`) units. `excitation`: the last activation, ReLU in the paper; under a ReLU a field
    whose logit is negative is shut and learns nothing from that row, under a sigmoid it stays open (not the paper's).
    """

    squeeze: Literal["mean", "max"] = "mean"
    reduction: int = 3
    excitation: Literal["relu", "sigmoid"] = "relu"

    def __post_init__(self) -> None:
        check_at_least("reduction", self.reduction, 1)


class SENet(nn.Module):
    """v_i = a_i e_i with a = s(W2 ReLU(W1 z)), z_i = squeeze(e_i) ("SENET layer"; no biases).

    FiBiNET takes bilinear products of all pairs of e and, with weights of their own, of SENet(e).
    """

    def __init__(self, config: SENetConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.config = config
        reduced = max(1, num_fields // config.reduction)
        self.down = TableLinear(num_tables, num_fields, reduced, bias=False)
        self.up = TableLinear(num_tables, reduced, num_fields, bias=False)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch fields dim"]:
        return fields * self.weights(fields).unsqueeze(-1)

    def weights(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch fields"]:
        """The weight of every field."""
        squeezed = fields.mean(-1) if self.config.squeeze == "mean" else fields.amax(-1)
        logits: Tensor = self.up(self.down(squeezed).relu())
        return logits.relu() if self.config.excitation == "relu" else torch.sigmoid(logits)
