"""Refinement of patterns: a small network that knows which events of a window do not belong, and gives its vector.

    h = f([CLS], x_1, .., x_n)              pre-norm transformer, bidirectional
    P(noise_j) = sigmoid(a([h_j; h_CLS]))   detection head
    o_j = W h_j                             refined event, in the space of event vectors
    g_j = 1 - P(noise_j)                    gate
    z   = LN(o_n + sum_j g_j o_j / sum_j g_j)       n is the anchor's slot

SPRM of DPN (arXiv 2404.11456) pre-trains such a network by denoising (`pattern_losses`). The equations above are ours:
this is a reconstruction from the published description; the paper's hyper-parameters are unknown to us.

Slots count within the window, and the network sees no distance from the end of the history: a window's vector stays
the same when events are appended, so it may be cached.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias, assert_never, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.checks import check_at_least, check_divides, check_fraction
from ctr_models.dropout import Dropout
from ctr_models.layers import MLP, MLPConfig, TableLayerNorm, TableLinear

_SLOT_STD = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerRefinerConfig:
    """`num_layers` pre-norm layers of width `hidden`, feed-forward layers four times as wide. Sizes are our choice."""

    hidden: int = 48
    num_layers: int = 1
    num_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("hidden", self.hidden), ("num_layers", self.num_layers), ("num_heads", self.num_heads)):
            check_at_least(name, value, 1)
        check_divides("num_heads", self.num_heads, "hidden", self.hidden)
        check_fraction("dropout", self.dropout)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanPatternConfig:
    """No refinement: the mean of a window's events."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdentityPatternConfig:
    """No refinement and no window: the anchor's own vector. With it, pattern attention is target attention."""


RefinerConfig: TypeAlias = TransformerRefinerConfig | MeanPatternConfig | IdentityPatternConfig


@runtime_checkable
class PatternRefiner(Protocol):
    """A window's events -> one vector as wide as an event's. Fully masked windows give finite numbers."""

    def __call__(
        self,
        vectors: Float[Tensor, "tables patterns slots width"],
        mask: Bool[Tensor, "tables patterns slots"],
    ) -> Float[Tensor, "tables patterns width"]: ...


class RefinedTokens(NamedTuple):
    """Refined events o_j and logits of P(noise_j)."""

    outputs: Float[Tensor, "tables patterns slots width"]
    noise_logits: Float[Tensor, "tables patterns slots"]


class TransformerRefiner(nn.Module):
    """See the module and `TransformerRefinerConfig`: windows of `num_slots` events of `width` numbers."""

    def __init__(self, config: TransformerRefinerConfig, num_tables: int, num_slots: int, width: int) -> None:
        super().__init__()
        check_at_least("num_slots", num_slots, 1)
        hidden = config.hidden
        self.num_slots, self.width = num_slots, width
        self.inward = TableLinear(num_tables, width, hidden)
        self.slots = nn.Parameter(torch.randn(num_tables, 1, num_slots, hidden) * _SLOT_STD)
        self.summary = nn.Parameter(torch.randn(num_tables, 1, 1, hidden) * _SLOT_STD)  # [CLS]
        self.layers = nn.ModuleList(_RefinerLayer(config, num_tables) for _ in range(config.num_layers))
        self.norm = TableLayerNorm(num_tables, 1, 1, hidden)
        self.detect = MLP(MLPConfig(widths=(hidden,), activation="gelu"), num_tables, 2 * hidden)
        self.noise = TableLinear(num_tables, hidden, 1)
        self.outward = TableLinear(num_tables, hidden, width)
        self.pattern_norm = TableLayerNorm(num_tables, 1, width)

    def forward(
        self,
        vectors: Float[Tensor, "tables patterns slots width"],
        mask: Bool[Tensor, "tables patterns slots"],
    ) -> Float[Tensor, "tables patterns width"]:
        """z of each window."""
        tokens = self.tokens(vectors, mask)
        gates = torch.sigmoid(-tokens.noise_logits) * mask
        total = (gates.unsqueeze(-1) * tokens.outputs).sum(2)
        mean = total / gates.sum(2).clamp(min=1e-6).unsqueeze(-1)
        refined: Tensor = self.pattern_norm(tokens.outputs[:, :, -1] + mean)
        return refined

    def tokens(
        self,
        vectors: Float[Tensor, "tables patterns slots width"],
        mask: Bool[Tensor, "tables patterns slots"],
    ) -> RefinedTokens:
        """What pre-training learns; masked slots hold finite numbers without meaning."""
        events = self.inward(vectors) + self.slots
        states = torch.cat([self.summary.expand(-1, events.shape[1], -1, -1), events], 2)
        seen = F.pad(mask, (1, 0), value=True)
        for layer in self.layers:
            states = layer(states, seen)
        states = self.norm(states)
        summary, events = states[:, :, :1], states[:, :, 1:]
        detected = self.detect(torch.cat([events, summary.expand_as(events)], -1).flatten(1, 2))
        noise = torch.unflatten(self.noise(detected).squeeze(-1), 1, events.shape[1:3])
        return RefinedTokens(self.outward(events), noise)


class _RefinerLayer(nn.Module):
    """x + attention(LN x), then x + feed-forward(LN x), for all sets."""

    def __init__(self, config: TransformerRefinerConfig, num_tables: int) -> None:
        super().__init__()
        hidden, self.num_heads = config.hidden, config.num_heads
        self.attention_norm = TableLayerNorm(num_tables, 1, 1, hidden)
        self.queries_keys_values = TableLinear(num_tables, hidden, 3 * hidden, parts=3)
        self.mixed = TableLinear(num_tables, hidden, hidden)
        self.forward_norm = TableLayerNorm(num_tables, 1, 1, hidden)
        self.widened = TableLinear(num_tables, hidden, 4 * hidden)
        self.narrowed = TableLinear(num_tables, 4 * hidden, hidden)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        states: Float[Tensor, "tables patterns tokens hidden"],
        seen: Bool[Tensor, "tables patterns tokens"],
    ) -> Float[Tensor, "tables patterns tokens hidden"]:
        states = states + self.dropout(self.mixed(self._attend(self.attention_norm(states), seen)))
        inner = F.gelu(self.widened(self.forward_norm(states)))
        out: Tensor = states + self.dropout(self.narrowed(inner))
        return out

    def _attend(self, states: Tensor, seen: Tensor) -> Tensor:
        pattern = "tables patterns tokens (three heads dim) -> three (tables patterns) heads tokens dim"
        queries, keys, values = rearrange(
            self.queries_keys_values(states), pattern, three=3, heads=self.num_heads
        ).unbind(0)
        mask = rearrange(seen, "tables patterns tokens -> (tables patterns) 1 1 tokens")
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        merged: Tensor = rearrange(
            found, "(tables patterns) heads tokens dim -> tables patterns tokens (heads dim)", tables=len(states)
        )
        return merged


class MeanPattern(nn.Module):
    """See `MeanPatternConfig`; zeros for a window without events."""

    def forward(
        self,
        vectors: Float[Tensor, "tables patterns slots width"],
        mask: Bool[Tensor, "tables patterns slots"],
    ) -> Float[Tensor, "tables patterns width"]:
        total = (vectors * mask.unsqueeze(-1)).sum(2)
        return total / mask.sum(2).clamp(min=1).unsqueeze(-1)


class IdentityPattern(nn.Module):
    """See `IdentityPatternConfig`."""

    def forward(
        self,
        vectors: Float[Tensor, "tables patterns slots width"],
        mask: Bool[Tensor, "tables patterns slots"],
    ) -> Float[Tensor, "tables patterns width"]:
        return vectors[:, :, -1]


def build_refiner(
    config: RefinerConfig, num_tables: int, num_slots: int, width: int
) -> TransformerRefiner | MeanPattern | IdentityPattern:
    """The refiner of `config` for windows of `num_slots` events of `width` numbers."""
    match config:
        case TransformerRefinerConfig():
            return TransformerRefiner(config, num_tables, num_slots, width)
        case MeanPatternConfig():
            return MeanPattern()
        case IdentityPatternConfig():
            return IdentityPattern()
        case _:
            assert_never(config)
