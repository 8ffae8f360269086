"""Code embeddings, and what makes one field or one item vector of them.

`CodeEmbedding` holds fresh trainable tables, one a book, read in one gather; the vectors inside a quantizer are not
used. A fusion maps (..., books, dim) to (..., books, dim), so that a ranking model keeps its fields; `CodePooling`
makes one item vector, for sequence models.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

Pooling = Literal["sum", "mean", "concat"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoFusionConfig:
    """The embeddings as they are: plain concatenation of fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateFusionConfig:
    """Bottleneck self-gate of Mixture-of-Codes: gate = sigmoid(W_up phi(W_down [e_1; ...; e_N])), out = gate * e.

    The published equation leaves out the non-linearity phi that its figure shows; without it the gate is a linear map
    of low rank, so phi (SiLU, our choice) is there. The bottleneck ratio is not published: `reduction`, our choice.
    """

    reduction: int = 4

    def __post_init__(self) -> None:
        _check_reduction(self.reduction)


@dataclass(frozen=True, kw_only=True, slots=True)
class SEFusionConfig:
    """Squeeze and excitation: one weight a book, from the means of all books. The cheapest gate."""

    reduction: int = 2

    def __post_init__(self) -> None:
        _check_reduction(self.reduction)


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPFusionConfig:
    """A residual two-layer network over the concatenated embeddings: mixes books, where the gates only scale them."""

    hidden_dim: int = 64

    def __post_init__(self) -> None:
        if self.hidden_dim < 1:
            raise ValueError(f"hidden_dim must be at least 1, got {self.hidden_dim}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionFusionConfig:
    """Residual self-attention between the books of one item, with an embedding of the book's number."""

    num_heads: int = 2

    def __post_init__(self) -> None:
        if self.num_heads < 1:
            raise ValueError(f"num_heads must be at least 1, got {self.num_heads}")


CodeFusionConfig: TypeAlias = (
    NoFusionConfig | GateFusionConfig | SEFusionConfig | MLPFusionConfig | AttentionFusionConfig
)


class CodeEmbedding(nn.Module):
    """(..., books) ids of `CodeTable.offset_codes` -> (..., books, dim): one table, one gather, row offsets per book.

    Id 0 of every book is padding and gives zeros. Parameters: dim x sum(sizes + 1).
    """

    offsets: Tensor

    def __init__(self, codebook_sizes: tuple[int, ...], dim: int, *, std: float = 0.02) -> None:
        super().__init__()
        rows = torch.tensor([0, *(size + 1 for size in codebook_sizes)])
        self.register_buffer("offsets", rows.cumsum(0)[:-1].clone(), persistent=False)
        self.weight = nn.Parameter(torch.randn(int(rows.sum()), dim) * std)
        with torch.no_grad():
            self.weight[self.offsets] = 0.0

    def forward(self, ids: Int64[Tensor, "*shape books"]) -> Float[Tensor, "*shape books dim"]:
        found = nn.functional.embedding(ids + self.offsets, self.weight)
        return found * ids.ne(0).unsqueeze(-1)


class GateFusion(nn.Module):
    """See `GateFusionConfig`."""

    def __init__(self, books: int, dim: int, reduction: int) -> None:
        super().__init__()
        self.down = nn.Linear(books * dim, max(1, books * dim // reduction))
        self.up = nn.Linear(self.down.out_features, books * dim)

    def forward(self, codes: Float[Tensor, "*shape books dim"]) -> Float[Tensor, "*shape books dim"]:
        gate = torch.sigmoid(self.up(nn.functional.silu(self.down(codes.flatten(-2)))))
        return codes * gate.view_as(codes)


class SEFusion(nn.Module):
    """See `SEFusionConfig`. The gate is 2 sigmoid: 1 at a zero logit, so that training starts near no fusion."""

    def __init__(self, books: int, reduction: int) -> None:
        super().__init__()
        self.down = nn.Linear(books, max(1, books // reduction))
        self.up = nn.Linear(self.down.out_features, books)

    def forward(self, codes: Float[Tensor, "*shape books dim"]) -> Float[Tensor, "*shape books dim"]:
        gate = 2 * torch.sigmoid(self.up(nn.functional.silu(self.down(codes.mean(-1)))))
        return codes * gate.unsqueeze(-1)


class MLPFusion(nn.Module):
    """See `MLPFusionConfig`."""

    def __init__(self, books: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(books * dim, hidden_dim)
        self.up = nn.Linear(hidden_dim, books * dim)

    def forward(self, codes: Float[Tensor, "*shape books dim"]) -> Float[Tensor, "*shape books dim"]:
        mixed: Tensor = self.up(nn.functional.silu(self.down(codes.flatten(-2))))
        return codes + mixed.view_as(codes)


class AttentionFusion(nn.Module):
    """See `AttentionFusionConfig`."""

    def __init__(self, books: int, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} cannot be shared by {num_heads} heads; choose a divisor")
        self.num_heads = num_heads
        self.places = nn.Parameter(torch.randn(books, dim) * 0.02)
        self.inward = nn.Linear(dim, 3 * dim)
        self.outward = nn.Linear(dim, dim)

    def forward(self, codes: Float[Tensor, "*shape books dim"]) -> Float[Tensor, "*shape books dim"]:
        flat = codes.reshape(-1, *codes.shape[-2:])
        parts = self.inward(flat + self.places).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        added: Tensor = self.outward(mixed.transpose(1, 2).flatten(2))
        return codes + added.view_as(codes)


def build_fusion(config: CodeFusionConfig, books: int, dim: int) -> nn.Module:
    """A module (..., books, dim) -> (..., books, dim)."""
    match config:
        case NoFusionConfig():
            return nn.Identity()
        case GateFusionConfig():
            return GateFusion(books, dim, config.reduction)
        case SEFusionConfig():
            return SEFusion(books, config.reduction)
        case MLPFusionConfig():
            return MLPFusion(books, dim, config.hidden_dim)
        case AttentionFusionConfig():
            return AttentionFusion(books, dim, config.num_heads)
        case _:
            assert_never(config)


class CodePooling(nn.Module):
    """(..., books, dim) -> (..., dim): sum, mean, or concatenation with a linear map (without bias: padding stays
    zero).
    """

    def __init__(self, pooling: Pooling, books: int, dim: int) -> None:
        super().__init__()
        self.pooling = pooling
        self.project = nn.Linear(books * dim, dim, bias=False) if pooling == "concat" else None

    def forward(self, codes: Float[Tensor, "*shape books dim"]) -> Float[Tensor, "*shape dim"]:
        if self.project is not None:
            out: Tensor = self.project(codes.flatten(-2))
            return out
        return codes.sum(-2) if self.pooling == "sum" else codes.mean(-2)


def _check_reduction(reduction: int) -> None:
    if reduction < 1:
        raise ValueError(f"reduction must be at least 1, got {reduction}")
