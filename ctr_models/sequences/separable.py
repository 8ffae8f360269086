"""The score of decoupled attention, split into what an event is and where it stands (DARE, arXiv 2410.02604).

With the position's vector beside the event's ("concat"), a score is a sum of two products,

    s_i = <a_i, a_t> / sqrt(d) + <p_0, p_i> / sqrt(d_p),

and the second depends on the position alone: position 0 is the target, 1 the newest event. So it is one vector for all
users and targets, and keys of events stay valid when an event is appended, although that moves every position. Exact,
and the product is narrower by d_p. (The separation is ours; the released code stores nothing between requests. It
scales the two products apart, "split"; "joint" divides both by sqrt(d + d_p).) A position that is added to the event's
vector does not separate in this way.
"""

import math
from typing import Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

Scaling: TypeAlias = Literal["split", "joint"]


def semantic_factor(dim: int, position_dim: int, scaling: Scaling = "split") -> float:
    """What the product of events' and target's vectors of `dim` numbers is multiplied by; 0 numbers: no position."""
    return 1 / math.sqrt(dim if scaling == "split" else dim + position_dim)


def position_bias(
    positions: Float[Tensor, "rows position_dim"], dim: int = 0, scaling: Scaling = "split"
) -> Float[Tensor, "rows-1"]:
    """b_p of the positions 1, 2, .. from a table whose row 0 is the target's; `dim` is needed for "joint" alone.

    >>> import torch
    >>> position_bias(torch.tensor([[1.0, 0, 0, 1], [2, 0, 0, 0], [0, 0, 0, 6]])).tolist()
    [1.0, 3.0]
    """
    width = positions.shape[1]
    return positions[1:] @ positions[0] / math.sqrt(width if scaling == "split" else dim + width)


def by_column(bias: Float[Tensor, "positions"], length: int) -> Float[Tensor, "length"]:
    """b_p of the columns of `length` events, oldest first: the newest has position 1.

    >>> import torch
    >>> by_column(torch.tensor([0.1, 0.2, 0.3]), 2).tolist()
    [0.20000000298023224, 0.10000000149011612]
    """
    if length > len(bias):
        raise ValueError(f"there are {length} events but {len(bias)} positions; keep the newest {len(bias)} events")
    return bias[:length].flip(0)


def separable_scores(
    targets: Float[Tensor, "candidates dim"],
    events: Float[Tensor, "length dim"],
    bias: Float[Tensor, "positions"],
    factor: float,
) -> Float[Tensor, "candidates length"]:
    """Scores of all candidates with all events of one user (oldest first), by cached vectors and the shared bias."""
    return targets @ events.T * factor + by_column(bias, len(events))
