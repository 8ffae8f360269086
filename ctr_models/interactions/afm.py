"""AFM: attention over the products of all pairs of fields (Xiao et al., IJCAI 2017, arXiv 1708.04617)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctr_models.checks import check_at_least, check_fraction
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLinear

LARGE = 1 << 24  # elements of the products of pairs above which rows go in chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class AFMConfig:
    """`attention_dim`: hidden size of the attention network. `dropout` falls on the products, as in the paper."""

    attention_dim: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("attention_dim", self.attention_dim, 1)
        check_fraction("dropout", self.dropout)


class AFM(nn.Module):
    """sum_(i<j) a_ij (e_i * e_j), a = softmax over pairs of h . ReLU(W (e_i * e_j) + b), eqs. 4 and 5.

    Above `LARGE` elements of products, rows go in chunks whose inner values are computed again in the backward pass:
    the memory of a step then no longer grows with batch times pairs. (Compiled and exported graphs take all at once.)

    Its result has `dim` numbers, and a linear head follows in the paper. Prefer FwFM unless the weight of a pair should
    depend on the row: it costs fields^2 dim where this costs pairs dim attention_dim.
    """

    left: Int64[Tensor, "pairs"]
    right: Int64[Tensor, "pairs"]

    def __init__(self, config: AFMConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        if num_fields < 2:
            raise ValueError(f"AFM needs at least 2 fields to pair, got {num_fields}")
        self.width = dim
        self.hidden = TableLinear(num_tables, dim, config.attention_dim)
        self.query = TableLinear(num_tables, config.attention_dim, 1, bias=False)
        self.dropout = Dropout(config.dropout)
        left, right = torch.triu_indices(num_fields, num_fields, 1)
        self.register_buffer("left", left, persistent=False)
        self.register_buffer("right", right, persistent=False)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch dim"]:
        if torch.compiler.is_compiling():
            return self._pool(fields)
        tables, batch, _, dim = fields.shape
        num_chunks = math.ceil(tables * batch * len(self.left) * dim / LARGE)
        if num_chunks <= 1:
            return self._pool(fields)
        pooled = [checkpoint(self._pool, rows, use_reentrant=False) for rows in fields.chunk(num_chunks, dim=1)]
        return torch.cat(pooled, dim=1)

    def _pool(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch dim"]:
        products = self.dropout(fields.index_select(2, self.left) * fields.index_select(2, self.right))
        scores: Tensor = self.query(self.hidden(products).relu())
        pooled: Tensor = scores.softmax(2).transpose(2, 3) @ products
        return pooled.squeeze(2)
