"""The last layer of a trained click model as a Bayesian one: what its linear heads read is the feature vector.

Only the weights of linear heads and the bias are uncertain; tables, layers, first-order weights and towers without a
linear head are taken as known. So an id that training saw once is not uncertain by itself: its vector is what it is.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.losses import ClickLossConfig, click_logits
from ctr_models.model import CTRModel
from llm_rec.errors import ConfigError, DataError
from llm_rec.exploration.posterior import LastLayerPosterior, LogitBeliefs, PosteriorConfig


class LastLayer(NamedTuple):
    """Log odds of a click, and the features they are affine in: what the heads read, and a 1 for the bias."""

    logits: Float64[Tensor, "batch"]
    features: Float64[Tensor, "batch features"]


def read_last_layer(model: CTRModel, loss: ClickLossConfig, batch: FeatureBatch) -> LastLayer:
    """One pass in evaluation mode, without gradients; the model's mode is as it was afterwards.

    Of two outputs the log odds are their difference, which is affine in the same features. `ConfigError` for a model
    without a linear head.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = model.last_hidden(batch)
    except ValueError as error:
        raise ConfigError(f"no uncertainty of this model: {error}") from error
    finally:
        model.train(training)
    vectors = found.vectors.double()
    features = torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)
    return LastLayer(click_logits(loss, found.logits).double(), features)


def fit_posterior(
    model: CTRModel, loss: ClickLossConfig, batches: Iterable[FeatureBatch], config: PosteriorConfig
) -> LastLayerPosterior:
    """The posterior at the trained weights, of the rows that they were trained on: one pass over `batches`, which lie
    on the model's device. With a decay every batch is a tick. Labels are not read.
    """
    posterior: LastLayerPosterior | None = None
    for batch in batches:
        found = read_last_layer(model, loss, batch)
        if posterior is None:
            posterior = LastLayerPosterior(config, found.features.shape[1], device=found.features.device)
        posterior.update(found.features, torch.sigmoid(found.logits))
    if posterior is None:
        raise DataError("a posterior needs the rows that the model was trained on, and there is no batch")
    return posterior


def click_beliefs(
    model: CTRModel, loss: ClickLossConfig, posterior: LastLayerPosterior, batch: FeatureBatch
) -> LogitBeliefs:
    """What the model believes of every row of `batch`: one axis, the rows."""
    found = read_last_layer(model, loss, batch)
    return posterior.beliefs(found.logits, found.features)


def in_rounds(beliefs: LogitBeliefs, actions: int) -> LogitBeliefs:
    """Beliefs of rows as rounds of `actions` rows each, which follow one another; `DataError` for a last round with
    fewer.
    """
    rows = len(beliefs.mean)
    if rows % actions:
        raise DataError(f"{rows} rows are no rounds of {actions} actions each")
    root = None if beliefs.root is None else beliefs.root.reshape(rows // actions, actions, -1)
    return LogitBeliefs(beliefs.mean.reshape(-1, actions), beliefs.std.reshape(-1, actions), root)
