"""Losses of click models from logits (arXiv 2403.14144), their closed-form gradients, and penalties for ablations."""

from ctr_models.losses.click import (
    BCEConfig,
    ClickLossConfig,
    CrossEntropyConfig,
    JRCConfig,
    ListwiseConfig,
    LossParts,
    PairwiseConfig,
    RegressionCompatibleConfig,
    ShiftedFocalConfig,
    click_logits,
    click_loss,
    effective_positive_rate,
    num_outputs,
    probabilities,
)
from ctr_models.losses.gradients import GradientStats, logit_gradients, negative_gradient_stats
from ctr_models.losses.listwise import jrc_ranking, listwise_softmax, regression_compatible
from ctr_models.losses.pairwise import PairReduction, pairwise_logistic
from ctr_models.losses.pointwise import shifted_focal, weighted_bce
from ctr_models.losses.regularizers import (
    cross_blocks,
    orthogonality,
    singular_value_variance,
    subspace_similarity,
    weight_norm_alignment,
)

__all__ = [
    "BCEConfig",
    "ClickLossConfig",
    "CrossEntropyConfig",
    "GradientStats",
    "JRCConfig",
    "ListwiseConfig",
    "LossParts",
    "PairReduction",
    "PairwiseConfig",
    "RegressionCompatibleConfig",
    "ShiftedFocalConfig",
    "click_logits",
    "click_loss",
    "cross_blocks",
    "effective_positive_rate",
    "jrc_ranking",
    "listwise_softmax",
    "logit_gradients",
    "negative_gradient_stats",
    "num_outputs",
    "orthogonality",
    "pairwise_logistic",
    "probabilities",
    "regression_compatible",
    "shifted_focal",
    "singular_value_variance",
    "subspace_similarity",
    "weight_norm_alignment",
    "weighted_bce",
]
