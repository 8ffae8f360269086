"""Top-k attention one row at a time, by the equations, in whatever precision its inputs have."""

from typing import NamedTuple

import torch
from torch import Tensor


class Problem(NamedTuple):
    """Queries and histories; `users` is the number of rows, or 1."""

    query: Tensor
    key_table: Tensor
    ids: Tensor
    value_table: Tensor
    mask: Tensor
    bias: Tensor | None

    @property
    def floats(self) -> list[Tensor]:
        found = (self.query, self.key_table, self.value_table, self.bias)
        return [part for part in found if part is not None]

    def to(self, dtype: torch.dtype, device: str = "cpu") -> "Problem":
        """Copies that collect gradients."""
        parts = [None if part is None else part.detach().to(device) for part in self]
        moved = [
            part.to(dtype, copy=True).requires_grad_() if part is not None and part.is_floating_point() else part
            for part in parts
        ]
        return Problem(*moved)


def drawn(
    rows: int,
    users: int,
    length: int,
    fields: int = 2,
    dims: tuple[int, int] = (4, 3),
    seed: int = 0,
    *,
    bias: bool = True,
) -> Problem:
    """Few ids, so that events repeat and scores are equal; short and empty histories among the rows."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).bfloat16().double()

    ids = torch.randint(1, 12, (users, length, fields), generator=generator)
    mask = torch.arange(length) >= torch.randint(0, length + 1, (users, 1), generator=generator)
    if users > 2:
        mask[0], mask[1] = False, True
    else:
        mask[0] = torch.arange(length) >= length // 3
    ids = ids * mask.unsqueeze(2)
    shared = normal(1, length) if bias else None
    return Problem(normal(rows, fields * dims[0]), normal(12, dims[0]), ids, normal(12, dims[1]), mask, shared)


def naive(problem: Problem, k: int) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Pooled vectors, weights, and the columns found, of every row in turn."""
    pooled, weights, found = [], [], []
    for row, query in enumerate(problem.query):
        user = row if len(problem.ids) > 1 else 0
        columns = problem.mask[user].nonzero().flatten().tolist()
        scores = {}
        for column in columns:
            key = torch.cat([problem.key_table[i] for i in problem.ids[user, column].tolist()])
            scores[column] = (query * key).sum() + (0 if problem.bias is None else problem.bias[0, column])
        best = sorted(columns, key=lambda column: (-float(scores[column].detach()), -column))[:k]
        width = problem.ids.shape[2] * problem.value_table.shape[1]
        total = query.new_zeros(width)
        share = torch.stack([scores[column] for column in best]).softmax(0) if best else query.new_zeros(0)
        for weight, column in zip(share, best, strict=True):
            total = total + weight * torch.cat([problem.value_table[i] for i in problem.ids[user, column].tolist()])
        pooled.append(total)
        weights.append(torch.cat([share, query.new_zeros(k - len(best))]))
        found.append(best + [-1] * (k - len(best)))
    return torch.stack(pooled), torch.stack(weights), found


def gradients(problem: Problem, pooled: Tensor, weights: Tensor) -> list[Tensor]:
    """Of a fixed uneven sum of both results."""
    total = (pooled * torch.linspace(-1, 2, pooled.numel()).to(pooled).view_as(pooled)).sum()
    total = total + (weights * torch.linspace(1, -1, weights.numel()).to(weights).view_as(weights)).sum()
    return list(torch.autograd.grad(total, problem.floats, retain_graph=True))
