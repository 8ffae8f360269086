"""Codes of a catalog that changes: new items get codes, no code is ever given to another item, none is renumbered.

A slot is an item that has ever had codes. Slots are numbered in the order in which items came, so that a catalog in any
order, with items that left and items that came back, finds each of its items where it was.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from semantic_ids.balanced import resolve_balanced
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import LastCosts


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeSlots:
    """Row s (1..S) of `table` belongs to slot s for good.

    `arrived` is the version in which an item came, `left` the first version without it, 0 while it is there. What has
    left keeps its codes reserved.
    """

    table: CodeTable
    arrived: Int32[np.ndarray, " slots"]
    left: Int32[np.ndarray, " slots"]
    version: int

    def __post_init__(self) -> None:
        for name, column in (("arrived", self.arrived), ("left", self.left)):
            if len(column) != self.table.num_items:
                raise ValueError(f"{name} has {len(column)} entries, the table {self.table.num_items} slots")

    @classmethod
    def first(cls, table: CodeTable, version: int = 1) -> "CodeSlots":
        """Slots of an index that was just learned: the items of its catalog, in that order."""
        arrived = np.full(table.num_items, version, dtype=np.int32)
        return cls(table=table, arrived=arrived, left=np.zeros_like(arrived), version=version)

    @property
    def reserved(self) -> Int64[np.ndarray, " reserved"]:
        """Slots (1..S) of items that left."""
        return np.flatnonzero(self.left) + 1

    def table_of(self, rows: Int64[np.ndarray, " items"]) -> CodeTable:
        """The table of a catalog whose r-th item is slot rows[r - 1]; books keep their sizes."""
        table = self.table
        return CodeTable(
            codes=table.codes[np.append(0, rows)],
            codebook_sizes=table.codebook_sizes,
            digit=table.digit,
            details=table.details,
        )


class Grown(NamedTuple):
    """`rows` is the slot (1..S) of every item of the new catalog; `unplaced` the slots of new items for which the last
    book had no free code (with `costs`): they share their semantic codes, and a digit alone tells them apart.
    """

    slots: CodeSlots
    rows: Int64[np.ndarray, " items"]
    unplaced: Int64[np.ndarray, " unplaced"]


def grow(
    slots: CodeSlots,
    known: Int64[np.ndarray, " items"],
    codes: Int64[np.ndarray, "new books"],
    costs: LastCosts | None = None,
) -> Grown:
    """The next version of `slots`, for a catalog whose items have the slots `known` (0 for one that is new).

    `codes` are what the quantiser that made the old ones says of the new items, in catalog order, without a digit. With
    `costs` (rows of the grown slots -> distances) a new item that would collide takes the nearest free code of the last
    book, where neither items that are there nor items that left have it (`resolve_balanced`); otherwise new items share
    codes. A table with a digit gives each new item the digit after the highest of its group, in catalog order: that
    order, and the order in which versions came, are what digits of new items depend on. Items that left are marked;
    one that came back has its old codes.

    >>> old = CodeSlots.first(CodeTable.from_codes(np.array([[2, 0], [1, 1]]), (3, 2)).with_digit())
    >>> grown = grow(old, np.array([0, 2]), np.array([[2, 0]]))     # the first item left, a similar one came
    >>> grown.slots.table_of(grown.rows).items.tolist(), grown.slots.reserved.tolist()
    ([[2, 0, 1], [1, 1, 0]], [1])
    """
    before = slots.table.num_items
    new = _check(known, codes, before)
    unplaced = np.zeros(0, dtype=np.int64)
    if costs is not None and len(codes):
        books = slots.table.num_books - (slots.table.digit is not None)
        semantic = CodeTable.from_codes(
            np.concatenate([slots.table.items[:, :books], codes]), slots.table.codebook_sizes[:books]
        )
        placed = resolve_balanced(semantic, costs, fixed=before)
        codes, unplaced = placed.table.items[before:].astype(np.int64), placed.unplaced
    rows = known.copy()
    rows[new] = before + 1 + np.arange(len(new))
    version = slots.version + 1
    left = np.where(slots.left == 0, version, slots.left).astype(np.int32)
    left[rows[rows <= before] - 1] = 0
    arrived = np.append(slots.arrived, np.full(len(new), version, dtype=np.int32))
    grown = CodeSlots(
        table=slots.table.extend(codes),
        arrived=arrived,
        left=np.append(left, np.zeros(len(new), dtype=np.int32)),
        version=version,
    )
    return Grown(grown, rows, unplaced)


def _check(known: np.ndarray, codes: np.ndarray, slots: int) -> Int64[np.ndarray, " new"]:
    """Places (0-based) of the new items."""
    new = np.flatnonzero(known == 0)
    if len(new) != len(codes):
        raise ValueError(f"the catalog has {len(new)} new items but codes were given for {len(codes)}")
    wrong = known[(known < 0) | (known > slots)]
    if len(wrong):
        raise ValueError(f"slot {wrong[0]} is not in 1..{slots}, nor 0 for a new item")
    counts = np.bincount(known, minlength=1)
    counts[0] = 0
    if counts.max() > 1:
        raise ValueError(f"slot {counts.argmax()} is named by {counts.max()} items of the catalog; an item has its own")
    return new
