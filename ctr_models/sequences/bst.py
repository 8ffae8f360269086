"""BST: transformer layers over a history and the candidate (arXiv 1905.06874)."""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides, check_fraction
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLayerNorm, TableLinear
from ctr_models.sequences.found import masked_softmax
from ctr_models.sequences.multi_head import folded_scores, folded_values
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput

SLOPE = 0.01  # of the leaky ReLU


@dataclass(frozen=True, kw_only=True, slots=True)
class BSTConfig:
    """`attention_dim` counts all heads together; `hidden_dim` is the width of the feed-forward layer.

    The paper reads the vectors of all positions side by side, which ties a model to one length. `pooling` reads the
    candidate's own (`target`) or the `mean` of the events' instead.
    """

    num_layers: int = 1
    num_heads: int = 8
    attention_dim: int = 64
    hidden_dim: int = 64
    dropout: float = 0.0
    pooling: Literal["target", "mean"] = "target"

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_at_least("num_heads", self.num_heads, 1)
        check_at_least("attention_dim", self.attention_dim, 1)
        check_at_least("hidden_dim", self.hidden_dim, 1)
        check_divides("num_heads", self.num_heads, "attention_dim", self.attention_dim)
        check_fraction("dropout", self.dropout)


class TransformerLayer(nn.Module):
    """S' = LayerNorm(S + Dropout(MHA(S)));  F = LayerNorm(S' + Dropout(LeakyReLU(S' W_1 + b_1) W_2 + b_2)), eqs. 4, 5.

    Where only some positions are read afterwards, only they are queries.
    """

    def __init__(self, config: BSTConfig, num_tables: int, width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = TableLinear(num_tables, width, config.attention_dim, bias=False)
        self.key_value = TableLinear(num_tables, width, 2 * config.attention_dim, bias=False, parts=2)
        self.output = TableLinear(num_tables, config.attention_dim, width, bias=False)
        self.inner = TableLinear(num_tables, width, config.hidden_dim)
        self.outer = TableLinear(num_tables, config.hidden_dim, width)
        self.first_norm = TableLayerNorm(num_tables, 1, 1, width)
        self.second_norm = TableLayerNorm(num_tables, 1, 1, width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        queries: Float[Tensor, "tables batch queries width"],
        sequence: Float[Tensor, "tables batch length width"],
        mask: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "tables batch queries width"]:
        one = queries.shape[2] == 1
        attended = self._attend_once(queries, sequence, mask) if one else self._attend(queries, sequence, mask)
        mixed = self.first_norm(queries + self.dropout(attended))
        hidden = nn.functional.leaky_relu(self.inner(mixed), SLOPE)
        out: Tensor = self.second_norm(mixed + self.dropout(self.outer(hidden)))
        return out

    def _attend(self, queries: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """Rows of all sets go through one attention call."""
        query = self._heads(self.query(queries))
        key, value = (self._heads(part) for part in self.key_value(sequence).chunk(2, -1))
        allowed = mask.repeat(len(queries), 1)[:, None, None]
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        joined = mixed.transpose(1, 2).flatten(2)
        out: Tensor = self.output(torch.unflatten(joined, 0, queries.shape[:2]))
        return out

    def _attend_once(self, queries: Tensor, sequence: Tensor, mask: Tensor) -> Tensor:
        """The same for one query a row, without keys and values of every position."""
        heads = (self.num_heads, -1)
        key, value = (torch.unflatten(part, -1, heads) for part in self.key_value.weight.chunk(2, -1))
        query = torch.unflatten(self.query(queries).squeeze(2), -1, heads)
        scores = folded_scores(query, sequence, key)
        weights = masked_softmax(scores, mask.unsqueeze(1).expand_as(scores)).to(sequence.dtype)
        out: Tensor = self.output(folded_values(weights, sequence, value).flatten(2).unsqueeze(2))
        return out

    def _heads(self, part: Float[Tensor, "tables batch length dim"]) -> Float[Tensor, "rows heads length head_dim"]:
        return torch.unflatten(part, -1, (self.num_heads, -1)).flatten(0, 1).transpose(1, 2)


class BST(nn.Module):
    """Events and then the candidate through the layers; positions are in the vectors already.

    In the last layer only what is read is a query, and one query needs no keys and values (`ctr_models.sequences.
    multi_head`): one layer that reads the candidate costs O(L), not O(L^2). A row without events gives 0.
    """

    def __init__(self, config: BSTConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_outputs, self.num_auxiliary = 1, 0
        layers = (TransformerLayer(config, num_tables, parts * dim) for _ in range(config.num_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        vectors = torch.cat([sequence.events, sequence.target.unsqueeze(2)], 2)
        mask = nn.functional.pad(sequence.mask, (0, 1), value=True)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            vectors = layer(self._read(vectors) if number == last else vectors, vectors, mask)
        return SequenceOutput(self._pool(vectors, sequence.mask))

    def _read(self, vectors: Tensor) -> Tensor:
        match self.config.pooling:
            case "target":
                return vectors[:, :, -1:]
            case "mean":
                return vectors[:, :, :-1]
            case _:
                assert_never(self.config.pooling)

    def _pool(self, vectors: Tensor, mask: Tensor) -> Float[Tensor, "tables batch 1 width"]:
        match self.config.pooling:
            case "target":
                return vectors.masked_fill(~mask.any(1)[:, None, None], 0.0)
            case "mean":
                total = vectors.masked_fill(~mask.unsqueeze(-1), 0.0).sum(2, keepdim=True)
                return total / mask.sum(1).clamp(min=1)[:, None, None]
            case _:
                assert_never(self.config.pooling)
