"""How different experts are, by measures with established definitions.

The "Diversity Index" of the Crocodile paper has no published formula and is not here.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SMALL = 1e-12


class ExpertDiagnostics(NamedTuple):
    """`std`: of each expert's numbers over rows, averaged over dimensions (a dead expert has 0, and covariance 0 with
    any other); `correlation`: see `mean_absolute_correlation`; `cka`: see `linear_cka`.
    """

    std: Float[Tensor, "experts"]
    correlation: Float[Tensor, ""]
    cka: Float[Tensor, "experts experts"]


@torch.no_grad()
def expert_diagnostics(outputs: Float[Tensor, "experts batch dim"]) -> ExpertDiagnostics:
    """Of expert outputs on one batch, in float64."""
    values = outputs.double()
    std = values.std(1, unbiased=False).mean(1)
    return ExpertDiagnostics(std, mean_absolute_correlation(values), linear_cka(values))


def mean_absolute_correlation(outputs: Float[Tensor, "experts batch dim"]) -> Float[Tensor, ""]:
    """Mean over pairs of experts p > q and of their dimensions of |Pearson's r| over rows; a constant dimension has 0
    with any other. One expert gives 0.
    """
    centred = outputs - outputs.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=SMALL)
    experts, _, dim = unit.shape
    first, second = torch.tril_indices(experts, experts, -1, device=unit.device)
    correlations = torch.einsum("pbi,pbj->pij", unit[first], unit[second]).abs()
    mean: Tensor = correlations.sum() / max(len(first) * dim**2, 1)
    return mean


def linear_cka(outputs: Float[Tensor, "experts batch dim"]) -> Float[Tensor, "experts experts"]:
    """Linear centred kernel alignment (Kornblith et al., ICML 2019) of every pair: ||X^T Y||_F^2 / (||X^T X||_F
    ||Y^T Y||_F), 1 for outputs equal up to rotation and scale.
    """
    centred = outputs - outputs.mean(1, keepdim=True)
    products = torch.einsum("pbi,qbj->pqij", centred, centred).square().sum((2, 3))
    own = products.diagonal().sqrt()
    alignment: Tensor = products / (own[:, None] * own).clamp(min=SMALL)
    return alignment


def effective_experts(weights: Float[Tensor, "*shape experts"]) -> Float[Tensor, "*shape"]:
    """exp(entropy) of gate weights that sum to 1: from 1, all weight on one expert, to their number.

    >>> effective_experts(torch.tensor([0.5, 0.5, 0.0])).item()
    2.0
    """
    number: Tensor = torch.special.entr(weights).sum(-1).exp()
    return number
