"""SIM: search for the events of the candidate's category, or by inner product, then attention (arXiv 2006.05639)."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.layers import TableLinear
from ctr_models.sequences.found import Found, best_events, masked_softmax, take_events
from ctr_models.sequences.hard import hard_search
from ctr_models.sequences.multi_head import LongShortAttention, MultiHeadConfig
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class HardSearchConfig:
    """The newest events with the candidate's id of history field `field`, counted from 0: the category is field 1 of
    ("item", "category").
    """

    field: int = 1

    def __post_init__(self) -> None:
        check_at_least("field", self.field, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftSearchConfig:
    """Inner products of embeddings of the search's own.

    `embeddings`: the shared vectors through two linear maps to `search_dim` numbers (`projected`), or the vectors of
    attention tables (`tables`: `SequenceInput.attention_target` and `attention_events`), which the second stage then
    does not see. `pooling` of the search loss: softmax weights, our choice, or the plain `sum` of scores times events,
    which grows with the history.
    """

    embeddings: Literal["projected", "tables"] = "projected"
    search_dim: int = 32
    pooling: Literal["softmax", "sum"] = "softmax"

    def __post_init__(self) -> None:
        check_at_least("search_dim", self.search_dim, 1)


SearchConfig: TypeAlias = HardSearchConfig | SoftSearchConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SIMConfig:
    """`search` for `top_k` events, `attention` over them."""

    search: SearchConfig = field(default_factory=SoftSearchConfig)
    top_k: int = 20
    attention: MultiHeadConfig = field(default_factory=MultiHeadConfig)

    def __post_init__(self) -> None:
        check_at_least("top_k", self.top_k, 1)

    @property
    def auxiliary(self) -> bool:
        """Whether the search is trained by a second head."""
        return isinstance(self.search, SoftSearchConfig)


class SoftSearch(nn.Module):
    """s_i = <W_a target, W_b e_i> / sqrt(search_dim), or <a_target, a_i> / sqrt(their width) with attention tables.

    The factor, which leaves the order alone, is our choice.
    """

    def __init__(self, config: SoftSearchConfig, num_tables: int, width: int) -> None:
        super().__init__()
        self.config = config
        projected = config.embeddings == "projected"
        self.query = TableLinear(num_tables, width, config.search_dim, bias=False) if projected else None
        self.key = TableLinear(num_tables, width, config.search_dim, bias=False) if projected else None

    def forward(self, sequence: SequenceInput) -> Float[Tensor, "tables batch length"]:
        """Scores of all columns, padding among them."""
        if self.query is None or self.key is None:
            target, events = sequence.attention_target, sequence.attention_events
            if target is None or events is None:
                raise ValueError("soft search with embeddings 'tables' needs attention tables; or choose 'projected'")
            return _products(target * target.shape[-1] ** -0.5, events)
        query = self.query(sequence.target) * self.config.search_dim**-0.5
        return _products(torch.bmm(query, self.key.weight.transpose(1, 2)), sequence.events)

    def pool(
        self, scores: Float[Tensor, "tables batch length"], sequence: SequenceInput
    ) -> Float[Tensor, "tables batch width"]:
        """What the search loss reads: all events by their scores."""
        mask = sequence.mask.expand(scores.shape)
        match self.config.pooling:
            case "softmax":
                weights = masked_softmax(scores, mask).to(scores.dtype)
            case "sum":
                weights = scores.masked_fill(~mask, 0.0)
            case _:
                assert_never(self.config.pooling)
        pooled: Tensor = (weights.unsqueeze(2) @ sequence.events).squeeze(2)
        return pooled


class SIM(nn.Module):
    """h = MHA(target, the K events that the search found).

    The paper's loss is alpha L_search + beta L_attention. An encoder sees no labels: in training a soft search gives
    what it pools of all events as `auxiliary` vectors; the model's second head predicts the click from them, and that
    loss, times its weight, is alpha L_search. The top-K step lets no gradient through, so nothing else trains the maps
    of the search (that its embeddings are trained for one loss and the attention for another is what TWIN repairs).
    Hard search has no parameters and no loss. Columns without events are never found before an event, whatever the
    scores.
    """

    def __init__(self, config: SIMConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.soft: SoftSearch | None = None
        match config.search:
            case HardSearchConfig(field=column):
                self.field = column
            case SoftSearchConfig() as soft:
                self.soft = SoftSearch(soft, num_tables, parts * dim)
            case _:
                assert_never(config.search)
        self.attention = LongShortAttention(config.attention, num_tables, parts * dim)
        self.num_outputs = self.attention.num_outputs
        products = 2 if config.attention.target_product else 1
        self.num_auxiliary = products if config.auxiliary else 0

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        if self.soft is None:
            return SequenceOutput(self._attend(sequence, self._hard(sequence)))
        scores = self.soft(sequence)
        vectors = self._attend(sequence, best_events(scores, sequence.mask, self.config.top_k))
        if not self.training:
            return SequenceOutput(vectors)
        pooled = self.soft.pool(scores, sequence)
        auxiliary = [pooled, pooled * sequence.target] if self.config.attention.target_product else [pooled]
        return SequenceOutput(vectors, torch.stack(auxiliary, 2))

    @torch.no_grad()
    def search(self, sequence: SequenceInput) -> Found:
        """The first stage alone."""
        if self.soft is None:
            return self._hard(sequence)
        return best_events(self.soft(sequence), sequence.mask, self.config.top_k)

    def _hard(self, sequence: SequenceInput) -> Found:
        ids, top_k = (sequence.target_ids, sequence.event_ids), self.config.top_k
        found = hard_search(*ids, sequence.mask, field=self.field, top_k=top_k)
        return Found(*(part.expand(len(sequence.target), -1, -1) for part in found))

    def _attend(self, sequence: SequenceInput, found: Found) -> Tensor:
        vectors: Tensor = self.attention(sequence, take_events(sequence.events, found.indices), found.mask)
        return vectors


def _products(
    query: Float[Tensor, "tables batch width"], events: Float[Tensor, "tables batch length width"]
) -> Float[Tensor, "tables batch length"]:
    return (events @ query.unsqueeze(-1)).squeeze(-1)
