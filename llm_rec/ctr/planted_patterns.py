"""Planted patterns: a click depends on three items in a row, which no single item gives away, among noise items.

A history is a sequence of patterns, three items each in a fixed order, with noise items in between. A row's target
completes pattern k, whose first two items end the history. In half of the rows the pattern happened before, as a whole:
these are clicked with probability `chance`. In the other half the same three items are there too, one by one, each as a
noise item of its own in another place: these are clicked with probability 1 - `chance`. So the same items occur equally
often in both halves, histories are equally long, and the order of three items is all that helps. For the reconstruction
of DPN (arXiv 2404.11456), and for its denoising: which events are noise is known.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ctr_models.schema import RESERVED
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.histories import event_numbers
from llm_rec.ctr.planted_logs import check_planted, expected_auc, planted_rows, write_planted
from llm_rec.data.columns import KIND, ClickColumns, ClickLog
from llm_rec.data.event_store import EventStore
from llm_rec.errors import ConfigError

_WHOLE = 3  # items of a pattern
_SLOTS = 2 * _WHOLE + 1  # of a block: item, noise, item, noise, item, noise, and one of a pattern's items on its own


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedPatternsConfig:
    """`num_blocks` patterns a history, of `num_patterns` triples of `num_items` items; after each item comes a noise
    item with probability `noise`, any item but equally likely. Items have categories, at random. A user has
    `rows_per_user` rows, the groups of GAUC.
    """

    num_rows: int = 20_000
    num_blocks: int = 8
    num_patterns: int = 40
    num_items: int = 60
    num_categories: int = 10
    noise: float = 0.2
    chance: float = 0.9
    rows_per_user: int = 10
    validation: float = 0.15
    test: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"num_rows": self.num_rows, "num_categories": self.num_categories}
        counts["rows_per_user"] = self.rows_per_user
        check_planted(counts, self.part_shares)
        if self.num_blocks < 4 or self.num_patterns < 2 or self.num_items < _WHOLE:
            raise ConfigError(
                f"num_blocks must be at least 4, num_patterns 2 and num_items {_WHOLE}, got {self.num_blocks}, "
                f"{self.num_patterns} and {self.num_items}"
            )
        if not 0 <= self.noise <= 1 or not 0.5 <= self.chance <= 1:
            raise ConfigError(f"noise must lie in 0..1 and chance in 0.5..1, got {self.noise} and {self.chance}")

    @property
    def part_shares(self) -> tuple[float, float]:
        return self.validation, self.test


@dataclass(frozen=True, eq=False)
class PlantedPatterns:
    """Rows of all parts and the truth behind them. Items count from 0 in `patterns`; their ids in rows begin at 2.

    `noise` says of every event of the store whether it is noise (of padding, that it is not); `whole` of every row
    whether its pattern happened before.
    """

    config: PlantedPatternsConfig
    rows: ClickColumns
    probabilities: Float64[np.ndarray, "rows"]
    patterns: Int64[np.ndarray, "patterns 3"]
    noise: Bool[np.ndarray, "events_plus_one"]
    whole: Bool[np.ndarray, "rows"]

    @property
    def best_auc(self) -> float:
        """Expected AUC of the true probabilities on these rows."""
        return expected_auc(self.probabilities)

    def noise_mask(self, windows: Int64[np.ndarray, "rows 2"], length: int) -> Bool[np.ndarray, "rows columns"]:
        """Which events of a batch are noise, in the columns of its history."""
        mask: np.ndarray = self.noise[event_numbers(windows, length)]
        return mask

    def write(self, path: Path | str, *, overwrite: bool = False) -> ClickLog:
        """The rows as a click log with the fields item and category, in the past too. Parts are in the rows' order."""
        config = self.config
        sizes = {"item": config.num_items, "category": config.num_categories}
        name = fingerprint(KIND, {"planted_patterns": to_plain(config)})
        return write_planted(self.rows, sizes, config.part_shares, Path(path), name, overwrite=overwrite)


def planted_patterns(config: PlantedPatternsConfig | None = None) -> PlantedPatterns:
    """Draw a world; equal configs give equal bytes.

    >>> world = planted_patterns(PlantedPatternsConfig(num_rows=500))
    >>> len(world.rows), world.best_auc > 0.85, bool(0.1 < world.noise.mean() < 0.3)
    (500, True, True)
    """
    config = config or PlantedPatternsConfig()
    rng = np.random.default_rng(config.seed)
    patterns = np.argsort(rng.random((config.num_patterns, config.num_items)), axis=1)[:, :_WHOLE]
    categories = rng.integers(config.num_categories, size=config.num_items)
    kinds = rng.integers(config.num_patterns, size=config.num_rows)
    whole = rng.random(config.num_rows) < 0.5
    items, present, noise = _histories(config, patterns, kinds, whole, rng)
    lengths = present.sum(1)
    events = items[present]
    store = EventStore.of((np.stack([events, categories[events]], axis=1) + RESERVED).astype(np.int32))
    ends = np.cumsum(lengths) + 1  # the store counts from 1
    candidates = patterns[kinds, -1]
    probabilities = np.where(whole, config.chance, 1 - config.chance)
    rows = planted_rows(
        np.stack([candidates, categories[candidates]], axis=1) + RESERVED,
        (rng.random(config.num_rows) < probabilities).astype(np.float32),
        np.stack([ends - lengths, ends], axis=1),
        store,
        rows_per_user=config.rows_per_user,
    )
    mask = np.concatenate([[False], noise[present]])
    return PlantedPatterns(config, rows, probabilities, patterns, mask, whole)


def _histories(
    config: PlantedPatternsConfig,
    patterns: Int64[np.ndarray, "patterns 3"],
    kinds: Int64[np.ndarray, "rows"],
    whole: Bool[np.ndarray, "rows"],
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "rows slots"], Bool[np.ndarray, "rows slots"], Bool[np.ndarray, "rows slots"]]:
    """Items by slot, which slots hold an event, and which of these are noise; the open pattern is the last slots."""
    rows, blocks = config.num_rows, config.num_blocks
    others = (kinds[:, None] + rng.integers(1, config.num_patterns, size=(rows, blocks))) % config.num_patterns
    order = np.argsort(rng.random((rows, blocks)), axis=1)  # first the block of the pattern, then those of its items
    number = np.arange(rows)
    others[whole, order[whole, 0]] = kinds[whole]
    items = rng.integers(config.num_items, size=(rows, blocks, _SLOTS))
    present = rng.random((rows, blocks, _SLOTS)) < config.noise
    noise = np.ones((rows, blocks, _SLOTS), dtype=bool)
    items[:, :, 0 : 2 * _WHOLE : 2] = patterns[others]
    present[:, :, 0 : 2 * _WHOLE : 2] = True
    noise[:, :, 0 : 2 * _WHOLE : 2] = False
    # where the pattern did not happen, its block is gone, but for noise, and its items are scattered instead
    present[number, order[:, 0], 0 : 2 * _WHOLE : 2] = whole[:, None]
    present[:, :, -1] = False
    for place in range(_WHOLE):
        items[number, order[:, 1 + place], -1] = patterns[kinds, place]
        present[number, order[:, 1 + place], -1] = ~whole
    tail = np.stack([patterns[kinds, 0], rng.integers(config.num_items, size=rows), patterns[kinds, 1]], axis=1)
    between = np.tile([True, False, True], (rows, 1))
    between[:, 1] = rng.random(rows) < config.noise
    flat = [array.reshape(rows, -1) for array in (items, present, noise)]
    noisy = np.tile([False, True, False], (rows, 1))
    return (
        np.concatenate([flat[0], tail], axis=1),
        np.concatenate([flat[1], between], axis=1),
        np.concatenate([flat[2], noisy], axis=1),
    )
