"""Pairs of items that users took one soon after the other, from train events alone."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64

from llm_rec.data.splits import Split
from llm_rec.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class CoInteractionConfig:
    """Two items are a pair when one user has them at most `window` train events apart (1: neighbours in a history).

    A pair seen c times is drawn in proportion to c / (d_a d_b) ** damping, where d is how often an item is in a pair
    at all (our choice): 0 draws pairs as often as they happen, so that popular items fill the batches; 0.5 divides by
    the geometric mean of both, 1 by their product.
    """

    window: int = 2
    damping: float = 0.5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping must lie in [0, 1], got {self.damping}")


@dataclass(frozen=True, eq=False)
class CoInteractions:
    """Unordered pairs `left` < `right` of item rows, each once, and how often each happened."""

    left: Int64[np.ndarray, "pairs"]
    right: Int64[np.ndarray, "pairs"]
    counts: Int64[np.ndarray, "pairs"]
    num_items: int

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def degrees(self) -> Int64[np.ndarray, "items_plus_one"]:
        """In how many pairs, counted as often as they happened, each item is."""
        ends, counts = np.concatenate([self.left, self.right]), np.concatenate([self.counts, self.counts])
        return np.bincount(ends, weights=counts, minlength=self.num_items + 1).astype(np.int64)

    @cached_property
    def _sorted_neighbours(self) -> Int64[np.ndarray, "ends"]:
        ends, others = np.concatenate([self.left, self.right]), np.concatenate([self.right, self.left])
        return others[np.lexsort((others, ends))]

    @cached_property
    def _offsets(self) -> Int64[np.ndarray, "items_plus_two"]:
        sizes = np.bincount(np.concatenate([self.left, self.right]), minlength=self.num_items + 1)
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def weights(self, damping: float) -> Float64[np.ndarray, "pairs"]:
        """What pairs are drawn in proportion to; see `CoInteractionConfig`."""
        degrees = self.degrees.astype(np.float64)
        weights: np.ndarray = self.counts / (degrees[self.left] * degrees[self.right]) ** damping
        return weights

    def known(
        self, anchors: Int64[np.ndarray, "batch"], candidates: Int64[np.ndarray, "candidates"]
    ) -> Int64[np.ndarray, "2 known"]:
        """All (i, j) where the items of anchor i and candidate j are a pair, sorted.

        The cost is that of the anchors' neighbours, never batch x batch.

        >>> pairs = CoInteractions(np.array([1, 2]), np.array([2, 3]), np.array([1, 1]), num_items=3)
        >>> pairs.known(np.array([2, 1]), np.array([3, 2])).tolist()
        [[0, 1], [0, 1]]
        """
        starts, sizes = self._offsets[anchors], self._offsets[anchors + 1] - self._offsets[anchors]
        rows = np.repeat(np.arange(len(anchors)), sizes)
        neighbours = self._sorted_neighbours[_ranges(starts, sizes)]
        order = np.argsort(candidates, kind="stable")
        first, last = (np.searchsorted(candidates[order], neighbours, side=side) for side in ("left", "right"))
        columns = order[_ranges(first, last - first)]
        rows = np.repeat(rows, last - first)
        by_row = np.lexsort((columns, rows))
        return np.stack([rows[by_row], columns[by_row]]).astype(np.int64)


def co_interactions(
    split: Split, window: int, groups: Int64[np.ndarray, "items_plus_one"] | None = None
) -> CoInteractions:
    """Pairs of items at most `window` apart among the train events of one user.

    `groups` names items that count as one by one of their rows, and as none by 0: items of equal texts, and items
    without a text. Raises `DataError` when no pair is left.
    """
    log, width = split.log, split.num_items + 1
    items = log.items if groups is None else groups[log.items]
    ends = np.repeat(split.train_ends, np.diff(log.offsets))
    keys = [_keys(items, ends, distance, width) for distance in range(1, window + 1)]
    distinct, counts = np.unique(np.concatenate(keys), return_counts=True)
    if not len(distinct):
        raise DataError(
            f"no user has two different items with texts at most {window} train events apart; "
            "raise the window, or tune on views of texts alone"
        )
    return CoInteractions(distinct // width, distinct % width, counts.astype(np.int64), split.num_items)


def _keys(
    items: Int64[np.ndarray, "events"], ends: Int64[np.ndarray, "events"], distance: int, width: int
) -> Int64[np.ndarray, "pairs"]:
    """The smaller item times `width` plus the larger, for events and those `distance` later in the same train part."""
    here = np.arange(max(len(items) - distance, 0))
    here = here[here + distance < ends[here]]
    one, other = items[here], items[here + distance]
    real = (one != other) & (one > 0) & (other > 0)
    keys: np.ndarray = np.minimum(one, other)[real] * width + np.maximum(one, other)[real]
    return keys


def _ranges(starts: Int64[np.ndarray, "runs"], sizes: Int64[np.ndarray, "runs"]) -> Int64[np.ndarray, "total"]:
    """start, start + 1, ... of every run, one run after another."""
    before = np.cumsum(sizes) - sizes
    places: np.ndarray = np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)
    return places
