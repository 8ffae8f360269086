"""Search, attention and target-aware pooling: DARE and all it is compared with in its paper (arXiv 2410.02604).

    S = top k of s_i,    w = softmax over S of s,    h = sum over S of w_i r_i,    outputs h and r_t * h

with s from the attention vectors (`ctr_models.sequences.attention`) and r from the representation, which are one for
TWIN. That r_t * h equals sum_i w_i (r_t * r_i) exactly saves a factor k. Which tables stand behind the vectors is
`ctr_models.sequences.events`, so TWIN, TWIN-4E, 3E and the projections are this encoder too. "TWIN" here is that of
DARE's repository, without the projections and cross-feature bias of the original.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.sequences.attention import (
    DotScore,
    DotScoreConfig,
    ScoreConfig,
    attention_weights,
    build_score,
    pool_found,
)
from ctr_models.sequences.event_bags import BagInput, EventBags
from ctr_models.sequences.events import EventLayout, EventVectors
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput
from ctr_models.sequences.search import ScoredEvents, best, masked, newest


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetAttentionConfig:
    """`top_k`: events attended to; None is all of them. `search` "soft" takes those of the best scores, "hard" the
    newest ones whose field number `match_field` of `Schema.history` equals the candidate's, filled up with the newest
    others. `target_aware`: outputs h and r_t * h ("both"), h ("none", without TR) or r_t * h ("only").

    `auxiliary`: while training, the same outputs over all events for a second head, as every published run has it. It
    gives all events gradient; without it only those found have any, and only their vectors are looked up.
    """

    top_k: int | None = 20
    search: Literal["soft", "hard"] = "soft"
    score: ScoreConfig = field(default_factory=DotScoreConfig)
    target_aware: Literal["both", "none", "only"] = "both"
    auxiliary: bool = True
    match_field: int = 1

    def __post_init__(self) -> None:
        if self.top_k is not None:
            check_at_least("top_k", self.top_k, 1)
        check_at_least("match_field", self.match_field, 0)
        if self.search == "hard" and self.top_k is None:
            raise ValueError("hard search needs top_k; without a limit all events are attended to")


class TargetAttention(nn.Module):
    """See `TargetAttentionConfig`."""

    def __init__(self, config: TargetAttentionConfig, num_tables: int, layout: EventLayout) -> None:
        super().__init__()
        if config.search == "hard" and config.match_field >= layout.num_fields:
            raise ValueError(
                f"match_field {config.match_field} is no field of the history, which has {layout.num_fields}; "
                "add a category to Schema.history, or choose soft search"
            )
        self.config = config
        self.score = build_score(config.score, num_tables, layout.attention_width, layout.time_width)

    @property
    def num_outputs(self) -> int:
        return 2 if self.config.target_aware == "both" else 1

    @property
    def num_auxiliary(self) -> int:
        return self.num_outputs if self.config.auxiliary else 0

    @property
    def top_k(self) -> int | None:
        """How many events it reads; see `Selects`."""
        return self.config.top_k

    @property
    def selects_by_ids(self) -> bool:
        return self.config.search == "hard"

    def select(
        self,
        attended: EventVectors | None,
        mask: Bool[Tensor, "batch length"],
        target_ids: Int64[Tensor, "batch fields"],
        event_ids: Int64[Tensor, "batch length fields"],
    ) -> Int64[Tensor, "batch k"]:
        """The events it would attend to, of one set; `attended` is not read by hard search."""
        k = self.config.top_k or mask.shape[1]
        if attended is None:
            return self._newest(k, mask, target_ids, event_ids)
        return best(self.score(attended.target, attended.events), mask, k).indices[0]

    @property
    def reads_bags(self) -> bool:
        """See `ReadsBags`: products with a vector need no vectors of single events. Where ids alone say which few
        events count, looking those up is cheaper.
        """
        return isinstance(self.score, DotScore) and (self.config.auxiliary or not self.selects_by_ids)

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        query, keys = attended(sequence)
        return self._attend(sequence, sequence.events, self.score(query, keys))

    def of_bags(self, sequence: BagInput) -> SequenceOutput:
        """The same from bags of events."""
        if not isinstance(self.score, DotScore):
            raise TypeError(f"bags need a score of dot products, not {type(self.score).__name__}")
        query, keys = sequence.attention_target, sequence.attention_events
        if query is None or keys is None:
            query, keys = sequence.target, sequence.events
        return self._attend(sequence, sequence.events, keys.scores(self.score.scaled(query)))

    def _attend(
        self,
        sequence: SequenceInput | BagInput,
        events: Tensor | EventBags,
        scores: Float[Tensor, "tables batch length"],
    ) -> SequenceOutput:
        found = self._found(scores, sequence)
        every = self.training and self.config.auxiliary
        whole = attention_weights(scores, sequence.mask.unsqueeze(0)) if every or found is None else None
        if found is None:
            outputs = [self._outputs(sequence.target, pooled) for pooled in _sums(events, whole)]
            return SequenceOutput(outputs[0], outputs[0] if every else None)
        weights = attention_weights(found.scores, found.real)
        if whole is None and isinstance(events, Tensor):
            return SequenceOutput(self._outputs(sequence.target, pool_found(weights, events, found.indices)))
        some = torch.zeros_like(scores).scatter(-1, found.indices, weights)
        return SequenceOutput(*(self._outputs(sequence.target, pooled) for pooled in _sums(events, some, whole)))

    def _found(
        self, scores: Float[Tensor, "tables batch length"], sequence: SequenceInput | BagInput
    ) -> ScoredEvents | None:
        """None where all events are attended to."""
        k = self.config.top_k
        if k is None:
            return None
        if self.config.search == "soft":
            return best(scores, sequence.mask, k)
        indices = self._newest(k, sequence.mask, sequence.target_ids, sequence.event_ids)
        real = sequence.mask.gather(1, indices).expand(len(scores), -1, -1)
        indices = indices.expand(len(scores), -1, -1)
        return ScoredEvents(masked(scores.gather(-1, indices), real), indices, real)

    def _newest(self, k: int, mask: Tensor, target_ids: Tensor, event_ids: Tensor) -> Int64[Tensor, "batch k"]:
        column = self.config.match_field
        return newest(event_ids[..., column] == target_ids[:, None, column], mask, k)

    def _outputs(
        self, target: Float[Tensor, "tables batch width"], pooled: Float[Tensor, "tables batch width"]
    ) -> Float[Tensor, "tables batch outputs width"]:
        match self.config.target_aware:
            case "none":
                return pooled.unsqueeze(2)
            case "only":
                return (target * pooled).unsqueeze(2)
            case "both":
                return torch.stack([pooled, target * pooled], 2)


def _sums(
    events: Float[Tensor, "tables batch length width"] | EventBags,
    *weights: Float[Tensor, "tables batch length"] | None,
) -> Sequence[Float[Tensor, "tables batch width"]]:
    """sum_i w_i r_i for each of `weights` that is there, in one pass over the events."""
    stacked = torch.stack([each for each in weights if each is not None], 2)
    sums = events.sums(stacked) if isinstance(events, EventBags) else stacked @ events
    return sums.unbind(2)


def attended(sequence: SequenceInput) -> EventVectors:
    """The vectors that search and attention look at: those of their own where a model has such."""
    if sequence.attention_target is None or sequence.attention_events is None:
        return EventVectors(sequence.target, sequence.events)
    return EventVectors(sequence.attention_target, sequence.attention_events)
