"""Planted histories: how much each past event says of a click is known exactly, at any length.

Rows have a target category t, a label y (1 with probability `base`), and L events whose categories are drawn one by
one, at position p (1 is the newest) from

    P(c | t, y = 0, p) = q[c],    P(c | t, y = 1, p) = q[c] (1 + strength * bump[t, c, p]) / Z[t, p].

So with the ratio of the two, P(click | history) = sigmoid(logit(base) + sum over p of log ratio[t, c_p, p]): clicks
follow an additive model of (target category, behaviour category, position), and the mutual information of "category c
at p" and the click is a formula, not an estimate. This is the ground truth that search NDCG lacks on real logs, where
arXiv 2410.02604 estimates it by counting. A target's related categories speak for a click, each pair with a bump of
its own over positions: at the newest event or further back, narrow or wide. Items say nothing beyond their category.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from ctr_models.schema import RESERVED
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.histories import event_numbers
from llm_rec.ctr.planted_logs import check_planted, expected_auc, planted_rows, write_planted
from llm_rec.data.columns import KIND, ClickColumns, ClickLog
from llm_rec.data.event_store import EventStore
from llm_rec.errors import ConfigError

_CELLS = 1 << 21  # events drawn at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedSequencesConfig:
    """`num_rows` rows with `length` events each. A target has `related` categories, whose frequency at position p, the
    peak of their bump, is about (1 + `strength` / sqrt(p)) times the usual one when the row is clicked. Bumps further
    back are wider, so that all pairs say about equally much in sum, and longer histories say little more than short
    ones: the search is harder, the best AUC is not. A user has `rows_per_user`
    rows, the groups of GAUC.
    """

    length: int = 200
    num_rows: int = 20_000
    num_categories: int = 20
    items_per_category: int = 20
    related: int = 3
    base: float = 0.5
    strength: float = 6.0
    rows_per_user: int = 10
    validation: float = 0.15
    test: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {"length": self.length, "num_rows": self.num_rows, "items_per_category": self.items_per_category}
        counts["rows_per_user"] = self.rows_per_user
        check_planted(counts, self.part_shares)
        if not 1 <= self.related < self.num_categories:
            raise ConfigError(f"related must be at least 1 and below num_categories, got {self.related}")
        if not 0 < self.base < 1 or self.strength <= 0:
            raise ConfigError(f"base must lie in 0..1 and strength above 0, got {self.base} and {self.strength}")

    @property
    def part_shares(self) -> tuple[float, float]:
        return self.validation, self.test


@dataclass(frozen=True, eq=False)
class PlantedSequences:
    """Rows of all parts and the truth behind them. Categories count from 0 here; their ids in rows begin at 2.

    `shares` is q, and `ratios` P(c | t, click, p) / q[c] by (target category, behaviour category, position - 1).
    """

    config: PlantedSequencesConfig
    rows: ClickColumns
    probabilities: Float64[np.ndarray, "rows"]
    ratios: Float64[np.ndarray, "targets categories length"]
    shares: Float64[np.ndarray, "categories"]

    @property
    def best_auc(self) -> float:
        """Expected AUC of the true probabilities on these rows."""
        return expected_auc(self.probabilities)

    @property
    def mutual_information(self) -> Float64[np.ndarray, "targets categories length"]:
        """Bits that "the event at this position is of this category" says of a click on this target category."""
        return mutual_information(self.ratios, self.shares, self.config.base)

    def relevance(self, rows: ClickColumns, length: int) -> Float64[np.ndarray, "rows columns"]:
        """Bits that each event of a batch of these rows says, in the columns of its history (0 for padding): what
        search should rank by. Of rows of any log that `write` made, too.
        """
        if rows.windows is None or self.rows.events is None:
            raise ConfigError("these rows have no histories; take rows of a planted log")
        events = event_numbers(np.asarray(rows.windows), length)
        position = np.broadcast_to(np.arange(events.shape[1], 0, -1), events.shape)
        known = (events > 0) & (position <= self.config.length)
        categories = np.where(known, self.rows.events.ids[events, 1] - RESERVED, 0)
        targets = rows.ids[:, 1].astype(np.int64) - RESERVED
        bits = self.mutual_information[targets[:, None], categories, np.where(known, position - 1, 0)]
        return np.where(known, bits, 0.0)

    def write(self, path: Path | str, *, overwrite: bool = False) -> ClickLog:
        """The rows as a click log with the fields item and category, in the past too. Parts are in the rows' order."""
        config = self.config
        sizes = {"item": config.num_categories * config.items_per_category, "category": config.num_categories}
        name = fingerprint(KIND, {"planted_sequences": to_plain(config)})
        return write_planted(self.rows, sizes, config.part_shares, Path(path), name, overwrite=overwrite)


def planted_sequences(config: PlantedSequencesConfig | None = None) -> PlantedSequences:
    """Draw a world; equal configs give equal bytes. It holds 8 bytes an event, and some for a few million events.

    >>> world = planted_sequences(PlantedSequencesConfig(length=20, num_rows=1000))
    >>> world.mutual_information.shape, len(world.rows), 0.65 < world.best_auc < 0.9
    ((20, 20, 20), 1000, True)
    """
    config = config or PlantedSequencesConfig()
    rng = np.random.default_rng(config.seed)
    shares = rng.dirichlet(np.full(config.num_categories, 5.0))
    ratios = _ratios(config, shares, rng)
    targets = rng.integers(config.num_categories, size=config.num_rows)
    clicks = rng.random(config.num_rows) < config.base
    items, categories, log_odds = _histories(config, ratios, shares, targets, clicks, rng)
    store = EventStore.of((np.stack([items, categories], axis=1) + RESERVED).astype(np.int32))
    starts = np.arange(config.num_rows) * config.length + 1  # the store counts from 1
    candidates = targets * config.items_per_category + rng.integers(config.items_per_category, size=config.num_rows)
    rows = planted_rows(
        np.stack([candidates, targets], axis=1) + RESERVED,
        clicks.astype(np.float32),
        np.stack([starts, starts + config.length], axis=1),
        store,
        rows_per_user=config.rows_per_user,
    )
    return PlantedSequences(config, rows, 1 / (1 + np.exp(-log_odds)), ratios, shares)


def mutual_information(
    ratios: Float64[np.ndarray, "targets categories length"], shares: Float64[np.ndarray, "categories"], base: float
) -> Float64[np.ndarray, "targets categories length"]:
    """Bits between X = "the category is c" and the click: the sum over the four cells of n log2(n / (row * column)),
    with P(X | no click) = q and P(X | click) = q * ratio.

    >>> half = mutual_information(np.array([[[2.0], [0.0]]]), np.array([0.5, 0.5]), base=0.5)
    >>> half.round(4).ravel().tolist()  # c = 0 in every click, and in half of the rest
    [0.3113, 0.3113]
    """
    without = np.broadcast_to(shares[:, None], ratios.shape)
    given = without * ratios
    overall = base * given + (1 - base) * without
    total = np.zeros_like(ratios)
    for click, chance in ((base, given), (1 - base, without)):
        for cell, row in ((chance, overall), (1 - chance, 1 - overall)):
            # an empty cell says nothing; rounding may leave it a little below 0
            total += click * np.where(cell > 1e-15, cell * np.log2(np.maximum(cell, 1e-15) / np.maximum(row, 1e-15)), 0)
    return total


def _ratios(
    config: PlantedSequencesConfig, shares: Float64[np.ndarray, "categories"], rng: np.random.Generator
) -> Float64[np.ndarray, "targets categories length"]:
    """1 + strength * bump, normalised; bumps are bells over the logarithm of the position, lower further back."""
    number, position = config.num_categories, np.arange(1, config.length + 1)
    related = np.argsort(rng.random((number, number)), axis=1) < config.related
    furthest = np.log(max(1.0, config.length / 4))
    peaks = rng.uniform(0, furthest, size=(number, number, 1))
    widths = rng.uniform(0.1, 0.5, size=(number, number, 1))
    bumps = related[:, :, None] * np.exp(-((np.log(position) - peaks) ** 2) / (2 * widths**2) - peaks / 2)
    raised = 1 + config.strength * bumps
    ratios: np.ndarray = raised / np.einsum("c,tcp->tp", shares, raised)[:, None, :]
    return ratios


def _histories(
    config: PlantedSequencesConfig,
    ratios: Float64[np.ndarray, "targets categories length"],
    shares: Float64[np.ndarray, "categories"],
    targets: Int64[np.ndarray, "rows"],
    clicks: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "events"], Int64[np.ndarray, "events"], Float64[np.ndarray, "rows"]]:
    """Items and categories of all events, row after row and oldest first, and each row's log odds of a click.

    One binary search an event: distributions lie one after the other, that of number k between k and k + 1.
    """
    chances = np.concatenate([np.ones((1, *ratios.shape[1:])), ratios]) * shares[:, None]  # 0: no click, 1 + t: a click
    ends = np.cumsum(chances.transpose(0, 2, 1), axis=2)  # (distribution, position, category)
    ends[:, :, -1] = 1.0
    ladder = (ends + np.arange(ends.shape[0] * config.length).reshape(-1, config.length, 1)).ravel()
    place = np.arange(config.length)[::-1]
    log_odds = np.full(len(targets), np.log(config.base / (1 - config.base)))
    categories = np.empty(len(targets) * config.length, dtype=np.int64)
    step = max(1, _CELLS // config.length)
    for start in range(0, len(targets), step):
        piece = slice(start, min(start + step, len(targets)))
        distribution = np.where(clicks[piece], targets[piece] + 1, 0)[:, None] * config.length + place
        drawn = np.searchsorted(ladder, distribution + rng.random(distribution.shape), side="right")
        found = np.minimum(drawn - distribution * config.num_categories, config.num_categories - 1)
        categories[piece.start * config.length : piece.stop * config.length] = found.ravel()
        log_odds[piece] += np.log(ratios[targets[piece][:, None], found, place]).sum(1)
    items = categories * config.items_per_category + rng.integers(config.items_per_category, size=len(categories))
    return items, categories, log_odds
