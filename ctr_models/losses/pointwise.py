"""Losses of one row at a time: weighted binary cross-entropy and the shifted focal loss."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ctr_models.losses.lists import at_least_float32, classes_of, lists_of


def weighted_bce(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    *,
    pos_weight: float = 1.0,
    weights: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy from logits, positives weighted, divided by the number of rows (arXiv 2403.14144):

        L = (1 / B) sum_b [ w y softplus(-s) + (1 - y) softplus(s) ]

    `weights` multiply the terms of their rows. It divides by B and not by the sum of weights, so w < 1 also lowers the
    loss as a whole. Labels may be soft. Its gradient at a negative, sigmoid(s) / B, vanishes with the positive rate:
    add a ranking term where positives are sparse. An empty batch gives 0.
    """
    logits, labels = at_least_float32(logits), at_least_float32(labels)
    terms = pos_weight * labels * F.softplus(-logits, threshold=40) + (1 - labels) * F.softplus(logits, threshold=40)
    return _mean(terms, weights)


def shifted_focal(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    *,
    gamma: float,
    pos_weight: float = 1.0,
    weights: Float[Tensor, "batch"] | None = None,
) -> Float[Tensor, ""]:
    """The focal variant of arXiv 2403.14144 (its code), where the mean weight of negatives stays 1:

        positives: (1 - p)^gamma * w * bce,   negatives: [ p^gamma + (1 - mean_N p^gamma) ] * bce,   summed over B

    It moves gradient from easy to hard negatives without making it smaller. This is not the standard focal loss (Lin et
    al., 2017), whose negatives weigh p^gamma alone. Weights are differentiated too, as in the authors' code. gamma = 0
    is `weighted_bce`. A batch of one class is fine. Labels are 0 or 1. `weights` multiply the terms of their rows (our
    addition); the mean over negatives counts every row once.
    """
    logits, labels = at_least_float32(logits), at_least_float32(labels)
    positive, _, negatives = classes_of(labels, lists_of(labels, None))
    hits, misses = F.logsigmoid(logits), F.logsigmoid(-logits)
    easy = (gamma * hits).exp() * ~positive
    shift = 1 - easy.sum() / negatives.clamp(min=1)
    terms = -(pos_weight * (gamma * misses).exp() * hits * positive + (easy + shift) * misses * ~positive)
    return _mean(terms, weights)


def _mean(terms: Float[Tensor, "batch"], weights: Float[Tensor, "batch"] | None) -> Float[Tensor, ""]:
    weighted = terms if weights is None else terms * weights
    return weighted.sum() / max(len(terms), 1)
