"""TWIN as published: one target attention searches and attends (arXiv 2302.02352).

The variant of the DARE experiments, without projections and cross features, is another model.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.layers import xavier
from ctr_models.sequences.found import Found, best_events, take_events
from ctr_models.sequences.multi_head import LongShortAttention, MultiHeadConfig
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class TWINConfig:
    """The `top_k` events of the highest attention scores are attended to (100 in the paper, of up to 100,000).

    `cross_parts`: how many parts at the end of a vector are features of user and event together (when it was, how often
    or how long it was watched); a concatenated position is one. They enter the score as a bias; 0 for none.
    """

    top_k: int = 20
    cross_parts: int = 1
    attention: MultiHeadConfig = field(default_factory=lambda: MultiHeadConfig(num_heads=4))

    def __post_init__(self) -> None:
        check_at_least("top_k", self.top_k, 1)
        check_at_least("cross_parts", self.cross_parts, 0)


class CrossBias(nn.Module):
    """(K_c W_c) beta: each cross part becomes one number by a vector of its own, and beta, one a head, weighs them."""

    def __init__(self, num_tables: int, num_heads: int, cross_parts: int, dim: int) -> None:
        super().__init__()
        self.width = cross_parts * dim
        self.compress = nn.Parameter(xavier(num_tables, cross_parts, inputs=dim, outputs=1).squeeze(-1))
        self.beta = nn.Parameter(torch.ones(num_tables, num_heads, cross_parts))

    def forward(self, events: Float[Tensor, "tables batch length width"]) -> Float[Tensor, "tables batch heads length"]:
        weight = (self.beta.unsqueeze(-1) * self.compress.unsqueeze(1)).flatten(2).unsqueeze(1)
        bias: Tensor = weight @ events[..., -self.width :].transpose(2, 3)
        return bias


class TWINKeys(NamedTuple):
    """Of users' events: K_h W_h, and (K_c W_c) beta where there are cross features."""

    keys: Float[Tensor, "tables users heads length head_dim"]
    bias: Float[Tensor, "tables users heads length"] | None


class TWIN(nn.Module):
    """alpha = (K_h W_h)(q W_q)^T / sqrt(d) + (K_c W_c) beta;  S = TopK(alpha);  h = MHA over S with the same alpha.

    K_h are the parts of an event that belong to the item, K_c the cross features. Both stages use the same parameters,
    so the search finds what the attention would weigh most; it is exact. With several heads we search by the mean of
    their scores (not established in the paper). Scores of all events are computed without a gradient and again for
    the K found. K_h W_h and the bias do not depend on the candidate: `keys` keeps them, `scores_by_keys` reads them.
    """

    def __init__(self, config: TWINConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        if config.cross_parts >= parts:
            raise ValueError(f"cross_parts {config.cross_parts} leaves no part of {parts} to queries and keys")
        self.config = config
        width, cross = parts * dim, config.cross_parts
        self.attention = LongShortAttention(config.attention, num_tables, width, width - cross * dim)
        self.cross = CrossBias(num_tables, config.attention.num_heads, cross, dim) if cross else None
        self.num_outputs, self.num_auxiliary = self.attention.num_outputs, 0

    def scores(
        self, target: Float[Tensor, "tables batch width"], events: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch heads length"]:
        """alpha, of both stages."""
        scores: Tensor = self.attention.long.scores(target, events)
        return scores if self.cross is None else scores + self.cross(events)

    def keys(self, events: Float[Tensor, "tables users length width"]) -> TWINKeys:
        """What the first stage needs of users' events."""
        return TWINKeys(self.attention.long.keys(events), None if self.cross is None else self.cross(events))

    def scores_by_keys(
        self, candidates: Float[Tensor, "tables users candidates width"], stored: TWINKeys
    ) -> Float[Tensor, "tables users heads candidates length"]:
        """`scores` of any number of candidates a user."""
        scores: Tensor = self.attention.long.scores_by_keys(candidates, stored.keys)
        return scores if stored.bias is None else scores + stored.bias.unsqueeze(3)

    @torch.no_grad()
    def search(self, sequence: SequenceInput) -> Found:
        """The first stage alone."""
        scores = self.scores(sequence.target, sequence.events).mean(2)
        return best_events(scores, sequence.mask, self.config.top_k)

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        found = self.search(sequence)
        events = take_events(sequence.events, found.indices)
        bias = None if self.cross is None else self.cross(events)
        return SequenceOutput(self.attention(sequence, events, found.mask, bias))
