"""How much of an index another version of it keeps: codes that are the same, and groups that are the same.

The two answer different questions. A model that was trained on the old codes needs the same codes; after a retraining
hardly any are, because a codebook has no order. The adjusted Rand index (Hubert and Arabie, 1985) does not care what a
code is called: it says whether items that were together still are, 1 for the same partition and about 0 for chance.
"""

from dataclasses import asdict, dataclass
from typing import cast

import numpy as np
from jaxtyping import Int64

from semantic_ids.code_table import CodeTable
from semantic_ids.files import Plain
from semantic_ids.keys import KeyPacker, prefix_groups, runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Over the `shared` items that both versions have. `unchanged` is the share of items of which all codes are equal;
    the others have an entry for each book, or depth of prefix, that both versions have (a digit counts as a book).
    """

    shared: int
    only_old: int
    only_new: int
    unchanged: float
    unchanged_books: tuple[float, ...]
    unchanged_prefixes: tuple[float, ...]
    ari_books: tuple[float, ...]
    ari_prefixes: tuple[float, ...]

    def to_plain(self) -> dict[str, Plain]:
        """JSON values."""
        return cast(dict[str, Plain], asdict(self))


def stability(old: CodeTable, new: CodeTable, old_rows: Int64[np.ndarray, " items"]) -> Stability:
    """Compare two versions: item r of `new` is item row old_rows[r - 1] of `old`, 0 where the old one did not have it.

    >>> old = CodeTable.from_codes(np.array([[0, 1], [0, 0], [1, 0]]), (2, 2))
    >>> new = CodeTable.from_codes(np.array([[1, 0], [1, 1], [0, 0], [0, 1]]), (2, 2))
    >>> found = stability(old, new, np.array([1, 2, 3, 0]))
    >>> found.unchanged, found.unchanged_books[1], found.ari_books[0], found.only_new
    (0.0, 0.3333333333333333, 1.0, 1)
    """
    if len(old_rows) != new.num_items:
        raise ValueError(f"old_rows has {len(old_rows)} entries, the new table {new.num_items} items")
    there = np.flatnonzero(old_rows)
    if len(there) == 0:
        raise ValueError("the two versions have no item in common; there is nothing to compare")
    before, after = old.codes[old_rows[there]], new.items[there]
    depth = min(old.num_books, new.num_books)
    same = before[:, :depth] == after[:, :depth]
    prefixes = np.logical_and.accumulate(same, axis=1)
    pairs = [(before[:, : book + 1], after[:, : book + 1]) for book in range(depth)]
    return Stability(
        shared=len(there),
        only_old=old.num_items - len(there),
        only_new=new.num_items - len(there),
        unchanged=float(prefixes[:, -1].mean()) if old.num_books == new.num_books else 0.0,
        unchanged_books=_shares(same),
        unchanged_prefixes=_shares(prefixes),
        ari_books=tuple(adjusted_rand_index(_labels(a[:, -1]), _labels(b[:, -1])) for a, b in pairs),
        ari_prefixes=tuple(
            adjusted_rand_index(
                prefix_groups(a, old.codebook_sizes[: a.shape[1]]), prefix_groups(b, new.codebook_sizes[: b.shape[1]])
            )
            for a, b in pairs
        ),
    )


def adjusted_rand_index(one: Int64[np.ndarray, " items"], two: Int64[np.ndarray, " items"]) -> float:
    """Agreement of two partitions, given by labels 0, 1, 2, ...: (pairs together in both - expected) / (mean of pairs
    together in either - expected), from the cells of the contingency table that are not empty.

    1 where both partitions are the same trivial one (all items together, or all apart).

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    1.0
    >>> round(adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 4)
    -0.5
    """
    if len(one) == 0:
        raise ValueError("partitions of 0 items cannot be compared")
    _, cells = KeyPacker.fit(np.stack([one, two], 1), (int(one.max()) + 1, int(two.max()) + 1))
    starts = runs(cells).starts
    both = _pairs(np.diff(starts, append=len(cells)))
    first, second = _pairs(np.bincount(one)), _pairs(np.bincount(two))
    every = len(one) * (len(one) - 1) // 2
    expected = first * second / every if every else 0.0
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def _pairs(counts: np.ndarray) -> int:
    """Pairs of items in the same group; exact up to 4 billion items."""
    wide = counts.astype(np.int64)
    return int((wide * (wide - 1) // 2).sum())


def _labels(column: np.ndarray) -> Int64[np.ndarray, " items"]:
    return column.astype(np.int64)


def _shares(same: np.ndarray) -> tuple[float, ...]:
    return tuple(float(share) for share in same.mean(0))
