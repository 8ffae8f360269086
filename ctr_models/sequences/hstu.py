"""HSTU: pointwise attention over a history, by candidates that see it but not each other (arXiv 2402.17152)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_fraction
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLayerNorm, TableLinear
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput

BLOCK = 64  # queries that are scored together


@dataclass(frozen=True, kw_only=True, slots=True)
class HSTUConfig:
    """`query_dim` and `value_dim` are a head's. `max_length` divides attention: a number of the model, not of the
    batch, so that padding changes nothing; set it to the longest history and never change it afterwards.
    """

    num_layers: int = 2
    num_heads: int = 2
    query_dim: int = 16
    value_dim: int = 16
    max_length: int = 200
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_at_least("num_heads", self.num_heads, 1)
        check_at_least("query_dim", self.query_dim, 1)
        check_at_least("value_dim", self.value_dim, 1)
        check_at_least("max_length", self.max_length, 1)
        check_fraction("dropout", self.dropout)


class Projections(NamedTuple):
    """U, V, Q and K of some positions."""

    gate: Float[Tensor, "tables batch length heads value_dim"]
    value: Float[Tensor, "tables batch length heads value_dim"]
    query: Float[Tensor, "tables batch length heads query_dim"]
    key: Float[Tensor, "tables batch length heads query_dim"]


class HSTULayer(nn.Module):
    """U, V, Q, K = split(SiLU(f_1(LayerNorm(X))));  A = SiLU(Q K^T / sqrt(query_dim)) / max_length, masked;
    X' = X + f_2(LayerNorm(A V) * U)   (eqs. 1 to 3).

    No softmax: weights may be negative and need not sum to 1, so how many events are alike counts. The relative bias
    rab of eq. 2 is left out: positions are in the vectors.
    """

    def __init__(self, config: HSTUConfig, num_tables: int, width: int) -> None:
        super().__init__()
        self.config = config
        self.values, self.queries = config.num_heads * config.value_dim, config.num_heads * config.query_dim
        self.input_norm = TableLayerNorm(num_tables, 1, 1, width)
        self.project = TableLinear(num_tables, width, 2 * (self.values + self.queries))
        self.output_norm = TableLayerNorm(num_tables, 1, 1, self.values)
        self.output = TableLinear(num_tables, self.values, width)
        self.dropout = Dropout(config.dropout)

    def projections(self, vectors: Float[Tensor, "tables batch length width"]) -> Projections:
        """All four maps are one product. Queries and values come divided by sqrt(query_dim) and by max_length: so
        little is to be divided, and so much is to be scored.
        """
        sizes = [self.values, self.values, self.queries, self.queries]
        parts = torch.split(nn.functional.silu(self.project(self.input_norm(vectors))), sizes, -1)
        gate, value, query, key = (torch.unflatten(part, -1, (self.config.num_heads, -1)) for part in parts)
        return Projections(gate, value / self.config.max_length, query * self.config.query_dim**-0.5, key)

    def finish(
        self,
        vectors: Float[Tensor, "tables batch length width"],
        mixed: Float[Tensor, "tables batch length heads value_dim"],
        gate: Float[Tensor, "tables batch length heads value_dim"],
    ) -> Float[Tensor, "tables batch length width"]:
        """X + f_2(LayerNorm(A V) * U)."""
        gated = self.output_norm(mixed.flatten(3)) * gate.flatten(3)
        out: Tensor = vectors + self.output(self.dropout(gated))
        return out


class CachedLayer(NamedTuple):
    """Keys and values of a history at the input of one layer, of columns that are no events 0."""

    key: Float[Tensor, "tables users length heads query_dim"]
    value: Float[Tensor, "tables users length heads value_dim"]


class HSTU(nn.Module):
    """The candidate's vector after the layers: it attends to all events and itself; events attend to events up to them.

    Events never see a candidate, so what they become is computed once a user: `encode` gives keys and values of every
    layer, `score` any number of candidates that do not see each other. `forward` is these two, so a cached result is
    the full one. In the last layer events are no queries: their vectors are read nowhere. Training takes O(L^2) a layer
    for all but the last; `causal_attention_flops` counts it. A row without events gives 0.
    """

    def __init__(self, config: HSTUConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_outputs, self.num_auxiliary = 1, 0
        self.layers = nn.ModuleList(HSTULayer(config, num_tables, parts * dim) for _ in range(config.num_layers))

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        cache = self.encode(sequence.events, sequence.mask)
        vectors = self.score(cache, sequence.target.unsqueeze(2))
        return SequenceOutput(vectors.masked_fill(~sequence.mask.any(1)[:, None, None], 0.0))

    def encode(
        self, events: Float[Tensor, "tables users length width"], mask: Bool[Tensor, "users length"]
    ) -> tuple[CachedLayer, ...]:
        """What candidates need of a history, layer by layer."""
        real = mask[..., None, None]
        cache, vectors = [], events
        for number, layer in enumerate(self._stack()):
            gate, value, query, key = layer.projections(vectors)
            cache.append(CachedLayer(key * real, value * real))
            if number < len(self.layers) - 1:
                vectors = layer.finish(vectors, causal_attention(query, *cache[-1]), gate)
        return tuple(cache)

    def score(
        self, cache: tuple[CachedLayer, ...], candidates: Float[Tensor, "tables users candidates width"]
    ) -> Float[Tensor, "tables users candidates width"]:
        """Vectors of candidates, whether or not their users have events (`forward` then gives 0 for these)."""
        for layer, (keys, values) in zip(self._stack(), cache, strict=True):
            gate, value, query, key = layer.projections(candidates)
            scores = torch.einsum("tbqhd,tbkhd->tbhqk", query, keys)
            mixed = torch.einsum("tbhqk,tbkhd->tbqhd", nn.functional.silu(scores), values)
            own = nn.functional.silu((query * key).sum(-1, keepdim=True)) * value
            candidates = layer.finish(candidates, mixed + own, gate)
        return candidates

    def _stack(self) -> list[HSTULayer]:
        return [layer for layer in self.layers if isinstance(layer, HSTULayer)]


def causal_attention(
    query: Float[Tensor, "tables users length heads query_dim"],
    key: Float[Tensor, "tables users length heads query_dim"],
    value: Float[Tensor, "tables users length heads value_dim"],
) -> Float[Tensor, "tables users length heads value_dim"]:
    """sum_(j <= i) SiLU(<q_i, k_j>) v_j, by blocks of queries that do not score what lies after the block."""
    length, mixed = query.shape[2], []
    for start in range(0, max(length, 1), BLOCK):
        seen = slice(0, min(start + BLOCK, length))
        scores = torch.einsum("tbqhd,tbkhd->tbhqk", query[:, :, start : start + BLOCK], key[:, :, seen])
        weights = nn.functional.silu(scores).tril(start)
        mixed.append(torch.einsum("tbhqk,tbkhd->tbqhd", weights, value[:, :, seen]))
    return torch.cat(mixed, 2)


def causal_attention_flops(length: int, *, num_heads: int, query_dim: int, value_dim: int) -> int:
    """Floating-point operations of causal attention over one sequence in one layer, forward:
    2 H (query_dim + value_dim) n^2 / 2, as benchmarks of HSTU count.

    >>> causal_attention_flops(200, num_heads=4, query_dim=64, value_dim=64)
    20480000
    """
    return num_heads * (query_dim + value_dim) * length * length
