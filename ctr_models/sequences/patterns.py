"""DPN, Deep Pattern Network (arXiv 2404.11456): which short patterns of behaviour speak for the candidate.

Target attention asks which past items go with the target. DPN asks which past patterns (a mouse pad, then a mouse) go
with the target's own pattern:

    s_i    = <q(e_t), k(e_i)> / sqrt(d)                       target attention score of each event
    I      = the K events with the highest s_i                 retrieval (TPRM): windows P_i that end there
    z      = refiner(P)                                        refinement (SPRM), see `pattern_refiner`
    beta_k = softmax_k(<W_q z_t, W_k z_k> / sqrt(d) + s_(i_k)) target pattern attention (TPA)
    h_pat  = sum_k beta_k (z_k * z_t)

The choice of I has no gradient; s stays in the logit, so the scorer learns through beta. DPN wraps any encoder and adds
h_pat and z_t to its vectors. With windows of one event and `IdentityPatternConfig`, h_pat is target attention over the
retrieved events with the target-aware product.

The paper publishes the three modules and what each is for. The equations, the sizes and all defaults here are ours: a
reconstruction from the published description; the paper's hyper-parameters are unknown to us.

**Cost** for each candidate: length * d products for the scores and K + 1 windows for the refiner, however long the
history is. A window's z does not depend on the candidate or on later events: `encode_events` gives those of a whole
history for a cache, and `forward_cached` then refines one window, the target's.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least
from ctr_models.layers import TableLinear
from ctr_models.sequences.found import masked_softmax, take_events
from ctr_models.sequences.pattern_refiner import (
    IdentityPatternConfig,
    PatternRefiner,
    RefinerConfig,
    TransformerRefinerConfig,
    build_refiner,
)
from ctr_models.sequences.pattern_windows import (
    Anchors,
    Windows,
    all_windows,
    best_columns,
    gather_windows,
    newest_columns,
    target_window,
)
from ctr_models.sequences.protocols import SequenceEncoder, SequenceInput, SequenceOutput

Retrieval: TypeAlias = Literal["scores", "newest", "all"]
Encoded: TypeAlias = Float[Tensor, "tables batch patterns content"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternConfig:
    """Windows of `pattern_length` events (n), `top_k` of them a candidate (K). All defaults are our choices.

    `retrieval`: the K events with the best `scores`; without retrieval, the `newest` K or `all`. `suppression`: chosen
    events lie more than so many columns apart. `attention` over `items` reads the retrieved events themselves instead
    of patterns (target attention; neither length nor refiner then count). `scorer`: learned projections of target and
    event, or their `dot` product as it is, for inputs with attention vectors of their own (DARE).
    """

    pattern_length: int = 4
    top_k: int = 10
    suppression: int = 0
    retrieval: Retrieval = "scores"
    attention: Literal["patterns", "items"] = "patterns"
    scorer: Literal["projected", "dot"] = "projected"
    attention_dim: int = 32
    refiner: RefinerConfig = field(default_factory=TransformerRefinerConfig)

    def __post_init__(self) -> None:
        check_at_least("pattern_length", self.pattern_length, 1)
        check_at_least("top_k", self.top_k, 1)
        check_at_least("suppression", self.suppression, 0)
        check_at_least("attention_dim", self.attention_dim, 1)
        if self.suppression and self.retrieval != "scores":
            raise ValueError(
                f"suppression {self.suppression} belongs to retrieval 'scores', not {self.retrieval!r}; set it to 0"
            )


class DPN(nn.Module):
    """See the module and `PatternConfig`. A `SequenceEncoder` around `backbone` (None: patterns alone).

    Event vectors are `parts` of `dim` numbers. Patterns read the first `content_parts` of them (all by default): leave
    out those that hold an event's distance from the end, which change with every new event. h_pat and z_t are then
    mapped back to the full width. Scores read everything, the attention vectors where the input has some, whose width
    is `attention_width`.
    """

    def __init__(
        self,
        config: PatternConfig,
        backbone: SequenceEncoder | None,
        num_tables: int,
        parts: int,
        dim: int,
        *,
        content_parts: int | None = None,
        attention_width: int | None = None,
    ) -> None:
        super().__init__()
        content_parts = parts if content_parts is None else content_parts
        if not 1 <= content_parts <= parts:
            raise ValueError(f"content_parts must be in 1..{parts}, the parts of an event, got {content_parts}")
        self.config, self.backbone = config, backbone
        self.content = content_parts * dim
        of_items = config.attention == "items"
        self.slots = 1 if of_items else config.pattern_length
        refiner = IdentityPatternConfig() if of_items else config.refiner
        self.refiner: PatternRefiner = build_refiner(refiner, num_tables, self.slots, self.content)
        self.scorer = _build_scorer(config, num_tables, attention_width or parts * dim)
        self.queries = TableLinear(num_tables, self.content, config.attention_dim, bias=False)
        self.keys = TableLinear(num_tables, self.content, config.attention_dim, bias=False)
        widen = content_parts < parts
        self.outward = TableLinear(num_tables, self.content, parts * dim, bias=False) if widen else None

    @property
    def num_outputs(self) -> int:
        """The backbone's vectors, then h_pat and z_t."""
        return 2 + (0 if self.backbone is None else self.backbone.num_outputs)

    @property
    def num_auxiliary(self) -> int:
        return 0 if self.backbone is None else self.backbone.num_auxiliary

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        scores = self.scores(sequence)
        anchors = self.retrieve(scores, sequence.mask)
        events = sequence.events[..., : self.content]
        found = gather_windows(events, sequence.mask, anchors, self.slots)
        encoded = self._encode(_joined(found, self._target_window(sequence)))
        return self._output(sequence, encoded[:, :, -1], encoded[:, :, :-1], scores, anchors)

    def forward_cached(self, sequence: SequenceInput, encoded: Encoded) -> SequenceOutput:
        """As `forward`, with `encode_events` of the same events at hand: refines the target's pattern alone."""
        scores = self.scores(sequence)
        anchors = self.retrieve(scores, sequence.mask)
        target = self._encode(self._target_window(sequence))[:, :, 0]
        return self._output(sequence, target, take_events(encoded, anchors.columns), scores, anchors)

    def encode_events(
        self, events: Float[Tensor, "tables batch length width"], mask: Bool[Tensor, "batch length"]
    ) -> Encoded:
        """z of the window that ends at each event. After an event is appended, only the last one is new: pass the
        newest n events and keep the last column.
        """
        return self._encode(all_windows(events[..., : self.content], mask, self.slots))

    def scores(self, sequence: SequenceInput) -> Float[Tensor, "tables batch length"]:
        """s of every event; padding's have no meaning."""
        target, events = sequence.attention_target, sequence.attention_events
        if target is None or events is None:
            target, events = sequence.target, sequence.events
        found: Tensor = self.scorer(target, events)
        return found

    def retrieve(self, scores: Float[Tensor, "tables batch length"], mask: Bool[Tensor, "batch length"]) -> Anchors:
        """The events whose patterns are looked at; each embedding set has its own."""
        match self.config.retrieval:
            case "scores":
                return best_columns(scores, mask, self.config.top_k, self.config.suppression)
            case "newest":
                return newest_columns(mask, self.config.top_k, len(scores))
            case "all":
                return newest_columns(mask, mask.shape[1], len(scores))
            case _:
                assert_never(self.config.retrieval)

    def attend(
        self,
        target: Float[Tensor, "tables batch content"],
        patterns: Encoded,
        scores: Float[Tensor, "tables batch patterns"],
        valid: Bool[Tensor, "tables batch patterns"],
    ) -> Float[Tensor, "tables batch content"]:
        """h_pat of z_t, z_k and s_(i_k): zeros where no pattern is valid."""
        products = torch.einsum("tbd,tbkd->tbk", self.queries(target), self.keys(patterns))
        logits = products / math.sqrt(self.config.attention_dim) + scores
        weights = masked_softmax(logits, valid).to(logits.dtype)
        return torch.einsum("tbk,tbkc->tbc", weights, patterns) * target

    def _target_window(self, sequence: SequenceInput) -> Windows:
        target, events = sequence.target[..., : self.content], sequence.events[..., : self.content]
        return target_window(target, events, sequence.mask, self.slots)

    def _encode(self, windows: Windows) -> Encoded:
        """All windows of a batch by one call of the refiner."""
        encoded = self.refiner(windows.vectors.flatten(1, 2), windows.mask.flatten(1, 2))
        shaped: Tensor = torch.unflatten(encoded, 1, windows.mask.shape[1:3])
        return shaped

    def _output(
        self, sequence: SequenceInput, target: Tensor, patterns: Tensor, scores: Tensor, anchors: Anchors
    ) -> SequenceOutput:
        pooled = self.attend(target, patterns, scores.gather(2, anchors.columns), anchors.valid)
        own = torch.stack([pooled, target], 2)
        if self.outward is not None:
            own = self.outward(own)
        if self.backbone is None:
            return SequenceOutput(own)
        given = self.backbone(sequence)
        return given._replace(vectors=torch.cat([given.vectors, own], 2))


class _DotScorer(nn.Module):
    """<e_t, e_i> / sqrt(width)."""

    def forward(
        self, target: Float[Tensor, "tables batch width"], events: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch length"]:
        return torch.einsum("tbw,tblw->tbl", target, events) / math.sqrt(target.shape[-1])


class _ProjectedScorer(nn.Module):
    """<q(e_t), k(e_i)> / sqrt(attention_dim). k moves to the target's side, so that events meet one product, whatever
    their number: <q, K e> = <K^T q, e>.
    """

    def __init__(self, num_tables: int, width: int, attention_dim: int) -> None:
        super().__init__()
        self.queries = TableLinear(num_tables, width, attention_dim, bias=False)
        self.keys = TableLinear(num_tables, width, attention_dim, bias=False)
        self.scale = math.sqrt(attention_dim)

    def forward(
        self, target: Float[Tensor, "tables batch width"], events: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch length"]:
        query = self.queries(target) @ self.keys.weight.transpose(1, 2)
        return torch.einsum("tbw,tblw->tbl", query, events) / self.scale


def _build_scorer(config: PatternConfig, num_tables: int, width: int) -> nn.Module:
    match config.scorer:
        case "projected":
            return _ProjectedScorer(num_tables, width, config.attention_dim)
        case "dot":
            return _DotScorer()
        case _:
            assert_never(config.scorer)


def _joined(first: Windows, second: Windows) -> Windows:
    return Windows(torch.cat([first.vectors, second.vectors], 2), torch.cat([first.mask, second.mask], 2))
