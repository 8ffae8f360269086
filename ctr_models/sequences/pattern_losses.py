"""The pretext task of a pattern refiner: recover what noise hid, and say which events are noise.

    L = L_rec + w L_det
    L_rec = mean over missing events of  -log softmax(cos(o_j, e) / temperature - log expected(e))  at the true event
    L_det = mean over shown events of BCE(P(noise_j), noise_j)

The softmax runs over the true event, the anchors of the batch (popular events) and uniformly drawn ones; each logit is
corrected by the log of how often its item is expected there, and copies of the true item are left out (sampled softmax,
Jean et al., arXiv 1412.2007). DPN (arXiv 2404.11456) publishes that refinement is pre-trained by denoising; the losses
are ours: a reconstruction from the published description; the paper's hyper-parameters are unknown to us.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.checks import check_at_least, check_positive
from ctr_models.schema import RESERVED
from ctr_models.sequences.pattern_corruption import CorruptedPatterns, NoiseItems
from ctr_models.sequences.pattern_refiner import TransformerRefiner


@runtime_checkable
class EventLookup(Protocol):
    """Looks events up: the vectors that patterns are made of, without a position; zeros for id 0."""

    def __call__(self, ids: Int64[Tensor, "batch length fields"]) -> Float[Tensor, "tables batch length width"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisingConfig:
    """`uniform_negatives` are drawn anew in each batch; `detection_weight` is w."""

    temperature: float = 0.07
    uniform_negatives: int = 128
    detection_weight: float = 1.0

    def __post_init__(self) -> None:
        check_positive("temperature", self.temperature)
        check_at_least("uniform_negatives", self.uniform_negatives, 1)
        if self.detection_weight < 0:
            raise ValueError(f"detection_weight must not be negative, got {self.detection_weight}")


class DenoisingLoss(NamedTuple):
    """Scalars; `total` = `recovery` + weight * `detection`."""

    total: Float[Tensor, ""]
    recovery: Float[Tensor, ""]
    detection: Float[Tensor, ""]


def denoising_loss(
    refiner: TransformerRefiner,
    vectors: EventLookup,
    patterns: CorruptedPatterns,
    items: NoiseItems,
    config: DenoisingConfig,
    generator: torch.Generator | None = None,
) -> DenoisingLoss:
    """L of a batch of corrupted patterns, averaged over embedding sets; `generator` draws the uniform negatives."""
    shown = vectors(patterns.ids)
    mask = patterns.mask.expand(len(shown), -1, -1)
    tokens = refiner.tokens(shown * mask.unsqueeze(-1), mask)
    anchors = patterns.clean[:, -1]
    others = torch.cat([anchors, items.uniform(config.uniform_negatives, generator)])
    expected = items.log_expected
    counts = (len(anchors), config.uniform_negatives)
    recovery = sampled_softmax_loss(
        tokens.outputs.flatten(1, 2),
        vectors(patterns.clean).flatten(1, 2),
        vectors(others.unsqueeze(0)).squeeze(1),
        true_items=patterns.clean[:, :, 0].flatten(),
        other_items=others[:, 0],
        true_log_expected=expected(patterns.clean[:, :, 0].flatten(), *counts),
        other_log_expected=expected(others[:, 0], *counts),
        where=(patterns.missing & patterns.clean[:, :, 0].ge(RESERVED)).flatten(),
        temperature=config.temperature,
    )
    detection = detection_loss(tokens.noise_logits, patterns)
    return DenoisingLoss(recovery + config.detection_weight * detection, recovery, detection)


def sampled_softmax_loss(
    outputs: Float[Tensor, "tables queries width"],
    true: Float[Tensor, "tables queries width"],
    others: Float[Tensor, "tables negatives width"],
    *,
    true_items: Int64[Tensor, "queries"],
    other_items: Int64[Tensor, "negatives"],
    true_log_expected: Float[Tensor, "queries"],
    other_log_expected: Float[Tensor, "negatives"],
    where: Bool[Tensor, "queries"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Cosine softmax of each query over its true event and all negatives, corrected for how both were sampled; the mean
    over the queries of `where`, 0 without any. Negatives that are padding, unknown or the true item do not count.
    """
    queries = F.normalize(outputs, dim=-1) / temperature
    own = (queries * F.normalize(true, dim=-1)).sum(-1) - true_log_expected
    logits = queries @ F.normalize(others, dim=-1).transpose(1, 2) - other_log_expected
    absent = (true_items.unsqueeze(1) == other_items) | (other_items < RESERVED)
    logits = logits.masked_fill(absent, -torch.inf)
    losses = torch.logsumexp(torch.cat([own.unsqueeze(-1), logits], -1), -1) - own
    return (losses * where).sum() / (where.sum() * len(outputs)).clamp(min=1)


def detection_loss(
    noise_logits: Float[Tensor, "tables patterns slots"], patterns: CorruptedPatterns
) -> Float[Tensor, ""]:
    """Binary cross-entropy of "this event is noise" over the events that are shown."""
    noise = patterns.noise.to(noise_logits.dtype).expand_as(noise_logits)
    losses = F.binary_cross_entropy_with_logits(noise_logits, noise, reduction="none")
    shown = patterns.mask & ~patterns.dropped
    return (losses * shown).sum() / (shown.sum() * len(noise_logits)).clamp(min=1)
