"""SASRec (arXiv 1808.09781): causal self-attention over the history."""

from dataclasses import dataclass
from typing import Literal, assert_never, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.dropout import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class SASRecConfig:
    """`num_layers` blocks of attention and a feed-forward layer `ffn_multiplier` times as wide as the vectors.

    `positions`: "from_end" counts from the most recent event, which equals the usual left padding; "from_start" counts
    from the first event of the window, so a state never depends on how many events follow. `dropout` acts on the
    inputs, the attention weights and both sublayers (with "query" on the feed-forward layer alone). `embedding_norm`
    normalises the inputs (PAD); `final_norm` the states (usual with pre-norm).

    `norm`: LayerNorm before ("pre") or after ("post") each sublayer; "query" is the block of SASRec's released code:
    queries are normalised, keys and values are not, and both residuals start from the normalised input. `null_key`
    adds a key and a value of a zero vector, weighted by the number of paddings a window of `max_length` would hold:
    what implementations without a key mask do to short histories, and what lets a state attend to nothing. It equals a
    left-padded model whose padded states are zeros before every block. One that sets them to zero before the first
    block alone is equal with one layer; from the second on its padded states have been through a block and are no
    longer zeros, so states of short histories differ. With "pre" the zero vector stands for a normalised one (our
    choice). Attention dropout drops all paddings of a row together.
    """

    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.2
    ffn_multiplier: int = 4
    activation: Literal["relu", "gelu"] = "relu"
    norm: Literal["pre", "post", "query"] = "pre"
    positions: Literal["from_end", "from_start"] = "from_end"
    embedding_norm: bool = False
    final_norm: bool = True
    null_key: bool = False

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


def released_sasrec(*, num_layers: int = 1, dropout: float = 0.2) -> SASRecConfig:
    """The block of SASRec's released code, as toolkits carry it on: one head, narrow feed-forward, unmasked padding."""
    return SASRecConfig(
        num_layers=num_layers, num_heads=1, dropout=dropout, ffn_multiplier=1, norm="query", null_key=True
    )


class SASRec(nn.Module):
    """Item vectors -> states. Real positions come first and attention is causal, so padding needs no key mask."""

    def __init__(self, config: SASRecConfig, dim: int, max_length: int) -> None:
        super().__init__()
        self.positions = config.positions
        self.null_key = config.null_key
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
        weights = null_key_mask(mask, len(self.position_table), vectors.dtype) if self.null_key else None
        for block in self.blocks:
            states = block(states, weights)
        return cast(Tensor, self.final_norm(states))

    def _position_vectors(self, mask: Bool[Tensor, "batch length"]) -> Float[Tensor, "... length dim"]:
        length = mask.shape[1]
        if length > len(self.position_table):
            raise ValueError(f"history of length {length}, but this backbone was built for {len(self.position_table)}")
        if self.positions == "from_start":
            return self.position_table[:length]
        return F.embedding(places_from_end(mask), self.position_table)


class Block(nn.Module):
    """Attention and feed-forward, each with a residual and a LayerNorm where `SASRecConfig.norm` says."""

    def __init__(self, config: SASRecConfig, dim: int) -> None:
        super().__init__()
        if dim % config.num_heads:
            raise ValueError(f"dim {dim} is not divisible by num_heads {config.num_heads}")
        self.num_heads = config.num_heads
        self.norm = config.norm
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

    def forward(
        self, states: Float[Tensor, "batch length dim"], null_key: Float[Tensor, "batch 1 length keys"] | None = None
    ) -> Float[Tensor, "batch length dim"]:
        match self.norm:
            case "pre":
                normed = self.attention_norm(states)
                states = states + self.dropout(self._attend(normed, normed, null_key))
                return cast(Tensor, states + self.dropout(self.ffn(self.ffn_norm(states))))
            case "post":
                states = self.attention_norm(states + self.dropout(self._attend(states, states, null_key)))
                return cast(Tensor, self.ffn_norm(states + self.dropout(self.ffn(states))))
            case "query":
                normed = self.attention_norm(states)
                normed = self.ffn_norm(normed + self._attend(normed, states, null_key))
                return cast(Tensor, normed + self.dropout(self.ffn(normed)))
            case _:
                assert_never(self.norm)

    def _attend(
        self,
        queries: Float[Tensor, "batch length dim"],
        states: Float[Tensor, "batch length dim"],
        null_key: Float[Tensor, "batch 1 length keys"] | None,
    ) -> Float[Tensor, "batch length dim"]:
        """Causal attention of `queries` on `states`; with a null key, the mask holds its log weight in column 0."""
        dim = states.shape[-1]
        if queries is states:
            q, k, v = self.qkv(states).chunk(3, dim=-1)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(queries, weight[:dim], bias[:dim])
            k, v = F.linear(states, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        if null_key is not None:
            _, key, value = self.qkv.bias.expand(len(states), 1, 3 * dim).chunk(3, dim=-1)
            k, v = torch.cat([key, k], dim=1), torch.cat([value, v], dim=1)
        q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=self.num_heads) for x in (q, k, v))
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, null_key, dropout_p=dropout, is_causal=null_key is None)
        out: Tensor = self.out(rearrange(mixed, "b h l d -> b l (h d)"))
        return out


def null_key_mask(
    mask: Bool[Tensor, "batch length"], max_length: int, dtype: torch.dtype
) -> Float[Tensor, "batch 1 length keys"]:
    """Additive mask over [null key; positions]: causal, and log(max_length - history length) for the null key.

    A full history has none to attend to. Padding rows attend like real ones and are never read.
    """
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    allowed = torch.zeros(length, length, dtype=dtype, device=mask.device).masked_fill(~causal, -torch.inf)
    paddings = torch.log((max_length - mask.sum(dim=1)).to(dtype))
    null = paddings[:, None, None, None].expand(-1, 1, length, 1)
    return torch.cat([null, allowed.expand(len(mask), 1, -1, -1)], dim=-1)


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
