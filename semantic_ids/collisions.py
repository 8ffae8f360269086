"""LC-Rec's way out of collisions: colliding items choose their last code again, under Sinkhorn's balance.

The other ways need no function here: an extra digit is `CodeTable.with_digit`, and for ranking features a collision is
sharing, not an error. Always look at the neighbour overlap beside the collision rate: balance can spoil meaning.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from semantic_ids.code_table import CodeTable
from semantic_ids.keys import prefix_groups
from semantic_ids.sinkhorn import centred_costs, grouped_sinkhorn

LastCosts = Callable[[Int64[np.ndarray, " rows"]], Float[Tensor, "rows codes"]]
"""Item rows (1..N) -> distance of each to every code of the last book, given its own codes before."""

_CELLS = 16_777_216  # 128 MiB of float64 at once


class Resolved(NamedTuple):
    """`colliding` counts the items in groups of equal codes: before, then after each round."""

    table: CodeTable
    colliding: tuple[int, ...]


def resolve_by_sinkhorn(
    table: CodeTable,
    costs: LastCosts,
    *,
    rounds: int = 20,
    epsilon: float = 0.003,
    iterations: int = 50,
) -> Resolved:
    """Up to `rounds` times, each group of equal items is spread over the last book by Sinkhorn on the group alone.

    As in LC-Rec (arXiv 2311.09049): only the last book, only colliding items, costs of a group scaled into [-1, 1], and
    whatever still collides after the last round stays: the result is *not* promised to be injective (equal vectors
    can never be told apart); add a digit where it must be. All groups of a round are one pass of segment sums, and
    ids do not depend on row order inside a group, unlike the released code's batches. Keeps the round with the fewest
    collisions.
    """
    if table.digit is not None:
        raise ValueError(f"the last book is a {table.digit} digit; resolve the semantic codes before adding it")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    codes = table.items.astype(np.int64)
    best, rows, groups = codes.copy(), *_colliding(codes, table.codebook_sizes)
    counts = [len(rows)]
    for _ in range(rounds):
        if len(rows) == 0:
            break
        codes[rows, -1] = _spread(rows, groups, costs, table.codebook_sizes[-1], epsilon, iterations)
        rows, groups = _colliding(codes, table.codebook_sizes)
        if len(rows) < min(counts):
            best = codes.copy()
        counts.append(len(rows))
    return Resolved(CodeTable.from_codes(best, table.codebook_sizes, table.details), tuple(counts))


def _colliding(codes: np.ndarray, sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (0-based) that share all codes with another, sorted by group, and their group 0, 1, 2, ..."""
    groups = prefix_groups(codes, sizes)
    rows = np.flatnonzero(np.bincount(groups)[groups] > 1) if len(groups) else np.zeros(0, np.int64)
    rows = rows[np.argsort(groups[rows], kind="stable")]
    return rows, np.unique(groups[rows], return_inverse=True)[1].astype(np.int64)


def _spread(
    rows: np.ndarray, groups: np.ndarray, costs: LastCosts, size: int, epsilon: float, iterations: int
) -> np.ndarray:
    """New last codes of colliding rows; whole groups at a time, as many as fit the memory bound."""
    chosen = np.empty(len(rows), dtype=np.int64)
    ends = np.flatnonzero(np.r_[groups[1:] != groups[:-1], True]) + 1
    start = 0
    while start < len(rows):
        fitting = ends[(ends > start) & (ends <= start + max(1, _CELLS // size))]
        end = int(fitting[-1] if len(fitting) else ends[ends > start][0])
        price = costs(rows[start:end] + 1)
        part = torch.from_numpy(groups[start:end] - groups[start]).to(price.device)
        number = int(groups[end - 1] - groups[start]) + 1
        centred = centred_costs(price, part, number)
        plan = grouped_sinkhorn(centred, part, number, epsilon=epsilon, iterations=iterations)
        chosen[start:end] = plan.argmax(1).cpu().numpy()
        start = end
    return chosen
