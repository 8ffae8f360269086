"""Next-item training: a model, a loss, and only as many item vectors as the loss needs."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.objective import (
    BCEConfig,
    CrossEntropyConfig,
    GBCEConfig,
    LossConfig,
    SampledLossConfig,
    SampledSoftmaxConfig,
    catalog_loss,
    negatives_of,
    sampled_loss,
    usual_negatives,
)
from llm_rec.training.task import StepLoss

__all__ = [
    "BCEConfig",
    "CrossEntropyConfig",
    "GBCEConfig",
    "LossConfig",
    "NextItemTask",
    "SampledSoftmaxConfig",
    "usual_negatives",
]


class NextItemTask:
    """Predict the item after every position. A `Task` for the trainer."""

    def __init__(self, model: SequentialModel, loss: LossConfig) -> None:
        self.model = model
        self.config = loss

    @property
    def module(self) -> SequentialModel:
        return self.model

    def loss(self, batch: SequenceBatch) -> StepLoss:
        """Mean loss over the positions of `batch`; `ConfigError` when the batch lacks what the loss needs."""
        if isinstance(self.config, CrossEntropyConfig):
            total = self._against_the_catalog(self.config, batch)
        else:
            total = self._against_negatives(self.config, batch)
        return StepLoss(total, {"loss": total.detach()}, float(len(batch.targets)))

    def _against_the_catalog(self, config: CrossEntropyConfig, batch: SequenceBatch) -> Float[Tensor, ""]:
        table = self.model.step_vectors(torch.arange(self.model.num_items + 1, device=batch.history.device))
        states = self._states(F.embedding(batch.history, table), batch)
        return catalog_loss(config, states, self.model.comparable(table), batch.targets)

    def _against_negatives(self, config: SampledLossConfig, batch: SequenceBatch) -> Float[Tensor, ""]:
        """One look-up of all item rows the batch names: the parts of an item are computed together."""
        negatives = negatives_of(batch, config)
        rows = torch.cat([batch.history.flatten(), batch.targets, negatives.flatten()])
        sizes = [batch.history.numel(), batch.targets.numel(), negatives.numel()]
        history, target, negative = torch.split(self.model.step_vectors(rows), sizes)
        states = self._states(history.view(*batch.history.shape, -1), batch)
        target, negative = self.model.comparable(target), self.model.comparable(negative)
        negative = negative.view(*negatives.shape, -1)
        return sampled_loss(config, states, target, negative, batch, num_items=self.model.num_items)

    def _states(self, vectors: Float[Tensor, "batch length dim"], batch: SequenceBatch) -> Float[Tensor, "targets dim"]:
        states = self.model.states(vectors, batch.history != 0)
        return states.flatten(0, 1).index_select(0, batch.positions)
