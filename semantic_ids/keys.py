"""Code tuples as single int64 keys, so that uniqueness, grouping and look-up are sorts of one column."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class KeyPacker:
    """Packs tuples in mixed radix, in lexicographic order.

    Where the product of the codebook sizes passes 2^62, the prefixes seen so far are replaced by their rank among those
    of the fitted table (one more sort), so any number of books fits; a query with another prefix gets the key -1.
    """

    sizes: tuple[int, ...]
    ranked: dict[int, Int64[np.ndarray, " prefixes"]]

    @classmethod
    def fit(cls, codes: np.ndarray, sizes: tuple[int, ...]) -> tuple["KeyPacker", Int64[np.ndarray, " items"]]:
        """The packer of a table, and the keys of its rows."""
        ranked: dict[int, np.ndarray] = {}
        keys, span = np.zeros(len(codes), dtype=np.int64), 1
        for book, size in enumerate(sizes):
            if span * size > _LIMIT:
                ranked[book], keys = np.unique(keys, return_inverse=True)
                keys, span = keys.astype(np.int64), len(ranked[book])
            keys *= size  # in place: a catalog of 10^7 items is 80 MB a copy
            keys += codes[:, book]
            span *= size
        return cls(sizes, ranked), keys

    def keys(self, codes: np.ndarray) -> Int64[np.ndarray, " items"]:
        """Keys of other rows; -1 for what cannot be in the table."""
        keys = np.zeros(len(codes), dtype=np.int64)
        known = np.ones(len(codes), dtype=np.bool_)
        for book, size in enumerate(self.sizes):
            if book in self.ranked:
                seen = self.ranked[book]
                place = np.searchsorted(seen, keys).clip(max=max(0, len(seen) - 1))
                known &= seen[place] == keys if len(seen) else False
                keys = place
            keys = keys * size + codes[:, book]
            known &= (codes[:, book] >= 0) & (codes[:, book] < size)
        return np.where(known, keys, -1)


def prefix_groups(codes: np.ndarray, sizes: tuple[int, ...]) -> Int64[np.ndarray, " items"]:
    """Number of the group of equal rows each row belongs to, groups in lexicographic order.

    >>> prefix_groups(np.array([[1, 0], [0, 2], [1, 0]]), (2, 3)).tolist()
    [1, 0, 1]
    """
    order, starts = runs(KeyPacker.fit(codes, sizes)[1])
    groups = np.empty(len(order), dtype=np.int64)
    groups[order] = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    return groups


class Runs(NamedTuple):
    """Rows sorted by their keys: run g is order[starts[g]:starts[g + 1]], rows of one key, in row order."""

    order: Int64[np.ndarray, " rows"]
    starts: Int64[np.ndarray, " runs"]


def runs(keys: Int64[np.ndarray, " rows"]) -> Runs:
    """Where equal keys lie, by one stable sort.

    >>> found = runs(np.array([4, 1, 4]))
    >>> found.order.tolist(), found.starts.tolist()
    ([1, 0, 2], [0, 1])
    """
    order, ordered = _sorted(keys)
    begins = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    return Runs(order, np.flatnonzero(begins).astype(np.int64, copy=False))


def _sorted(keys: Int64[np.ndarray, " rows"]) -> tuple[np.ndarray, np.ndarray]:
    """The stable order of keys, and the keys in it.

    Where key and row fit one word together they are sorted as one number, which takes a tenth of an argsort.
    """
    bits = len(keys).bit_length()
    if len(keys) and keys.min() >= 0 and int(keys.max()).bit_length() + bits < 64:
        order = keys << bits
        order |= np.arange(len(keys), dtype=np.int64)
        order.sort()
        ordered = order >> bits
        order &= (1 << bits) - 1
        return order, ordered
    order = np.argsort(keys, kind="stable").astype(np.int64, copy=False)
    return order, keys[order]


def ranks_in_groups(groups: Int64[np.ndarray, " items"]) -> Int64[np.ndarray, " items"]:
    """0, 1, 2, ... inside each group, in row order.

    >>> ranks_in_groups(np.array([4, 1, 4, 4])).tolist()
    [0, 0, 1, 2]
    """
    order, starts = runs(groups)
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
    return ranks
