"""AFM: attention over the products of all pairs of fields (Xiao et al., IJCAI 2017, arXiv 1708.04617)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctr_models.interactions.checks import check_at_least, check_fraction
from ctr_models.interactions.sets import xavier

LARGE = 1 << 24  # elements of the hidden layer of attention above which rows go in chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class AFMConfig:
    """`attention_dim` is the hidden size of the attention network. `dropout` falls on the weights of pairs (our choice;
    the paper drops coordinates of the products).
    """

    attention_dim: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("attention_dim", self.attention_dim, 1)
        check_fraction("dropout", self.dropout)


class AFM(nn.Module):
    """sum_(i<j) a_ij (e_i * e_j), a = softmax over pairs of h . ReLU(W (e_i * e_j) + b), eqs. 5 and 6.

    The products themselves are never formed: W_a . (e_i * e_j) = (W_a * e_i) . e_j is a matrix of fields by fields for
    every hidden unit a, and the result is sum_i e_i * (A e)_i. The largest tensor is (batch, attention_dim, fields,
    fields); above `LARGE` elements rows go in chunks, whose inner values are computed again in the backward pass.

    Its result has `dim` numbers where FwFM has one weight a pair: prefer FwFM unless weights should depend on the row.
    """

    upper: Bool[Tensor, "fields fields"]

    def __init__(self, config: AFMConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        if num_fields < 2:
            raise ValueError(f"AFM needs at least 2 fields to pair, got {num_fields}")
        self.width = dim
        self.weight = nn.Parameter(xavier(num_tables, inputs=config.attention_dim, outputs=dim))
        self.bias = nn.Parameter(torch.zeros(num_tables, config.attention_dim))
        self.query = nn.Parameter(xavier(num_tables, inputs=config.attention_dim, outputs=1))
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("upper", torch.ones(num_fields, num_fields).triu(1).bool(), persistent=False)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch dim"]:
        num_chunks = math.ceil(fields.shape[1] * self.bias.numel() * self.upper.numel() / LARGE)
        if num_chunks <= 1 or torch.compiler.is_compiling():
            return self._pool(fields)
        pooled = [checkpoint(self._pool, rows, use_reentrant=False) for rows in fields.chunk(num_chunks, dim=1)]
        return torch.cat(pooled, dim=1)

    def attention(
        self, fields: Float[Tensor, "tables batch fields dim"]
    ) -> Float[Tensor, "tables batch fields fields"]:
        """Weights of pairs, strictly upper triangular; they sum to 1 in every row of the batch."""
        weighted = fields.unsqueeze(2) * self.weight[:, None, :, None]
        hidden = torch.unflatten(weighted.flatten(2, 3) @ fields.transpose(-1, -2), 2, weighted.shape[2:4])
        hidden = (hidden + self.bias[:, None, :, None, None]).relu_().flatten(3)
        scores = (self.query[:, None].transpose(-1, -2) @ hidden).squeeze(2)
        scores = scores.masked_fill(~self.upper.flatten(), -torch.inf)
        return torch.unflatten(torch.softmax(scores, dim=-1), -1, self.upper.shape)

    def _pool(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch dim"]:
        weights = self.dropout(self.attention(fields))
        pooled: Tensor = (fields * (weights @ fields)).sum(2)
        return pooled
