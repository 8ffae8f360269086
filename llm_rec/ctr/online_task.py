"""A click model as a task of one-pass training: `llm_rec.training.online` asks it before it tells it."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from ctr_models.batch import FeatureBatch
from ctr_models.losses import BCEConfig, ClickLossConfig, CrossEntropyConfig, click_logits, click_loss
from ctr_models.model import CTRModel
from llm_rec.errors import ConfigError
from llm_rec.training.task import StepLoss


class OnlineClickTask:
    """One label (its number `label`) and the click loss alone: no penalty, no auxiliary head.

    Row weights multiply the terms of a pointwise loss, whose sum is divided by the rows, so that weights below 1 make
    the step smaller too. Weights that depend on the label shift probabilities: correct them before bids.
    """

    def __init__(self, model: CTRModel, loss: ClickLossConfig, *, label: int = 0) -> None:
        self.model, self.config, self.label = model, loss, label

    @property
    def module(self) -> nn.Module:
        return self.model

    def predict(self, batch: FeatureBatch) -> Float[Tensor, "batch"]:
        return click_logits(self.config, self.model(batch))

    def labels(self, batch: FeatureBatch) -> Float[Tensor, "batch"]:
        return batch.labels[:, self.label]

    def loss(self, batch: FeatureBatch, weights: Float[Tensor, "batch"] | None = None) -> StepLoss:
        """`ConfigError` for weights with a ranking loss: a pair has no weight of a row."""
        logits, labels = self.model(batch), self.labels(batch)
        if weights is None:
            return StepLoss(click_loss(self.config, logits, labels, batch.groups).total, {}, float(len(batch)))
        if not isinstance(self.config, BCEConfig | CrossEntropyConfig):
            raise ConfigError(f"row weights need BCE or cross-entropy, and the loss is {type(self.config).__name__}")
        score = click_logits(self.config, logits)
        terms = self.config.pos_weight * labels * softplus(-score) + (1 - labels) * softplus(score)
        return StepLoss((weights * terms).sum() / max(len(terms), 1), {}, float(len(batch)))
