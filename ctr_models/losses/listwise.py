"""Losses over lists: softmax, its regression-compatible form, and the ranking half of JRC. All O(batch)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.losses.lists import at_least_float32, classes_of, lists_of


def listwise_softmax(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    pos_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Softmax cross-entropy with the batch, or each group, as the list (ListNet's top-one form; arXiv 2403.14144):

        L = mean over i in P of -[ s_i - log( w sum_P exp(s) + sum_N exp(s) ) ]

    Scores are free up to a shift, so it calibrates nothing on its own: combine it with `weighted_bce`, or take
    `regression_compatible`, whose two terms want the same scores. With groups the mean is over all positives whose
    group holds a negative; lists of one class add exactly 0 (our choice; the authors' code gives NaN).
    """
    return _over_positives(at_least_float32(logits), labels, groups, pos_weight)


def regression_compatible(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    pos_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """RCR (Bai et al., arXiv 2211.01494), "ListCE" in the code of arXiv 2403.14144: `listwise_softmax` with sigmoid(s)
    in place of exp(s), computed in log space, so that the best scores for ranking are probabilities too.
    """
    return _over_positives(F.logsigmoid(at_least_float32(logits)), labels, groups, pos_weight)


def jrc_ranking(
    logits: Float[Tensor, "batch 2"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    pos_weight: float = 1.0,
) -> Float[Tensor, ""]:
    """Ranking half of joint ranking and calibration (JRC, Sheng et al., arXiv 2208.06164), over logits (z0, z1):

        L = -(1 / B) sum_b w_b log( exp(z_(y_b, b)) / sum_k w_k exp(z_(y_b, k)) ),   k over the list of b

    Columns are z0 (no click) and z1 (click); the prediction is sigmoid(z1 - z0). Lists of one class add exactly 0, our
    choice as above. Prefer it to `listwise_softmax` where calibrated probabilities must come from the same head.
    """
    logits = at_least_float32(logits)
    lists = lists_of(labels, groups)
    classes = classes_of(labels, lists)
    weights = row_weights(classes.positive, pos_weight, logits)
    normaliser = lists.logsumexp(logits + weights.log().unsqueeze(1))
    own = classes.positive.long().unsqueeze(1)
    terms = (normaliser - logits).gather(1, own).squeeze(1)
    return (weights * terms * classes.mixed).sum() / max(len(logits), 1)


def row_weights(positive: Tensor, pos_weight: float, like: Tensor) -> Float[Tensor, "batch"]:
    """`pos_weight` for positives and 1 for negatives."""
    return torch.where(positive, pos_weight, like.new_ones(()))


def _over_positives(
    scores: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None,
    pos_weight: float,
) -> Float[Tensor, ""]:
    lists = lists_of(labels, groups)
    classes = classes_of(labels, lists)
    normaliser = lists.logsumexp(scores + row_weights(classes.positive, pos_weight, scores).log())
    ranked = classes.positive & classes.mixed
    return ((normaliser - scores) * ranked).sum() / ranked.sum().clamp(min=1)
