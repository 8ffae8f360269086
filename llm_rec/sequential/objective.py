"""What a step minimises: which loss, and that loss of states against the vectors of candidates."""

import math
from dataclasses import dataclass
from typing import Literal, assert_never

from jaxtyping import Float, Int64
from torch import Tensor

from llm_rec.errors import ConfigError
from llm_rec.sequential import losses
from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.negatives import NegativesConfig, PositionNegativesConfig, SharedNegativesConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class BCEConfig:
    """`losses.bce`: SASRec's and PAD's loss with one negative a position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropyConfig:
    """`losses.cross_entropy` over the whole catalog; `max_logits` bounds the memory."""

    temperature: float = 1.0
    max_logits: int = 2**24

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledSoftmaxConfig:
    """`losses.sampled_softmax`. `log_q`: correct no side, both sides, or the negatives alone (with log(k q)).

    `remove_hits` leaves out negatives that equal their position's target.
    """

    temperature: float = 1.0
    log_q: Literal["none", "both", "negatives"] = "none"
    remove_hits: bool = True

    def __post_init__(self) -> None:
        _check_temperature(self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class GBCEConfig:
    """`losses.gbce` with calibration `t`."""

    t: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.t <= 1:
            raise ValueError(f"t must lie in 0..1, got {self.t}")


SampledLossConfig = BCEConfig | SampledSoftmaxConfig | GBCEConfig
LossConfig = SampledLossConfig | CrossEntropyConfig


def usual_negatives(loss: LossConfig) -> NegativesConfig | None:
    """The negatives a loss is usually trained with: one unseen item, none, 256 shared, or 256 a position."""
    match loss:
        case BCEConfig():
            return PositionNegativesConfig(number=1)
        case CrossEntropyConfig():
            return None
        case SampledSoftmaxConfig():
            return SharedNegativesConfig(number=256, log_q=loss.log_q != "none")
        case GBCEConfig():
            return PositionNegativesConfig(number=256, exclude_seen=False)
        case _:
            assert_never(loss)


def catalog_loss(
    config: CrossEntropyConfig,
    states: Float[Tensor, "targets width"],
    table: Float[Tensor, "rows width"],
    targets: Int64[Tensor, "targets"],
) -> Float[Tensor, ""]:
    """The loss of states against every item: `table` has a vector per row, row 0 is padding and no candidate."""
    return losses.cross_entropy(states / config.temperature, table, targets, max_logits=config.max_logits)


def sampled_loss(
    config: SampledLossConfig,
    states: Float[Tensor, "targets width"],
    target: Float[Tensor, "targets width"],
    negative: Float[Tensor, "targets number width"] | Float[Tensor, "number width"],
    batch: SequenceBatch,
    *,
    num_items: int,
) -> Float[Tensor, ""]:
    """The loss of states against the vectors of their targets and of the negatives of `batch`, own or shared.

    Logits are at least float32, whatever mixed precision made of them. Raises `ConfigError` when the loss corrects for
    log probabilities that the batch lacks.
    """
    if isinstance(config, SampledSoftmaxConfig):
        states = states / config.temperature
    positive = losses.at_least_float32((states * target).sum(dim=-1))
    if isinstance(config, SampledSoftmaxConfig) and negative.dim() == 2:
        return _shared_softmax(config, states, positive, negative, batch)
    products = states @ negative.T if negative.dim() == 2 else (negative @ states[:, :, None]).squeeze(-1)
    logits = losses.at_least_float32(products)
    match config:
        case BCEConfig():
            return losses.bce(positive, logits)
        case GBCEConfig():
            return losses.gbce(positive, logits, num_items=num_items, t=config.t)
        case SampledSoftmaxConfig():
            return _sampled_softmax(config, positive, logits, batch)
        case _:
            assert_never(config)


def negatives_of(
    batch: SequenceBatch, config: SampledLossConfig
) -> Int64[Tensor, "targets number"] | Int64[Tensor, "number"]:
    """The negatives of `batch`; `ConfigError` when it has none."""
    if batch.negatives is None:
        raise ConfigError(f"{type(config).__name__} needs negatives; build the batches with usual_negatives(loss)")
    return batch.negatives


def _sampled_softmax(
    config: SampledSoftmaxConfig,
    positive: Float[Tensor, "targets"],
    negative: Float[Tensor, "targets number"],
    batch: SequenceBatch,
) -> Float[Tensor, ""]:
    pos_log_q, neg_log_q = _corrections(config, batch)
    hits = negatives_of(batch, config) == batch.targets[:, None] if config.remove_hits else None
    return losses.sampled_softmax(positive, negative, pos_log_q=pos_log_q, neg_log_q=neg_log_q, hits=hits)


def _shared_softmax(
    config: SampledSoftmaxConfig,
    states: Float[Tensor, "targets width"],
    positive: Float[Tensor, "targets"],
    negative: Float[Tensor, "number width"],
    batch: SequenceBatch,
) -> Float[Tensor, ""]:
    pos_log_q, neg_log_q = _corrections(config, batch)
    return losses.shared_softmax(
        states,
        positive,
        negative,
        pos_log_q=pos_log_q,
        neg_log_q=neg_log_q,
        target_ids=batch.targets if config.remove_hits else None,
        negative_ids=negatives_of(batch, config) if config.remove_hits else None,
    )


def _corrections(config: SampledSoftmaxConfig, batch: SequenceBatch) -> tuple[Tensor | None, Tensor | None]:
    """Log probabilities of targets and of negatives to subtract, each None where none is."""
    if config.log_q == "none":
        return None, None
    if batch.pos_log_q is None or batch.neg_log_q is None:
        raise ConfigError(f"log_q={config.log_q!r} needs log probabilities in the batch; set log_q of the negatives")
    if config.log_q == "both":
        return batch.pos_log_q, batch.neg_log_q
    return None, batch.neg_log_q + math.log(negatives_of(batch, config).shape[-1])


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
