"""Tokenised texts as one compressed-row array, and batches by token budget over it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import Bool, Int64


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Text `t` owns `values[offsets[t] : offsets[t + 1]]`."""

    values: Int64[np.ndarray, "tokens"]
    offsets: Int64[np.ndarray, "texts_plus_one"]

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> "TokenRows":
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        values = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(offsets[-1]))
        return cls(values=values, offsets=offsets)

    @classmethod
    def concatenate(cls, parts: "Sequence[TokenRows]") -> "TokenRows":
        """The texts of all parts, one after another."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(values=np.concatenate([part.values for part in parts]), offsets=offsets)

    def take(self, rows: Int64[np.ndarray, "chosen"]) -> "TokenRows":
        """The texts `rows`, in that order, repeats and all.

        >>> TokenRows.from_lists([[5], [6, 7]]).take(np.array([1, 0, 1])).values.tolist()
        [6, 7, 5, 6, 7]
        """
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return TokenRows(values=self.values[np.arange(offsets[-1]) + shift], offsets=offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64[np.ndarray, "texts"]:
        return np.diff(self.offsets)

    def padded(
        self, rows: Int64[np.ndarray, "batch"], *, left: bool = False
    ) -> tuple[Int64[np.ndarray, "batch length"], Bool[np.ndarray, "batch length"]]:
        """Token ids of some rows, padded with 0 to the longest (at least one column), and the mask of real tokens.

        >>> TokenRows.from_lists([[5], [6, 7]]).padded(np.array([1, 0]), left=True)[0].tolist()
        [[6, 7], [0, 5]]
        """
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max(initial=0)))
        column = np.arange(width)
        if left:
            column = column - (width - lengths[:, None])
            mask = column >= 0
        else:
            mask = column < lengths[:, None]
        ids = np.zeros(mask.shape, dtype=np.int64)
        ids[mask] = self.values[(self.offsets[rows][:, None] + column)[mask]]
        return ids, mask


def token_batches(
    lengths: Int64[np.ndarray, "texts"], tokens_per_batch: int, texts_per_batch: int
) -> list[Int64[np.ndarray, "batch"]]:
    """Rows sorted by length, longest first (ties by row), cut so that batch size x longest text stays in the budget.

    A text longer than the budget is a batch of its own. The longest come first so that a budget too large for the
    device fails at once and not at the end.

    >>> [b.tolist() for b in token_batches(np.array([2, 9, 3, 2]), tokens_per_batch=6, texts_per_batch=8)]
    [[1], [2, 0], [3]]
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    batches = []
    start = 0
    while start < len(order):
        size = tokens_per_batch // max(1, int(lengths[order[start]]))
        stop = start + min(max(1, size), texts_per_batch)
        batches.append(order[start:stop])
        start = stop
    return batches


def one_batch(tokens: TokenRows) -> Iterable[Int64[np.ndarray, "batch"]]:
    """All rows as they are."""
    return [np.arange(len(tokens), dtype=np.int64)] if len(tokens) else []
