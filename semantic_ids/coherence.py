"""Do items that share a prefix belong together? By their vectors, and by who took them. Pure functions."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from semantic_ids.code_table import CodeTable
from semantic_ids.keys import prefix_groups
from semantic_ids.vectors import Vectors, take


class Events(NamedTuple):
    """Who took what: users as any numbers from 0, items as rows 1..N of the code table. Train events alone, in any
    order.
    """

    users: Int64[np.ndarray, " events"]
    items: Int64[np.ndarray, " events"]


def prefix_similarity(table: CodeTable, vectors: Vectors) -> tuple[float | None, ...]:
    """Mean cosine of an item to the others with the same first 0, 1, 2, ... codes (entry 0: to all other items).

    Averaged over the items that have such others; None at depths where no item has one. The sum over all pairs of a
    group is |sum of unit vectors|^2 - sum of |unit vectors|^2, so nothing of size items x items exists.

    >>> table = CodeTable.from_codes(np.array([[0], [0], [1]]), (2,))
    >>> prefix_similarity(table, np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=np.float32))
    (0.3333333333333333, 1.0)
    """
    if len(vectors) != len(table.items):
        raise ValueError(f"the table has {len(table.items)} items but there are {len(vectors)} vectors")
    cpu = torch.device("cpu")
    unit = torch.nn.functional.normalize(take(vectors, torch.arange(len(vectors)), cpu), dim=1)
    return tuple(_mean_cosine(unit, groups) for groups in _by_depth(table, first=0))


def co_interaction_lift(table: CodeTable, events: Events) -> tuple[float | None, ...]:
    """How much likelier two items are taken by the same user when they share their first 1, 2, ... codes than when
    they do not: (observed / expected) within prefixes over (observed / expected) between prefixes.

    Observed are pairs of different items in one user's events, each user's items counted once; expected is a pair of
    different items drawn with the same popularity (share of all such pairs' ends), so popular prefixes gain nothing.
    About 1 for codes without meaning (but where prefixes are so long that only items with equal vectors share one: a
    hash keeps those together too); None where no two items that are ever taken share a prefix, or all do.
    """
    users, items = _distinct(events)
    others = np.bincount(users)[users] - 1  # how many pairs this event is an end of
    ends = int(others.sum())
    popularity = np.bincount(items, weights=others, minlength=len(table.items) + 1)[1:] / max(1, ends)
    alike = float(np.square(popularity).sum())
    return tuple(_lift(users, groups[items - 1], groups, popularity, alike, ends) for groups in _by_depth(table, 1))


def _by_depth(table: CodeTable, first: int) -> list[Int64[np.ndarray, " items"]]:
    codes, sizes = table.items, table.codebook_sizes
    return [
        prefix_groups(codes[:, :depth], sizes[:depth]) if depth else np.zeros(len(codes), dtype=np.int64)
        for depth in range(first, len(sizes) + 1)
    ]


def _mean_cosine(unit: torch.Tensor, groups: Int64[np.ndarray, " items"]) -> float | None:
    sizes = np.bincount(groups)
    members = np.flatnonzero(sizes[groups] > 1)
    if len(members) == 0:
        return None
    place = torch.from_numpy(np.unique(groups[members], return_inverse=True)[1])
    number, mine = int(place.max()) + 1, unit[torch.from_numpy(members)].double()
    sums = torch.zeros(number, mine.shape[1], dtype=torch.float64).index_add_(0, place, mine)
    own = torch.zeros(number, dtype=torch.float64).index_add_(0, place, mine.square().sum(1))
    others = torch.bincount(place) - 1
    return float(((sums.square().sum(1) - own) / others).sum() / len(members))


def _distinct(events: Events) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
    span = int(events.items.max(initial=0)) + 1
    keys = np.unique(events.users.astype(np.int64) * span + events.items)
    return keys // span, keys % span


def _lift(
    users: np.ndarray, mine: np.ndarray, groups: np.ndarray, popularity: np.ndarray, alike: float, ends: int
) -> float | None:
    number = int(groups.max()) + 1
    counts = np.unique(users * number + mine, return_counts=True)[1]
    within = np.square(np.bincount(groups, weights=popularity)).sum() - alike
    expected = within / (1 - alike) if alike < 1 else 0.0
    observed = (counts * (counts - 1)).sum() / ends if ends else 0.0
    if not 1e-12 < expected < 1 - 1e-12 or observed == 1:  # below is the rounding of the two sums
        return None
    return float(observed / expected * (1 - expected) / (1 - observed))
