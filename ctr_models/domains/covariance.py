"""Covariance between experts' outputs, the loss of Crocodile (arXiv 2405.12706): a reconstruction from secondary
sources, since no code of it is public.

    L_cov = (1 / d^2) sum_(p > q) || (O_p - mean O_p)^T (O_q - mean O_q) ||_1

The statistic is that of the rows given: with several processes each has its own unless outputs are gathered first. The
loss falls with the size of outputs too, which a tower can undo, and a dead expert has no covariance: look at the
correlation and the deviation of each expert beside it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ctr_models.losses.lists import at_least_float32

Reduction = Literal["sum", "mean"]


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
        check_decorrelation(self.weight, self.max_rows)


def cross_expert_covariance(
    outputs: Float[Tensor, "experts batch dim"],
    *,
    include_self: bool = False,
    reduction: Reduction = "sum",
    max_rows: int | None = None,
) -> Float[Tensor, ""]:
    """See the module. One product of all experts' outputs side by side gives the blocks of all pairs, in float32 at
    least; "sum" adds up rows, "mean" divides by their number. M independent experts of variance 1 on N rows give about
    M (M - 1) / 2 sqrt(2 N / pi).

    >>> float(cross_expert_covariance(torch.tensor([[[1.0], [3.0]], [[2.0], [0.0]]])))  # 1 pair, -1 * 1 + 1 * -1
    2.0
    """
    values = at_least_float32(outputs[:, :max_rows])
    experts, rows, dim = values.shape
    with torch.autocast(values.device.type, enabled=False):
        centred = values - values.sum(1, keepdim=True) / max(rows, 1)
        side_by_side = centred.transpose(0, 1).reshape(rows, experts * dim)
        blocks = (side_by_side.T @ side_by_side).abs().view(experts, dim, experts, dim).sum((1, 3))
    total = blocks.tril(0 if include_self else -1).sum() / dim**2
    return total / max(rows, 1) if reduction == "mean" else total


def check_decorrelation(weight: float, max_rows: int | None) -> None:
    """Settings that all losses between experts have."""
    if not 0 <= weight < float("inf"):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    if max_rows is not None and max_rows < 2:
        raise ValueError(f"max_rows must be at least 2, got {max_rows}")
