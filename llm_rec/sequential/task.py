"""Next-item training: a model, a loss, and only as many item vectors as the loss needs."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llm_rec.errors import ConfigError
from llm_rec.sequential import losses
from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.negatives import NegativesConfig, PositionNegativesConfig, SharedNegativesConfig
from llm_rec.training.task import StepLoss


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


LossConfig = BCEConfig | CrossEntropyConfig | SampledSoftmaxConfig | GBCEConfig


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


class Logits(NamedTuple):
    """Scores of the target and of the negatives of every position."""

    positive: Float[Tensor, "targets"]
    negative: Float[Tensor, "targets number"]


class NextItemTask:
    """Predict the item after every position. A `Task` for the trainer."""

    def __init__(self, model: SequentialModel, loss: LossConfig) -> None:
        self.model = model
        self.config = loss

    @property
    def module(self) -> SequentialModel:
        return self.model

    def loss(self, batch: SequenceBatch) -> StepLoss:
        """Mean loss over the positions of `batch`; `ConfigError` when the batch lacks negatives the loss needs."""
        match self.config:
            case BCEConfig():
                total = losses.bce(*self._logits(batch))
            case GBCEConfig():
                total = losses.gbce(*self._logits(batch), num_items=self.model.num_items, t=self.config.t)
            case SampledSoftmaxConfig():
                total = self._sampled_softmax(self.config, batch)
            case CrossEntropyConfig():
                total = self._cross_entropy(self.config, batch)
            case _:
                assert_never(self.config)
        return StepLoss(total, {"loss": total.detach()}, float(len(batch.targets)))

    def _cross_entropy(self, config: CrossEntropyConfig, batch: SequenceBatch) -> Float[Tensor, ""]:
        table = self.model.items(torch.arange(self.model.num_items + 1, device=batch.history.device))
        states = self._states(F.embedding(batch.history, table), batch)
        return losses.cross_entropy(
            states / config.temperature, self.model.comparable(table), batch.targets, max_logits=config.max_logits
        )

    def _sampled_softmax(self, config: SampledSoftmaxConfig, batch: SequenceBatch) -> Float[Tensor, ""]:
        positive, negative = self._logits(batch, config.temperature)
        negatives = self._negatives(batch)
        pos_log_q, neg_log_q = batch.pos_log_q, batch.neg_log_q
        if config.log_q != "none" and (pos_log_q is None or neg_log_q is None):
            raise ConfigError(
                f"log_q={config.log_q!r} needs log probabilities in the batch; set log_q of the negatives"
            )
        if config.log_q == "negatives" and neg_log_q is not None:
            neg_log_q = neg_log_q + math.log(negatives.shape[-1])
        targets = batch.targets[:, None]
        return losses.sampled_softmax(
            positive,
            negative,
            pos_log_q=pos_log_q if config.log_q == "both" else None,
            neg_log_q=neg_log_q if config.log_q != "none" else None,
            hits=negatives == targets if config.remove_hits else None,
        )

    def _logits(self, batch: SequenceBatch, temperature: float = 1.0) -> Logits:
        """Scores, from one look-up of all item rows the batch names: the parts of an item are computed together."""
        negatives = self._negatives(batch)
        rows = torch.cat([batch.history.flatten(), batch.targets, negatives.flatten()])
        sizes = [batch.history.numel(), batch.targets.numel(), negatives.numel()]
        history, target, negative = torch.split(self.model.items(rows), sizes)
        states = self._states(history.view(*batch.history.shape, -1), batch) / temperature
        positive = (states * self.model.comparable(target)).sum(dim=-1)
        negative = self.model.comparable(negative)
        if negatives.dim() == 1:
            return Logits(losses.at_least_float32(positive), losses.at_least_float32(states @ negative.T))
        per_position = negative.view(*negatives.shape, -1)
        products = (per_position @ states[:, :, None]).squeeze(-1)
        return Logits(losses.at_least_float32(positive), losses.at_least_float32(products))

    def _states(self, vectors: Float[Tensor, "batch length dim"], batch: SequenceBatch) -> Float[Tensor, "targets dim"]:
        states = self.model.states(vectors, batch.history != 0)
        return states.flatten(0, 1).index_select(0, batch.positions)

    def _negatives(self, batch: SequenceBatch) -> Tensor:
        if batch.negatives is None:
            raise ConfigError(
                f"{type(self.config).__name__} needs negatives; build the batches with usual_negatives(loss)"
            )
        return batch.negatives


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
