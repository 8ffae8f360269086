"""Losses that keep experts apart, from their outputs: Crocodile's covariance and those that its paper compares with."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ctr_models.domains.covariance import CovarianceConfig, check_decorrelation, cross_expert_covariance
from ctr_models.losses.lists import at_least_float32

Similarity = Literal["dot", "cosine", "distance_correlation"]
SMALL = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityConfig:
    """Losses that the paper compares with, which it names alone: the definitions here are our choice
    (`pairwise_similarity`). Distance correlation needs a rows x rows matrix an expert: set `max_rows`.
    """

    measure: Similarity = "cosine"
    weight: float = 1e-3
    max_rows: int | None = None

    def __post_init__(self) -> None:
        check_decorrelation(self.weight, self.max_rows)


DecorrelationConfig: TypeAlias = CovarianceConfig | SimilarityConfig


def decorrelation(config: DecorrelationConfig, outputs: Float[Tensor, "experts batch dim"]) -> Float[Tensor, ""]:
    """The loss of `config`, weighted."""
    match config:
        case CovarianceConfig():
            return config.weight * cross_expert_covariance(
                outputs, include_self=config.include_self, reduction=config.reduction, max_rows=config.max_rows
            )
        case SimilarityConfig():
            return config.weight * pairwise_similarity(outputs, config.measure, max_rows=config.max_rows)
        case _:
            assert_never(config)


def pairwise_similarity(
    outputs: Float[Tensor, "experts batch dim"], measure: Similarity, *, max_rows: int | None = None
) -> Float[Tensor, ""]:
    """Summed over pairs of experts (our definitions): the mean over rows of |O_p . O_q| / dim or of |cos(O_p, O_q)|, or
    the distance correlation (Szekely et al., 2007) of the two over rows. No row, or an expert that is constant over
    rows, gives 0.
    """
    values = at_least_float32(outputs[:, :max_rows])
    first, second = torch.tril_indices(len(values), len(values), -1, device=values.device)
    match measure:
        case "dot":
            return _mean_product(values, first, second) / values.shape[2]
        case "cosine":
            unit = values / values.norm(dim=2, keepdim=True).clamp(min=SMALL)
            return _mean_product(unit, first, second)
        case "distance_correlation":
            distances = _centred_distances(values)
            products = torch.einsum("pij,qij->pq", distances, distances).clamp(min=0)
            own = products.diagonal()
            scale = (own[first] * own[second]).clamp(min=SMALL).sqrt()
            return (products[first, second].clamp(min=SMALL) / scale.clamp(min=SMALL)).sqrt().sum()
        case _:
            assert_never(measure)


def _mean_product(values: Tensor, first: Tensor, second: Tensor) -> Float[Tensor, ""]:
    products = (values[first] * values[second]).sum(2).abs()
    return products.sum() / max(values.shape[1], 1)


def _centred_distances(values: Float[Tensor, "experts batch dim"]) -> Float[Tensor, "experts batch batch"]:
    """Distances between rows, less their means of rows and columns, plus the mean of all. The root is taken away from
    0, where it has no gradient.
    """
    squares = (values.unsqueeze(2) - values.unsqueeze(1)).square().sum(3)
    apart = squares > 0
    distances = torch.where(apart, squares.where(apart, 1.0).sqrt(), 0.0)
    over_rows = distances.mean(2, keepdim=True)
    return distances - over_rows - over_rows.transpose(1, 2) + over_rows.mean(1, keepdim=True)
