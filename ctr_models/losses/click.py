"""The loss of a click model as one setting: a pointwise term, alone or mixed with a ranking term.

    total = alpha * pointwise + (1 - alpha) * ranking          alpha is always on the pointwise term

Where sparse positives starve negatives of gradient, the ranking term restores it (arXiv 2403.14144). What `pos_weight`
means follows the code of that paper, and differs by loss:

| loss | pointwise term | ranking term |
|---|---|---|
| BCE | weights positives, divided by the batch | - |
| cross-entropy of two logits | the same, of z1 - z0 | - |
| shifted focal | the same, times the focal weight | - |
| pairwise | the same as BCE | ignored |
| listwise, regression compatible | the same as BCE | inside the logarithm, on positives |
| JRC | cross-entropy of two logits, weighted | inside the logarithm and on every row |

A weight other than 1 shifts predicted probabilities by design: judge them by a weighted log loss. The paper also names
a contrastive combination; its details are not published, so there is none here.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.losses.listwise import jrc_ranking, listwise_softmax, regression_compatible
from ctr_models.losses.pairwise import PairReduction, pairwise_logistic
from ctr_models.losses.pointwise import shifted_focal, weighted_bce


@dataclass(frozen=True, kw_only=True, slots=True)
class BCEConfig:
    """`weighted_bce` alone."""

    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropyConfig:
    """Softmax cross-entropy of two logits (no click, click): `weighted_bce` of z1 - z0, as DIN, TWIN and DARE have it.
    It is `JRCConfig` with alpha 1, without the ranking term's work. A model with two outputs is trained otherwise than
    one with one: the difference moves twice as fast. The model must have two outputs: `num_outputs`.
    """

    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShiftedFocalConfig:
    """`shifted_focal` alone. The authors search gamma in 1..9; 6 was best at the sparsest setting."""

    gamma: float = 2.0
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight)
        if not 0 <= self.gamma < float("inf"):
            raise ValueError(f"gamma must be finite and not negative, got {self.gamma}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseConfig:
    """BCE and `pairwise_logistic`: Combined-Pair. `tile`: positives at a time, None for what suits the device."""

    alpha: float = 0.5
    pos_weight: float = 1.0
    pair_reduction: PairReduction = "pairs"
    temperature: float = 1.0
    tile: int | None = None

    def __post_init__(self) -> None:
        _check(self.pos_weight, self.alpha)
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")
        if self.tile is not None and self.tile < 1:
            raise ValueError(f"tile must be at least 1, got {self.tile}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListwiseConfig:
    """BCE and `listwise_softmax`: Combined-List."""

    alpha: float = 0.5
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight, self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressionCompatibleConfig:
    """BCE and `regression_compatible`: RCR."""

    alpha: float = 0.5
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight, self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class JRCConfig:
    """Cross-entropy of two logits and `jrc_ranking`. The model must have two outputs: `num_outputs`."""

    alpha: float = 0.5
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.pos_weight, self.alpha)


ClickLossConfig: TypeAlias = (
    BCEConfig
    | CrossEntropyConfig
    | ShiftedFocalConfig
    | PairwiseConfig
    | ListwiseConfig
    | RegressionCompatibleConfig
    | JRCConfig
)


class LossParts(NamedTuple):
    """What to minimise, and its two terms before mixing. A loss without ranking term has `ranking` 0."""

    total: Float[Tensor, ""]
    pointwise: Float[Tensor, ""]
    ranking: Float[Tensor, ""]


def click_loss(
    config: ClickLossConfig,
    logits: Float[Tensor, "batch outputs"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None = None,
    weights: Float[Tensor, "batch"] | None = None,
) -> LossParts:
    """Loss of one label. `groups` restricts ranking to rows of one group; None ranks the batch, as the paper does.

    `weights` of the rows multiply the pointwise term; ranking terms take all rows alike.

    `logits` has `num_outputs(config)` columns. With `alpha` 1 the total is exactly the pointwise term, with 0
    exactly the ranking term. Raises `ValueError` for another number of columns.
    """
    score = click_logits(config, logits)
    match config:
        case BCEConfig() | CrossEntropyConfig():
            return _alone(weighted_bce(score, labels, pos_weight=config.pos_weight, weights=weights))
        case ShiftedFocalConfig():
            focal = shifted_focal(score, labels, gamma=config.gamma, pos_weight=config.pos_weight, weights=weights)
            return _alone(focal)
        case PairwiseConfig():
            ranking = pairwise_logistic(
                score,
                labels,
                groups,
                pair_reduction=config.pair_reduction,
                temperature=config.temperature,
                tile=config.tile,
            )
        case ListwiseConfig():
            ranking = listwise_softmax(score, labels, groups, pos_weight=config.pos_weight)
        case RegressionCompatibleConfig():
            ranking = regression_compatible(score, labels, groups, pos_weight=config.pos_weight)
        case JRCConfig():
            ranking = jrc_ranking(logits, labels, groups, pos_weight=config.pos_weight)
        case _:
            assert_never(config)
    pointwise = weighted_bce(score, labels, pos_weight=config.pos_weight, weights=weights)
    return _combined(pointwise, ranking, config.alpha)


def num_outputs(config: ClickLossConfig) -> int:
    """Logits a row that a loss asks of the model: 2 for JRC and the cross-entropy of two logits, else 1."""
    return 2 if isinstance(config, JRCConfig | CrossEntropyConfig) else 1


def check_outputs(config: ClickLossConfig, logits: Float[Tensor, "batch outputs"]) -> None:
    """Raises `ValueError` unless there are `num_outputs(config)` columns."""
    if logits.shape[1] != num_outputs(config):
        raise ValueError(
            f"{type(config).__name__} needs {num_outputs(config)} logits a row, got {logits.shape[1]}; "
            "build the model with num_outputs(loss)"
        )


def probabilities(config: ClickLossConfig, logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch"]:
    """Predicted click probability: sigmoid(s), and sigmoid(z1 - z0) of two logits. The same errors as `click_loss`.

    >>> probabilities(JRCConfig(), torch.tensor([[1.0, 1.0]])).tolist()
    [0.5]
    """
    return torch.sigmoid(click_logits(config, logits))


def click_logits(config: ClickLossConfig, logits: Float[Tensor, "batch outputs"]) -> Float[Tensor, "batch"]:
    """The log odds of a click, one a row: what AUC and log loss are computed from. z1 - z0 of two."""
    check_outputs(config, logits)
    return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]


def effective_positive_rate(positive_rate: float, pos_weight: float) -> float:
    """Share of positives in the weighted data: w r / (w r + 1 - r), the sparsity that down-weighting simulates.

    >>> round(effective_positive_rate(0.25623, 0.1), 4)  # Criteo, the sparsest setting of arXiv 2403.14144
    0.0333
    """
    return pos_weight * positive_rate / (pos_weight * positive_rate + 1 - positive_rate)


def _alone(loss: Float[Tensor, ""]) -> LossParts:
    return LossParts(loss, loss, torch.zeros_like(loss))


def _combined(pointwise: Float[Tensor, ""], ranking: Float[Tensor, ""], alpha: float) -> LossParts:
    return LossParts(alpha * pointwise + (1 - alpha) * ranking, pointwise, ranking)


def _check(pos_weight: float, alpha: float = 0.0) -> None:
    if not 0 < pos_weight < float("inf"):
        raise ValueError(f"pos_weight must be finite and above 0, got {pos_weight}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in 0..1, got {alpha}")
