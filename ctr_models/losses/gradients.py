"""Gradients of the click losses with respect to the logits, in closed form: nothing is retained or differentiated.

They make the claim of arXiv 2403.14144 measurable at every step: with sparse positives the gradient that BCE sends to a
negative, sigmoid(s) / B, vanishes, and a ranking term restores it.
"""

from typing import NamedTuple, assert_never

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.losses.click import (
    BCEConfig,
    ClickLossConfig,
    CrossEntropyConfig,
    JRCConfig,
    ListwiseConfig,
    PairwiseConfig,
    RegressionCompatibleConfig,
    ShiftedFocalConfig,
    click_logits,
)
from ctr_models.losses.lists import at_least_float32, classes_of, lists_of
from ctr_models.losses.listwise import row_weights
from ctr_models.losses.pairwise import pair_terms


class GradientStats(NamedTuple):
    """Absolute gradients at the negatives of a batch: mean, and three percentiles; `positive_mean` for comparison.

    Zero where the class is missing. Of two logits they are those of the click logit z1.
    """

    mean: Float[Tensor, ""]
    p10: Float[Tensor, ""]
    p50: Float[Tensor, ""]
    p90: Float[Tensor, ""]
    positive_mean: Float[Tensor, ""]


@torch.no_grad()
def negative_gradient_stats(
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    loss: ClickLossConfig,
    groups: Int64[Tensor, "batch"] | None = None,
) -> GradientStats:
    """Mean and percentiles of |dL/ds| over negatives. No host sync; tensors stay on their device.

    >>> zeros, labels = torch.zeros(4, 1), torch.tensor([1.0, 0.0, 0.0, 0.0])
    >>> round(negative_gradient_stats(zeros, labels, BCEConfig()).mean.item(), 4)  # 0.5 / 4
    0.125
    """
    size = logit_gradients(logits, labels, loss, groups)[:, -1].abs()
    positive = labels > 0.5
    number = (~positive).sum()
    ordered = torch.where(positive, torch.inf, size).sort().values  # negatives first
    places = torch.tensor([0.1, 0.5, 0.9], dtype=size.dtype, device=size.device) * (number - 1).clamp(min=0)
    below, above = ordered[places.floor().long()], ordered[places.ceil().long()]
    found = torch.lerp(below, above, places.frac()).where(number > 0, 0.0)
    return GradientStats(
        mean=(size * ~positive).sum() / number.clamp(min=1),
        p10=found[0],
        p50=found[1],
        p90=found[2],
        positive_mean=(size * positive).sum() / positive.sum().clamp(min=1),
    )


@torch.no_grad()
def logit_gradients(
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    loss: ClickLossConfig,
    groups: Int64[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch outputs"]:
    """d total / d logits of `click_loss`, closed form. Labels are 0 or 1 (those of BCE may be soft)."""
    logits = at_least_float32(logits)
    labels = labels.to(logits.dtype)
    score = click_logits(loss, logits)
    match loss:
        case BCEConfig():
            return _bce(score, labels, loss.pos_weight).unsqueeze(1)
        case CrossEntropyConfig():
            slope = _bce(score, labels, loss.pos_weight)
            return torch.stack([-slope, slope], dim=1)
        case ShiftedFocalConfig():
            return _focal(score, labels, loss.gamma, loss.pos_weight).unsqueeze(1)
        case PairwiseConfig():
            scaled = score / loss.temperature
            ranking = pair_terms(scaled, labels, groups, loss.pair_reduction, loss.tile).gradient / loss.temperature
        case ListwiseConfig():
            ranking = _over_positives(score, labels, groups, loss.pos_weight)
        case RegressionCompatibleConfig():
            log_probability = F.logsigmoid(score)
            slope = torch.sigmoid(-score)  # d logsigmoid(s) / ds
            ranking = slope * _over_positives(log_probability, labels, groups, loss.pos_weight)
        case JRCConfig():
            calibration = _bce(score, labels, loss.pos_weight)
            ranked = _jrc(logits, labels, groups, loss.pos_weight)
            return loss.alpha * torch.stack([-calibration, calibration], dim=1) + (1 - loss.alpha) * ranked
        case _:
            assert_never(loss)
    return (loss.alpha * _bce(score, labels, loss.pos_weight) + (1 - loss.alpha) * ranking).unsqueeze(1)


def _bce(score: Float[Tensor, "batch"], labels: Float[Tensor, "batch"], pos_weight: float) -> Float[Tensor, "batch"]:
    """Negative: sigmoid(s) / B; positive: -w sigmoid(-s) / B."""
    return ((1 - labels) * torch.sigmoid(score) - pos_weight * labels * torch.sigmoid(-score)) / max(len(score), 1)


def _focal(
    score: Float[Tensor, "batch"], labels: Float[Tensor, "batch"], gamma: float, pos_weight: float
) -> Float[Tensor, "batch"]:
    """Negative: [u p + g p^g (1 - p) (l - mean l)] / B with u its weight and l its cross-entropy; positive:
    -w (1 - p)^g [(1 - p) + g p l] / B.
    """
    positive, _, negatives = classes_of(labels, lists_of(labels, None))
    hits, misses = F.logsigmoid(score), F.logsigmoid(-score)
    p, q = torch.sigmoid(score), torch.sigmoid(-score)
    easy, hard = (gamma * hits).exp(), (gamma * misses).exp()
    number = negatives.clamp(min=1)
    shift = 1 - (easy * ~positive).sum() / number
    spread = (misses * ~positive).sum() / number - misses  # l - mean l
    negative = (easy + shift) * p + gamma * easy * q * spread
    return torch.where(positive, -pos_weight * hard * (q - gamma * p * hits), negative) / max(len(score), 1)


def _over_positives(
    scores: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None,
    pos_weight: float,
) -> Float[Tensor, "batch"]:
    """Share of a list's positives among all, times w softmax, minus 1 / |P| at positives; 0 in lists of one class."""
    lists = lists_of(labels, groups)
    classes = classes_of(labels, lists)
    weighted = scores + row_weights(classes.positive, pos_weight, scores).log()
    softmax = (weighted - lists.logsumexp(weighted)).exp()
    number = (classes.positive & classes.mixed).sum().clamp(min=1)
    return (classes.positives * softmax - classes.positive.to(softmax.dtype)) * classes.mixed / number


def _jrc(
    logits: Float[Tensor, "batch 2"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None,
    pos_weight: float,
) -> Float[Tensor, "batch 2"]:
    """( w_b softmax_b(z_c) * weight mass of class c in the list - w_b [y_b = c] ) / B, for c = 0, 1."""
    lists = lists_of(labels, groups)
    classes = classes_of(labels, lists)
    weights = row_weights(classes.positive, pos_weight, logits)
    weighted = logits + weights.log().unsqueeze(1)
    softmax = (weighted - lists.logsumexp(weighted)).exp()
    mass = torch.stack([classes.negatives, pos_weight * classes.positives], dim=1)
    own = weights.unsqueeze(1) * torch.stack([~classes.positive, classes.positive], dim=1)
    return (mass * softmax - own) * classes.mixed.unsqueeze(1) / max(len(logits), 1)
