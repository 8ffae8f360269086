"""Negative items for training, drawn in whole arrays and without rejection.

Item weights are whole numbers, so drawing an item is finding which item owns the k-th unit of weight. Leaving out the
items a user has seen shifts k past their units; with sorted seen items both are binary searches. Draws are
independent of each other (an item may come twice), and none is thrown away and repeated.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError

UNITS = 2**30  # total weight of a popularity distribution: q is exact to one part in a billion


@dataclass(frozen=True, kw_only=True, slots=True)
class PositionNegativesConfig:
    """`number` negatives of its own for every target position.

    `exclude_seen` leaves out all train items of the user (SASRec, PAD); off, any item may come (gSASRec, arXiv
    2308.07192). `popularity` is alpha in q ~ count**alpha, 0 = uniform. `seen_in_train_only` draws only items with
    train events. `log_q` adds the log probabilities to the batch. Prefer `SharedNegativesConfig` for many negatives:
    it is far cheaper.
    """

    number: int = 1
    exclude_seen: bool = True
    popularity: float = 0.0
    seen_in_train_only: bool = False
    log_q: bool = False

    def __post_init__(self) -> None:
        _check(self.number, self.popularity)


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedNegativesConfig:
    """`number` negatives that all targets of a batch share: one small matrix product instead of one gather per target.

    They may be items the user has seen, also the target itself (losses can remove that hit). The other options are
    those of `PositionNegativesConfig`.
    """

    number: int = 256
    popularity: float = 0.0
    seen_in_train_only: bool = False
    log_q: bool = False

    def __post_init__(self) -> None:
        _check(self.number, self.popularity)


NegativesConfig = PositionNegativesConfig | SharedNegativesConfig


class Negatives(NamedTuple):
    """Drawn item rows, `(targets, number)` or shared `(number,)`, and log probabilities when they were asked for."""

    items: Int64[np.ndarray, "*drawn"]
    log_q: Float32[np.ndarray, "*drawn"] | None
    target_log_q: Float32[np.ndarray, "targets"] | None


class NegativeSampler:
    """Draws the negatives of a batch for the users and target items of its positions.

    Raises `ConfigError` when no item has a positive weight.
    """

    def __init__(self, split: Split, config: NegativesConfig) -> None:
        self.config = config
        self.weights = item_weights(split, config)
        self.ends = np.cumsum(self.weights)
        if self.total == 0:
            raise ConfigError("no item can be drawn as a negative: no item has train events")
        self.seen = None
        if isinstance(config, PositionNegativesConfig) and config.exclude_seen:
            self.seen = _SeenItems(split, self.weights, self.ends)
        with np.errstate(divide="ignore"):
            self.log_weights = np.log(self.weights.astype(np.float64))

    @property
    def total(self) -> int:
        """Weight of the whole catalog."""
        return int(self.ends[-1])

    def draw(
        self, users: Int64[np.ndarray, "targets"], targets: Int64[np.ndarray, "targets"], rng: np.random.Generator
    ) -> Negatives:
        """Negatives for positions of `users` whose next items are `targets`; users and targets only shape shared ones.

        A user who has seen every item that could be drawn gets negatives from the whole distribution.
        """
        if isinstance(self.config, SharedNegativesConfig):
            units = rng.integers(0, self.total, size=self.config.number)
            return self._negatives(units, targets, free=np.int64(self.total), target_free=np.int64(self.total))
        if self.seen is None:
            units = rng.integers(0, self.total, size=(len(users), self.config.number))
            return self._negatives(units, targets, free=np.int64(self.total), target_free=np.int64(self.total))
        free = self.seen.free[users]
        units = rng.integers(0, free[:, None], size=(len(users), self.config.number))
        units = self.seen.skip(users, units)
        return self._negatives(units, targets, free=free[:, None], target_free=free)

    def _negatives(
        self,
        units: Int64[np.ndarray, "*drawn"],
        targets: Int64[np.ndarray, "targets"],
        *,
        free: np.int64 | Int64[np.ndarray, "..."],
        target_free: np.int64 | Int64[np.ndarray, "..."],
    ) -> Negatives:
        items = self._owner(units)
        if not self.config.log_q:
            return Negatives(items, None, None)
        log_q = (self.log_weights[items] - np.log(free)).astype(np.float32)
        return Negatives(items, log_q, (self.log_weights[targets] - np.log(target_free)).astype(np.float32))

    def _owner(self, units: Int64[np.ndarray, "*drawn"]) -> Int64[np.ndarray, "*drawn"]:
        """The item row that owns each unit of weight."""
        if self.total == len(self.weights) - 1 and self.weights[1:].min() == 1:
            return units + 1
        owners: np.ndarray = np.searchsorted(self.ends, units, side="right").astype(np.int64)
        return owners


def item_weights(split: Split, config: NegativesConfig) -> Int64[np.ndarray, "items_plus_one"]:
    """Whole-number weights of item rows, proportional to count**popularity; padding has none.

    With `popularity` above 0 an item without train events has weight 0; every other item has at least one unit.
    """
    counts = split.train_counts
    if config.popularity == 0:
        weights = (counts > 0).astype(np.int64) if config.seen_in_train_only else np.ones_like(counts)
        weights[0] = 0
        return weights
    powers = np.where(counts > 0, counts.astype(np.float64) ** config.popularity, 0.0)
    units = np.rint(powers * (UNITS / max(powers.sum(), 1e-300)))
    return np.where(counts > 0, np.maximum(units, 1), 0).astype(np.int64)


class _SeenItems:
    """Distinct train items of every user, sorted (CSR), with what is needed to step over their weight."""

    def __init__(
        self,
        split: Split,
        weights: Int64[np.ndarray, "items_plus_one"],
        ends: Int64[np.ndarray, "items_plus_one"],
    ) -> None:
        log = split.log
        lengths = split.train_ends - log.offsets[:-1]
        owner = np.repeat(np.arange(log.num_users, dtype=np.int64), lengths)
        events = np.arange(len(owner)) + np.repeat(log.offsets[:-1] - (np.cumsum(lengths) - lengths), lengths)
        pairs = np.unique(owner * (split.num_items + 1) + log.items[events])
        owner, items = np.divmod(pairs, split.num_items + 1)
        seen_weight = np.bincount(owner, weights=weights[items], minlength=log.num_users).astype(np.int64)
        keep = (seen_weight < ends[-1])[owner]  # a user who has seen everything is treated as one who has seen nothing
        owner, items = owner[keep], items[keep]
        seen_weight[seen_weight >= ends[-1]] = 0
        self.free = ends[-1] - seen_weight
        self.offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=log.num_users))]).astype(np.int64)
        self.skipped = np.concatenate([[0], np.cumsum(weights[items])]).astype(np.int64)
        before = self.skipped[:-1] - self.skipped[self.offsets[owner]]  # weight of the user's earlier seen items
        self.stride = int(ends[-1]) + 1
        self.keys = owner * self.stride + (ends[items] - weights[items] - before)  # free weight before this seen item

    def skip(
        self, users: Int64[np.ndarray, "targets"], units: Int64[np.ndarray, "targets number"]
    ) -> Int64[np.ndarray, "targets number"]:
        """Turn the k-th free unit of a user into a unit of the whole catalog."""
        passed = np.searchsorted(self.keys, users[:, None] * self.stride + units, side="right")
        moved: np.ndarray = units + self.skipped[passed] - self.skipped[self.offsets[users]][:, None]
        return moved


def _check(number: int, popularity: float) -> None:
    if number < 1:
        raise ValueError(f"number of negatives must be at least 1, got {number}")
    if not 0 <= popularity <= 2:
        raise ValueError(f"popularity (alpha in count**alpha) must lie in 0..2, got {popularity}")
