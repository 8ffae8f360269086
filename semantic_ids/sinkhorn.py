"""Balanced soft assignment (Cuturi, 2013), in the log domain, for many small groups of rows at once."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def sinkhorn(
    costs: Float[Tensor, "rows codes"], *, epsilon: float = 0.003, iterations: int = 50
) -> Float[Tensor, "rows codes"]:
    """Transport plan exp(-costs / epsilon) scaled so that rows sum to 1 and columns to rows / codes.

    Costs should be of order one (`centred_costs`). The last scaling is that of the rows, so rows sum to 1 exactly.

    >>> plan = sinkhorn(torch.tensor([[0.0, 1.0], [0.0, 0.5]]), epsilon=0.1)
    >>> plan.argmax(1).tolist()   # both like code 0; the row that loses least moves
    [0, 1]
    """
    groups = torch.zeros(len(costs), dtype=torch.int64, device=costs.device)
    return grouped_sinkhorn(costs, groups, 1, epsilon=epsilon, iterations=iterations)


def grouped_sinkhorn(
    costs: Float[Tensor, "rows codes"],
    groups: Int64[Tensor, " rows"],
    num_groups: int,
    *,
    epsilon: float = 0.003,
    iterations: int = 50,
) -> Float[Tensor, "rows codes"]:
    """`sinkhorn` of every group of rows by itself, all groups in one pass of segment sums."""
    if epsilon <= 0:
        raise ValueError(f"epsilon must be positive, got {epsilon}")
    kernel = -costs.double() / epsilon
    sizes = torch.bincount(groups, minlength=num_groups).clamp_min(1).double()
    column_target = (sizes / costs.shape[1]).log().unsqueeze(1)
    columns = torch.zeros(num_groups, costs.shape[1], dtype=torch.float64, device=costs.device)
    scaled = kernel
    for _ in range(iterations):
        rows = scaled.logsumexp(1, keepdim=True)
        columns = column_target - _segment_logsumexp(kernel - rows, groups, num_groups)
        scaled = kernel + columns[groups]
    return torch.softmax(scaled, 1).to(costs.dtype)


def centred_costs(
    costs: Float[Tensor, "rows codes"], groups: Int64[Tensor, " rows"], num_groups: int
) -> Float[Tensor, "rows codes"]:
    """Costs of each group moved and scaled into [-1, 1], as LC-Rec does before Sinkhorn."""
    low = torch.full((num_groups,), math.inf, dtype=costs.dtype, device=costs.device)
    low = low.scatter_reduce(0, groups, costs.amin(1), "amin")
    high = torch.full((num_groups,), -math.inf, dtype=costs.dtype, device=costs.device)
    high = high.scatter_reduce(0, groups, costs.amax(1), "amax")
    middle = (low + high) / 2
    return (costs - middle[groups].unsqueeze(1)) / (high - middle + 1e-5)[groups].unsqueeze(1)


def _segment_logsumexp(values: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    index = groups.unsqueeze(1).expand_as(values)
    peak = torch.full((num_groups, values.shape[1]), -math.inf, dtype=values.dtype, device=values.device)
    peak = peak.scatter_reduce(0, index, values, "amax")
    total = torch.zeros_like(peak).scatter_add_(0, index, (values - peak[groups]).exp())
    return peak + total.log()
