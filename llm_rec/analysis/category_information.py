"""How much the category of a past event says about a click, by target category and position (DARE, arXiv 2410.02604).

For target category t, behaviour category c and position p (the newest event is 1): X = 1 when the event at p is of
category c, Y = click, over the train rows whose target is of category t,

    I(t, c, p) = sum over the four cells of (n_cell / n) log2(n_cell n / (n_X n_Y)), in bits.

The truth that attention is held against: `llm_rec.analysis.target_attention` has the learned counterpart, and
`llm_rec.analysis.search_quality` ranks events by it. Zero counts, margins too, are 1e-5, as in the authors' code.
Count train rows alone: rows that a model is tested on would leak into its reference.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Int64

from ctr_models.batch import FeatureBatch
from ctr_models.schema import Schema
from llm_rec.errors import DataError

_ZERO = 1e-5


@dataclass(frozen=True, eq=False)
class CategoryRows:
    """One field of a batch: the candidate's id, those of its past (oldest first, left padded with 0), and the click."""

    target: Int64[np.ndarray, "rows"]
    history: Int64[np.ndarray, "rows length"]
    clicked: Bool[np.ndarray, "rows"]


def category_rows(batch: FeatureBatch, schema: Schema, category: str, *, label: int = 0) -> CategoryRows:
    """The field `category` of `batch` and of its history; `DataError` when one of them lacks it."""
    if category not in schema.history:
        raise DataError(
            f"the history has no field {category!r} (it has: {', '.join(schema.history) or 'none'}); name one of them"
        )
    if batch.history is None:
        raise DataError("the batch has no history; read it with one")
    field = schema.history.index(category)
    return CategoryRows(
        target=batch.ids[:, schema.history_columns[field]].cpu().numpy(),
        history=batch.history.ids[:, :, field].cpu().numpy(),
        clicked=batch.labels[:, label].ge(0.5).cpu().numpy(),
    )


def event_positions(length: int) -> Int64[np.ndarray, "length"]:
    """The position of each column: counted from the end, the newest event is 1.

    >>> event_positions(3).tolist()
    [3, 2, 1]
    """
    return np.arange(length, 0, -1, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CategoryCounts:
    """Rows by target category and click, and the events that occur, as a sorted sparse table.

    A key is ((target num_categories + behaviour) length + position - 1) 2 + click.
    """

    num_categories: int
    length: int
    keys: Int64[np.ndarray, "cells"]
    counts: Int64[np.ndarray, "cells"]
    targets: Int64[np.ndarray, "categories 2"]  # rows without and with a click

    def top_targets(self, number: int) -> Int64[np.ndarray, "top"]:
        """The target categories of the most rows, most first, as far as there are any; ties by id."""
        rows = self.targets.sum(axis=1)
        order = np.argsort(-rows, kind="stable")[:number]
        found: np.ndarray = order[rows[order] > 0]
        return found

    def top_behaviours(self, target: int, number: int) -> Int64[np.ndarray, "top"]:
        """The categories that the past of `target`'s rows holds most, most first; ties by id."""
        width = 2 * self.num_categories * self.length
        inside = slice(*np.searchsorted(self.keys, [target * width, (target + 1) * width]).tolist())
        behaviours = self.keys[inside] // (2 * self.length) % self.num_categories
        events = np.bincount(behaviours, weights=self.counts[inside], minlength=self.num_categories)
        order = np.argsort(-events, kind="stable")[:number]
        found: np.ndarray = order[events[order] > 0]
        return found

    def events(
        self,
        target: Int[np.ndarray, "*#cells"],
        behaviour: Int[np.ndarray, "*#cells"],
        position: Int[np.ndarray, "*#cells"],
    ) -> Int64[np.ndarray, "*out 2"]:
        """Rows with the event (X = 1), without and with a click; the three arrays broadcast."""
        if position.size and not 1 <= position.min() <= position.max() <= self.length:
            raise ValueError(
                f"positions must lie in 1..{self.length} (counted), got {position.min()} to {position.max()}"
            )
        key = 2 * self._key(target.astype(np.int64), behaviour.astype(np.int64), position.astype(np.int64))
        place = np.searchsorted(self.keys, key)
        without, found = self._number(place, key)
        clicked, _ = self._number(place + found, key + 1)
        return np.stack([without, clicked], axis=-1)

    def tables(
        self,
        target: Int[np.ndarray, "*#cells"],
        behaviour: Int[np.ndarray, "*#cells"],
        position: Int[np.ndarray, "*#cells"],
    ) -> Int64[np.ndarray, "*out 2 2"]:
        """The 2 x 2 tables: first axis X = 0, 1, second Y = 0, 1."""
        events = self.events(target, behaviour, position)
        rows = np.broadcast_to(self.targets[np.broadcast_to(target, events.shape[:-1])], events.shape)
        return np.stack([rows - events, events], axis=-2)

    def information(
        self,
        target: Int[np.ndarray, "*#cells"],
        behaviour: Int[np.ndarray, "*#cells"],
        position: Int[np.ndarray, "*#cells"],
    ) -> Float64[np.ndarray, "*out"]:
        """I(target, behaviour, position) in bits; 0 for a target category without rows."""
        return table_information(self.tables(target, behaviour, position))

    def _key(self, target: np.ndarray, behaviour: np.ndarray, position: np.ndarray) -> np.ndarray:
        key: np.ndarray = (target * self.num_categories + behaviour) * self.length + position - 1
        return key

    def _number(self, place: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Counts of `keys`, which lie at `place` if anywhere; and whether they do."""
        if not len(self.keys):
            return np.zeros(keys.shape, dtype=np.int64), np.zeros(keys.shape, dtype=bool)
        place = place.clip(max=len(self.keys) - 1)
        found: np.ndarray = self.keys[place] == keys
        return np.where(found, self.counts[place], 0), found


class CategoryCounter:
    """Counts batch by batch; `counts` equals those of all rows at once, however they were cut.

    Only what occurs is kept. New cells wait until they outnumber the table and are merged then, so a pass costs a few
    sorts of what it counts. Positions beyond `length` are not counted.
    """

    def __init__(self, num_categories: int, length: int) -> None:
        if num_categories < 1 or length < 1:
            raise ValueError(
                f"num_categories and length must be at least 1, got num_categories {num_categories} and length {length}"
            )
        if 2 * length * num_categories**2 >= 2**63:
            raise ValueError(
                f"{num_categories} categories by {length} positions are too many to number; shorten length"
            )
        self.num_categories, self.length = num_categories, length
        self._keys, self._counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0
        self._targets = np.zeros((num_categories, 2), dtype=np.int64)

    def update(
        self,
        target: Int[np.ndarray, "rows"],
        history: Int[np.ndarray, "rows length"],
        clicked: Bool[np.ndarray, "rows"],
    ) -> None:
        """Add rows; `history` is oldest first, left padded with 0."""
        for name, ids in (("target", target), ("history", history)):
            if ids.size and not 0 <= ids.min() <= ids.max() < self.num_categories:
                raise ValueError(
                    f"{name} categories must lie in 0..{self.num_categories - 1}, got {ids.min()} to {ids.max()}"
                )
        history = history[:, -self.length :].astype(np.int64)
        rows = target.astype(np.int64)
        self._targets += np.bincount(2 * rows + clicked, minlength=2 * self.num_categories).reshape(-1, 2)
        places = event_positions(history.shape[1]) - 1
        keys = 2 * ((rows[:, None] * self.num_categories + history) * self.length + places) + clicked[:, None]
        cells, counts = _counted(keys[history > 0], 2 * self.length * self.num_categories**2)
        self._pending.append((cells, counts))
        self._waiting += len(cells)
        if self._waiting > len(self._keys):
            self._merge()

    def counts(self) -> CategoryCounts:
        """What was counted so far."""
        self._merge()
        return CategoryCounts(self.num_categories, self.length, self._keys, self._counts, self._targets.copy())

    def _merge(self) -> None:
        keys, counts = zip((self._keys, self._counts), *self._pending, strict=True)
        self._keys, place = np.unique(np.concatenate(keys), return_inverse=True)
        sums = np.bincount(place, weights=np.concatenate(counts), minlength=len(self._keys))
        self._counts = sums.astype(np.int64)  # exact below 2^53
        self._pending, self._waiting = [], 0


def table_information(tables: Int[np.ndarray, "*cells 2 2"]) -> Float64[np.ndarray, "*cells"]:
    """Mutual information of the two axes of 2 x 2 tables, in bits; zero counts are 1e-5, an empty table has 0.

    >>> table_information(np.array([[4, 0], [0, 4]])).round(3).item()
    1.0
    """
    joint = tables.astype(np.float64)
    total = joint.sum(axis=(-2, -1), keepdims=True)
    rows, columns = (_without_zeros(joint.sum(axis=axis, keepdims=True)) for axis in (-1, -2))
    cells, whole = _without_zeros(joint), np.maximum(total, 1.0)
    terms = cells / whole * np.log2(cells * whole / (rows * columns))
    return np.where(total[..., 0, 0] > 0, terms.sum(axis=(-2, -1)), 0.0)


def _counted(keys: Int64[np.ndarray, "events"], cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys that occur, sorted, with their counts: by one pass where the table is small, else by sorting."""
    if cells > 4 * len(keys):
        return np.unique(keys, return_counts=True)
    counts = np.bincount(keys, minlength=cells)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _without_zeros(counts: np.ndarray) -> np.ndarray:
    return np.where(counts == 0, _ZERO, counts)


def information_map(
    counts: CategoryCounts,
    targets: Int[np.ndarray, "rows"],
    behaviours: Int[np.ndarray, "rows"],
    num_positions: int = 10,
) -> Float64[np.ndarray, "rows positions"]:
    """I of (target, behaviour) pairs at positions 1 to `num_positions`, as the rows of a heat map.

    The spec of the paper's map leaves the behaviour category open: pass the same array twice for "the event is of the
    target's category", or one target repeated beside several behaviours for the map of that target.
    """
    positions = np.arange(1, num_positions + 1)
    return counts.information(targets[:, None], behaviours[:, None], positions[None])


def min_max(values: Float64[np.ndarray, "*cells"]) -> Float64[np.ndarray, "*cells"]:
    """(values - min) / (max - min) over the whole array; zeros where all are equal.

    >>> min_max(np.array([1.0, 3.0, 2.0])).tolist()
    [0.0, 1.0, 0.5]
    """
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
