"""Prefix constraints that are exact: which code may come next, so that what a model generates is an item that exists.

The trie of a code table is one sorted column of keys a level, key = parent * size + code, on the device of the model.
Nodes of a level are numbered in the order of their keys, which is the lexicographic order of their prefixes, so the
children of a node, and the items below it, are contiguous. A step of beam search is a few gathers over all beams: no
loop over beams, no dictionary, no wait for the host.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from semantic_ids.code_table import CodeTable, ReverseIndex

ROOT = 0
NOWHERE = -1  # the node of a prefix that no item has


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """Nodes of one level, children of the nodes of the level above. `width` is the most children that a node has.

    Children of parent p are the nodes starts[p] .. starts[p + 1] - 1; the leaves below node n are leaves[n] ..
    leaves[n + 1] - 1.
    """

    size: int
    width: int
    keys: Int64[Tensor, " nodes"]
    starts: Int64[Tensor, " parents_plus_one"]
    leaves: Int64[Tensor, " nodes_plus_one"]


class Children(NamedTuple):
    """The children of nodes, in the order of their codes: `mask` is True where there is one, and it is allowed."""

    nodes: Int64[Tensor, "*beams width"]
    codes: Int64[Tensor, "*beams width"]
    mask: Bool[Tensor, "*beams width"]


@dataclass(frozen=True, slots=True, eq=False)
class CodeTrie:
    """Every code tuple of a `CodeTable`, a level for each book. Leaf g is group g of `CodeTable.reverse`.

    >>> trie = CodeTrie.of(CodeTable.from_codes(np.array([[2, 0], [1, 1], [2, 1]]), (4, 2)))
    >>> node = trie.step(0, torch.tensor([ROOT]), torch.tensor([2]))
    >>> trie.mask(1, node).tolist(), trie.mask(0, torch.tensor([ROOT])).tolist()
    ([[True, True]], [[False, True, True, False]])
    >>> trie.items_of(trie.step(1, node, torch.tensor([1]))).tolist()
    [3]
    """

    levels: tuple[Level, ...]
    first_items: Int64[Tensor, " leaves"]
    item_leaves: Int64[Tensor, " items_plus_one"]

    @classmethod
    def of(cls, table: CodeTable, device: torch.device | str = "cpu") -> "CodeTrie":
        """The trie of all items of `table`; `ValueError` when it has none."""
        if table.num_items == 0:
            raise ValueError("the code table has no items; a trie needs at least one")
        reverse = table.reverse
        unique = table.items[reverse.items[reverse.offsets[:-1]] - 1].astype(np.int64)
        found = _levels(unique, table.codebook_sizes, torch.device(device))
        return cls(
            levels=found,
            first_items=torch.from_numpy(reverse.items[reverse.offsets[:-1]]).to(device),
            item_leaves=torch.from_numpy(_item_leaves(reverse)).to(device),
        )

    @property
    def num_leaves(self) -> int:
        return len(self.first_items)

    def children(
        self, depth: int, nodes: Int64[Tensor, "*beams"], excluded: Int64[Tensor, "*beams hidden"] | None = None
    ) -> Children:
        """The children, at level `depth` (0 for the first code), of nodes of the level above (`ROOT` for the first).

        A node is allowed when an item below it is: `excluded` are leaves, ascending in each row and padded with
        `num_leaves`, that may not be reached (`excluded_leaves`). What is not there has node `NOWHERE` and code 0.
        """
        level = self.levels[depth]
        known = nodes.clamp_min(0)
        first, end = level.starts[known], level.starts[known + 1]
        places = first.unsqueeze(-1) + torch.arange(level.width, device=nodes.device)
        mask = (places < end.unsqueeze(-1)) & nodes.ne(NOWHERE).unsqueeze(-1)
        places = torch.where(mask, places, 0)
        if excluded is not None:
            mask = mask & self._is_open(level, places, excluded)
        return Children(
            nodes=torch.where(mask, places, NOWHERE),
            codes=torch.where(mask, level.keys[places] % level.size, 0),
            mask=mask,
        )

    def mask(
        self, depth: int, nodes: Int64[Tensor, "*beams"], excluded: Int64[Tensor, "*beams hidden"] | None = None
    ) -> Bool[Tensor, "*beams codes"]:
        """Which codes of book `depth` may follow: True for exactly those by which an item goes on. See `children`."""
        level = self.levels[depth]
        found = self.children(depth, nodes, excluded)
        column = torch.where(found.mask, found.codes, level.size)  # one column more, for what is not there
        allowed = torch.zeros(*nodes.shape, level.size + 1, dtype=torch.bool, device=nodes.device)
        return allowed.scatter_(-1, column, True)[..., : level.size]

    def step(
        self, depth: int, nodes: Int64[Tensor, "*beams"], codes: Int64[Tensor, "*beams"]
    ) -> Int64[Tensor, "*beams"]:
        """The nodes that codes of book `depth` lead to; `NOWHERE` where no item goes on like that."""
        level = self.levels[depth]
        wanted = nodes.clamp_min(0) * level.size + codes
        places = torch.searchsorted(level.keys, wanted).clamp_max(len(level.keys) - 1)
        there = level.keys[places].eq(wanted) & nodes.ne(NOWHERE) & codes.ge(0) & codes.lt(level.size)
        return torch.where(there, places, NOWHERE)

    def items_of(self, leaves: Int64[Tensor, "*beams"]) -> Int64[Tensor, "*beams"]:
        """The item row of each leaf, the first of items that share all codes; 0 for `NOWHERE`."""
        return torch.where(leaves.ge(0), self.first_items[leaves.clamp_min(0)], 0)

    def excluded_leaves(self, items: Int64[Tensor, "*batch hidden"]) -> Int64[Tensor, "*batch hidden"]:
        """Leaves of item rows (0 for padding) as `children` takes them: ascending, each once, padding at the end.

        In a table with collisions a leaf is excluded with any of its items.
        """
        leaves = self.item_leaves[items].sort(-1).values
        again = torch.zeros_like(leaves, dtype=torch.bool)
        again[..., 1:] = leaves[..., 1:].eq(leaves[..., :-1])
        return leaves.masked_fill(again, self.num_leaves).sort(-1).values

    def _is_open(
        self, level: Level, places: Int64[Tensor, "*beams width"], excluded: Int64[Tensor, "*beams hidden"]
    ) -> Bool[Tensor, "*beams width"]:
        """Whether fewer leaves below a node are excluded than there are."""
        first, end = level.leaves[places], level.leaves[places + 1]
        sorted_ = excluded.contiguous()
        hidden = torch.searchsorted(sorted_, end) - torch.searchsorted(sorted_, first)
        return hidden < end - first


def _levels(
    unique: Int64[np.ndarray, "leaves books"], sizes: tuple[int, ...], device: torch.device
) -> tuple[Level, ...]:
    """`unique` in lexicographic order: where a prefix differs from the one before, a node begins."""
    leaves = len(unique)
    parents, num_parents = np.zeros(leaves, dtype=np.int64), 1
    begins = np.zeros(leaves, dtype=np.bool_)
    begins[0] = True
    found = []
    for book, size in enumerate(sizes):
        begins[1:] |= unique[1:, book] != unique[:-1, book]
        first = np.flatnonzero(begins)
        keys = parents[first] * size + unique[first, book]
        starts = np.searchsorted(keys, np.arange(num_parents + 1, dtype=np.int64) * size)
        arrays = (keys, starts.astype(np.int64), np.r_[first, leaves].astype(np.int64))
        found.append(Level(size, int(np.diff(starts).max()), *(torch.from_numpy(a).to(device) for a in arrays)))
        parents, num_parents = np.cumsum(begins) - 1, len(first)
    return tuple(found)


def _item_leaves(reverse: ReverseIndex) -> Int64[np.ndarray, " items_plus_one"]:
    """Leaf of every item row; row 0 (padding) gets the number of leaves, which is none."""
    number = len(reverse.offsets) - 1
    leaves = np.full(len(reverse.items) + 1, number, dtype=np.int64)
    leaves[reverse.items] = np.repeat(np.arange(number), np.diff(reverse.offsets))
    return leaves
