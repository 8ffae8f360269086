"""Balanced assignment on the last book: one item a full code, as far as there are free codes, none moved in vain.

Of the items that share all codes, the nearest to its codeword keeps it. The others move to free codes of the last book
below the same prefix, in rounds of proposals: each asks for the nearest free code, each code takes the nearest of those
that ask. Greedy: no item that moved would be nearer to a code that is still free, but the sum of distances is not
always the least there is (an exact assignment would be cubic).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import LastCosts
from semantic_ids.keys import prefix_groups, runs

_CELLS = 16_777_216  # 128 MiB of float64 at once


class Balanced(NamedTuple):
    """`moved` and `unplaced` are item rows (1..N), ascending: those that have another last code now, and those that
    needed one but found none free; the latter keep the codes that they share.
    """

    table: CodeTable
    moved: Int64[np.ndarray, " moved"]
    unplaced: Int64[np.ndarray, " unplaced"]


def resolve_balanced(table: CodeTable, costs: LastCosts, *, fixed: int = 0) -> Balanced:
    """At most one item a full code wherever the last book has room below the item's prefix.

    Only items that collide move, and of these not the nearest one. Below a prefix with more items than the last book
    has codes, every code ends up taken and the rest stays where it is (`unplaced`); without such prefixes the result is
    injective. The first `fixed` items never move and hold their codes (growth).

    The result is a function of each item's own distances, compared in float64, whatever the order of the catalog, with
    one exception: of items at exactly equal distance the one earlier in the catalog wins. Equal codes: the lower.

    Memory: whole prefixes at a time; n colliding items below one prefix take n x (codes of the last book) distances.

    >>> table = CodeTable.from_codes(np.array([[0, 1], [0, 1], [0, 1]]), (2, 3))
    >>> import torch
    >>> prices = torch.tensor([[4.0, 1.0, 2.0], [5.0, 0.0, 3.0], [0.5, 0.4, 9.0]])
    >>> resolve_balanced(table, lambda rows: prices[torch.from_numpy(rows) - 1]).table.items.tolist()
    [[0, 2], [0, 1], [0, 0]]
    """
    if table.digit is not None:
        raise ValueError(f"the last book is a {table.digit} digit; resolve the semantic codes before adding it")
    if not 0 <= fixed <= table.num_items:
        raise ValueError(f"fixed must be 0..{table.num_items} (the items of the table), got {fixed}")
    size, codes = table.codebook_sizes[-1], table.items[:, -1].astype(np.int64)
    full = prefix_groups(table.items, table.codebook_sizes)
    held = np.zeros(int(full.max(initial=-1)) + 1, dtype=np.bool_)
    held[full[:fixed]] = True
    below = _Prefixes.of(table)
    rivals = below.sorted_rows(np.flatnonzero((np.bincount(full)[full] > 1)[fixed:]) + fixed)
    unplaced = []
    for part in _whole_groups(below.groups[rivals], max(1, _CELLS // size)):
        rows = rivals[part]
        price = _checked(costs, rows, size)
        movers = _losers(price[np.arange(len(rows)), codes[rows]], full[rows], held)
        prefixes, local = np.unique(below.groups[rows], return_inverse=True)
        found = propose(price[movers], local[movers].astype(np.int64), ~below.taken(prefixes, codes, size))
        codes[rows[movers]] = np.where(found < 0, codes[rows[movers]], found)
        unplaced.append(rows[movers][found < 0])
    new = CodeTable.from_codes(np.column_stack([table.items[:, :-1], codes]), table.codebook_sizes, table.details)
    left = np.sort(np.concatenate(unplaced)) if unplaced else np.zeros(0, dtype=np.int64)
    return Balanced(new, np.flatnonzero(codes != table.items[:, -1]) + 1, left + 1)


def propose(
    price: Float64[np.ndarray, "rows codes"], groups: Int64[np.ndarray, " rows"], free: Bool[np.ndarray, "groups codes"]
) -> Int64[np.ndarray, " rows"]:
    """A free code of its group for every row, none twice; -1 for rows that come too late.

    In a round each row without a code asks for the cheapest free one, the lower of equal ones, and of the rows that ask
    for the same the cheapest gets it, the earlier of equal ones. Every round fills a code of each group, so there are
    at most as many rounds as codes. `free` is used up.
    """
    found = np.full(len(price), -1, dtype=np.int64)
    size = free.shape[1]
    asking = np.flatnonzero(free[groups].any(1))
    while len(asking):
        wanted = np.where(free[groups[asking]], price[asking], np.inf)
        wish = wanted.argmin(1)
        cells = groups[asking] * size + wish
        order = np.lexsort((wanted[np.arange(len(asking)), wish], cells))
        won = order[runs(cells[order]).starts]
        found[asking[won]] = wish[won]
        free.reshape(-1)[cells[won]] = False
        asking = asking[found[asking] < 0]
        asking = asking[free[groups[asking]].any(1)]
    return found


class _Prefixes(NamedTuple):
    """Items by their codes before the last: group g holds the rows (0-based) order[starts[g]:starts[g + 1]]."""

    groups: Int64[np.ndarray, " items"]
    order: Int64[np.ndarray, " items"]
    starts: Int64[np.ndarray, " groups_plus_one"]

    @classmethod
    def of(cls, table: CodeTable) -> "_Prefixes":
        groups = prefix_groups(table.items[:, :-1], table.codebook_sizes[:-1])
        order, starts = runs(groups)
        return cls(groups, order, np.append(starts, len(groups)))

    def sorted_rows(self, rows: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        """`rows` by prefix, and below a prefix ascending."""
        by_prefix: np.ndarray = rows[runs(self.groups[rows]).order]
        return by_prefix

    def taken(
        self, groups: Int64[np.ndarray, " some"], codes: Int64[np.ndarray, " items"], size: int
    ) -> Bool[np.ndarray, "some last_codes"]:
        """Which last codes some item has below each of these prefixes (ascending)."""
        rows = self.order[self.starts[groups[0]] : self.starts[groups[-1] + 1]]
        place = np.searchsorted(groups, self.groups[rows])
        there = groups[place] == self.groups[rows]
        taken = np.zeros((len(groups), size), dtype=np.bool_)
        taken[place[there], codes[rows[there]]] = True
        return taken


def _whole_groups(groups: Int64[np.ndarray, " rows"], most: int) -> list[slice]:
    """Slices of sorted rows, each of whole groups and of at most `most` rows, or of one group that has more."""
    ends = np.append(runs(groups).starts[1:], len(groups)) if len(groups) else np.zeros(0, dtype=np.int64)
    slices, start = [], 0
    while start < len(groups):
        last = max(np.searchsorted(ends, start + most, side="right") - 1, np.searchsorted(ends, start, side="right"))
        slices.append(slice(start, int(ends[last])))
        start = int(ends[last])
    return slices


def _losers(
    own: Float64[np.ndarray, " rows"], full: Int64[np.ndarray, " rows"], held: Bool[np.ndarray, " groups"]
) -> Int64[np.ndarray, " losers"]:
    """Places of the rows that have to move: in each group of equal codes all but the nearest, or all where a fixed item
    holds the code; ascending.
    """
    order = np.lexsort((own, full))
    first = order[runs(full[order]).starts]
    stays = np.zeros(len(own), dtype=np.bool_)
    stays[first[~held[full[first]]]] = True
    return np.flatnonzero(~stays)


def _checked(costs: LastCosts, rows: np.ndarray, size: int) -> Float64[np.ndarray, "rows codes"]:
    price: np.ndarray = costs(rows + 1).double().cpu().numpy()
    if price.shape != (len(rows), size):
        raise ValueError(f"costs of {len(rows)} items have shape {price.shape}, expected ({len(rows)}, {size})")
    wrong = ~np.isfinite(price).all(1)
    if wrong.any():
        raise ValueError(f"the costs of item row {rows[wrong][0] + 1} are not finite; check its vector")
    return price
