"""Losses that keep experts apart, from their outputs; the covariance loss of Crocodile (arXiv 2405.12706) is a
reconstruction from secondary sources, since no code of it is public.

    L_cov = (1 / d^2) sum_(p > q) || (O_p - mean O_p)^T (O_q - mean O_q) ||_1

The statistic is that of the rows given: with several processes each has its own unless outputs are gathered first. The
loss falls with the size of outputs too, which a tower can undo: look at `mean_absolute_correlation` and the deviation
of each expert beside it (`ctr_models.domains.diagnostics`).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from ctr_models.losses.lists import at_least_float32

Reduction = Literal["sum", "mean"]
Similarity = Literal["dot", "cosine", "distance_correlation"]
SMALL = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class CovarianceConfig:
    """`weight` is the paper's alpha, from 2e-5 on, for the sum over rows that it prints; for "mean" it is as much times
    the rows of a batch. `include_self`: pairs p = q too, as one print of the formula has it. `max_rows`: the first rows
    of a batch alone. Fewer rows give a larger loss a row, most of it noise, so the weight must be found anew.
    """

    weight: float = 2e-5
    include_self: bool = False
    reduction: Reduction = "sum"
    max_rows: int | None = None

    def __post_init__(self) -> None:
        _check(self.weight, self.max_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class SimilarityConfig:
    """Losses that the paper compares with, which it names alone: the definitions here are our choice
    (`pairwise_similarity`). Distance correlation needs a rows x rows matrix an expert: set `max_rows`.
    """

    measure: Similarity = "cosine"
    weight: float = 1e-3
    max_rows: int | None = None

    def __post_init__(self) -> None:
        _check(self.weight, self.max_rows)


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


def cross_expert_covariance(
    outputs: Float[Tensor, "experts batch dim"],
    *,
    include_self: bool = False,
    reduction: Reduction = "sum",
    max_rows: int | None = None,
) -> Float[Tensor, ""]:
    """See the module. One product of all experts' outputs side by side gives the blocks of all pairs, in float32 at
    least; "sum" adds up rows, "mean" divides by their number. Independent experts of variance 1 give about
    M (M - 1) / 2 sqrt(2 N / pi).
    """
    centred = _centred(outputs[:, :max_rows])
    experts, rows, dim = centred.shape
    with torch.autocast(centred.device.type, enabled=False):
        side_by_side = centred.transpose(0, 1).reshape(rows, experts * dim)
        blocks = (side_by_side.T @ side_by_side).abs().view(experts, dim, experts, dim).sum((1, 3))
    total = blocks.tril(0 if include_self else -1).sum() / dim**2
    return total / max(rows, 1) if reduction == "mean" else total


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


def _centred(outputs: Float[Tensor, "experts batch dim"]) -> Float[Tensor, "experts batch dim"]:
    values = at_least_float32(outputs)
    return values - values.mean(1, keepdim=True) if values.shape[1] else values


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


def _check(weight: float, max_rows: int | None) -> None:
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    if max_rows is not None and max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows}")
