"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from llm_rec.sequential.dropout import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class SASRecConfig:
    """`num_layers` blocks of attention and a feed-forward layer `ffn_multiplier` times as wide as the vectors.

    `positions`: "from_end" counts from the most recent event, which equals the usual left padding; "from_start" counts
    from the first event of the window, so a state never depends on how many events follow. `dropout` acts on the
    inputs, the attention weights and both sublayers. `embedding_norm` normalises the inputs (PAD); `final_norm` the
    states (usual with pre-norm).
    """

    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    ffn_multiplier: int = 4
    activation: Literal["relu", "gelu"] = "relu"
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["from_end", "from_start"] = "from_end"
    embedding_norm: bool = False
    final_norm: bool = True

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "ffn_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1 (1 excluded), got {self.dropout}")


def pad_sasrec() -> SASRecConfig:
    """The encoder of PAD's released code (arXiv 2412.04107): 5 post-norm blocks, 2 heads, ReLU, normalised inputs."""
    return SASRecConfig(
        num_layers=5,
        num_heads=2,
        dropout=0.1,
        ffn_multiplier=4,
        activation="relu",
        norm="post",
        embedding_norm=True,
        final_norm=False,
    )


class SASRec(nn.Module):
    """Item vectors -> states. Real positions come first and attention is causal, so padding needs no key mask."""

    def __init__(self, config: SASRecConfig, dim: int, max_length: int) -> None:
        super().__init__()
        self.positions = config.positions
        self.position_table = nn.Parameter(torch.empty(max_length, dim))
        self.embedding_norm = nn.LayerNorm(dim) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, dim) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(dim) if config.final_norm else nn.Identity()
        init_xavier(self)

    def forward(
        self, vectors: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        states: Tensor = self.dropout(self.embedding_norm(vectors + self._position_vectors(mask)))
        for block in self.blocks:
            states = block(states)
        return cast(Tensor, self.final_norm(states))

    def _position_vectors(self, mask: Bool[Tensor, "batch length"]) -> Float[Tensor, "... length dim"]:
        length = mask.shape[1]
        if length > len(self.position_table):
            raise ValueError(f"history of length {length}, but this backbone was built for {len(self.position_table)}")
        if self.positions == "from_start":
            return self.position_table[:length]
        return F.embedding(places_from_end(mask), self.position_table)


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a LayerNorm before (pre) or after (post) it."""

    def __init__(self, config: SASRecConfig, dim: int) -> None:
        super().__init__()
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {config.num_heads}")
        self.num_heads = config.num_heads
        self.pre = config.norm == "pre"
        self.attention_dropout = config.dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.ffn = nn.Sequential(
            nn.Linear(dim, config.ffn_multiplier * dim),
            nn.ReLU() if config.activation == "relu" else nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.ffn_multiplier * dim, dim),
        )
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, states: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        if self.pre:
            states = states + self.dropout(self._attend(self.attention_norm(states)))
            return cast(Tensor, states + self.dropout(self.ffn(self.ffn_norm(states))))
        states = self.attention_norm(states + self.dropout(self._attend(states)))
        return cast(Tensor, self.ffn_norm(states + self.dropout(self.ffn(states))))

    def _attend(self, states: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        q, k, v = (
            rearrange(part, "b l (h d) -> b h l d", h=self.num_heads)
            for part in torch.chunk(self.qkv(states), 3, dim=-1)
        )
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        out: Tensor = self.out(rearrange(mixed, "b h l d -> b l (h d)"))
        return out


def places_from_end(mask: Bool[Tensor, "batch length"]) -> Int64[Tensor, "batch length"]:
    """0 at the last real position of a row, 1 before it, ...; 0 on padding.

    >>> places_from_end(torch.tensor([[True, True, True, False]])).tolist()
    [[2, 1, 0, 0]]
    """
    return (mask.sum(dim=1, keepdim=True) - 1 - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)


def init_xavier(module: nn.Module) -> None:
    """Xavier-normal matrices and zero biases."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
