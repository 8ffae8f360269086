"""Planted worlds of patterns: users repeat triples of items, noise falls between, and clicks follow the pattern.

There are triples (a, b, c), and most prefixes (a, b) have two completions, c and c'. A user has some of the triples and
repeats them in random order; each event is noise, an item drawn uniformly, with a known probability. A row asks, after
(a, b), for an item: c, which completes the user's own triple, or

- the completion c' of the same prefix that the user does not have (which no pair of items tells from c), or
- the end of another of the user's triples (familiar, but out of place).

So single items say little, and the user's own patterns say all; a click follows with a known probability.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ctr_models.schema import RESERVED
from llm_rec.ctr.event_windows import EventSequences

LENGTH = 3  # of a pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedPatternsConfig:
    """`triples` come in pairs with one prefix. `noise` is the share of events that are no part of a pattern; a row is
    clicked with probability `click` when its candidate completes the user's pattern, else with 1 - `click`.
    """

    users: int = 300
    items: int = 60
    triples: int = 60
    own: int = 4
    length: int = 40
    noise: float = 0.2
    rows_per_user: int = 6
    click: float = 0.9

    def __post_init__(self) -> None:
        if self.triples < 2 or self.triples % 2 or self.items < 6:
            raise ValueError(
                f"triples must be even and at least 2, items at least 6, got {self.triples} and {self.items}"
            )
        if not 2 <= self.own <= self.triples // 2:
            raise ValueError(f"own must be in 2..{self.triples // 2}, half the triples, got {self.own}")
        if not 0 <= self.noise < 1 or not 0.5 <= self.click <= 1:
            raise ValueError(f"noise must be in [0, 1) and click in [0.5, 1], got {self.noise} and {self.click}")
        if self.rows_per_user < 1 or self.length < 4 * LENGTH:
            raise ValueError(
                f"rows_per_user must be at least 1 and length at least {4 * LENGTH}, "
                f"got {self.rows_per_user} and {self.length}"
            )


@dataclass(frozen=True, eq=False)
class PlantedPatterns:
    """Events (item, category) with the truth about noise, and rows: the candidate after `past` events of its user.

    Ids start at 2, as vocabularies do. `times` of events count from 0 for each user; the row comes at time `past`.
    """

    events: EventSequences
    noise: Bool[np.ndarray, "events"]
    triples: Int64[np.ndarray, "triples 3"]
    users: Int64[np.ndarray, "rows"]
    past: Int64[np.ndarray, "rows"]
    candidates: Int64[np.ndarray, "rows fields"]
    labels: Float32[np.ndarray, "rows"]

    def histories(self, length: int) -> Int64[np.ndarray, "rows {length} fields"]:
        """The newest `length` events before each row, padded on the left."""
        columns = self.past[:, None] + np.arange(-length, 0)
        ids = self.events.ids[np.maximum(self.events.starts[self.users][:, None] + columns, 0)]
        found: Int64[np.ndarray, "rows length fields"] = ids * (columns >= 0)[:, :, None]
        return found


def planted_patterns(config: PlantedPatternsConfig, seed: int = 0) -> PlantedPatterns:
    """Draw a world; equal arguments give equal bytes. An item's category is its number modulo 5."""
    random = np.random.default_rng(seed)
    triples = _triples(config, random)
    own = _own(config, random)
    repeats = -(-config.length // LENGTH)
    played = np.take_along_axis(own, random.integers(config.own, size=(config.users, repeats)), 1)
    noise = random.random((config.users, config.length)) < config.noise
    step = np.cumsum(~noise, axis=1) - 1  # of the clean sequence, at each event that is no noise
    clean = triples[played].reshape(config.users, -1)
    drawn = random.integers(config.items, size=noise.shape)
    items = np.where(noise, drawn, np.take_along_axis(clean, np.maximum(step, 0), 1))
    users, past = _rows(config, noise, step, random)
    playing = played[users, step[users, past - 1] // LENGTH]
    candidates, right = _candidates(triples, own[users], playing, random)
    clicks = random.random(len(users)) < np.where(right, config.click, 1 - config.click)
    return PlantedPatterns(
        events=EventSequences(
            _with_category(items.ravel()),
            np.tile(np.arange(config.length), config.users),
            np.arange(config.users + 1) * config.length,
        ),
        noise=noise.ravel(),
        triples=triples + RESERVED,
        users=users,
        past=past,
        candidates=_with_category(candidates),
        labels=clicks.astype(np.float32),
    )


def _triples(config: PlantedPatternsConfig, random: np.random.Generator) -> Int64[np.ndarray, "triples 3"]:
    """Triples 2 i and 2 i + 1 begin alike and end with different items."""
    prefixes = config.triples // 2
    four = random.permuted(np.tile(np.arange(config.items), (prefixes, 1)), axis=1)[:, : LENGTH + 1]
    return np.stack([four[:, [0, 1, 2]], four[:, [0, 1, 3]]], axis=1).reshape(-1, LENGTH)


def _own(config: PlantedPatternsConfig, random: np.random.Generator) -> Int64[np.ndarray, "users own"]:
    """Triples of each user, of different prefixes."""
    prefixes = random.permuted(np.tile(np.arange(config.triples // 2), (config.users, 1)), axis=1)[:, : config.own]
    return 2 * prefixes + random.integers(2, size=prefixes.shape)


def _rows(
    config: PlantedPatternsConfig,
    noise: Bool[np.ndarray, "users length"],
    step: Int64[np.ndarray, "users length"],
    random: np.random.Generator,
) -> tuple[Int64[np.ndarray, "rows"], Int64[np.ndarray, "rows"]]:
    """Users, and how many events are past: the last is a b, and the user's first half is never asked about."""
    asked = ~noise & (step % LENGTH == 1)
    asked[:, : config.length // 2] = False
    order = np.argsort(np.where(asked, random.random(asked.shape), 2.0), axis=1)[:, : config.rows_per_user]
    found = np.take_along_axis(asked, order, 1)
    users = np.broadcast_to(np.arange(len(asked))[:, None], order.shape)[found]
    return users.astype(np.int64), order[found].astype(np.int64) + 1


def _candidates(
    triples: Int64[np.ndarray, "triples 3"],
    own: Int64[np.ndarray, "rows own"],
    playing: Int64[np.ndarray, "rows"],
    random: np.random.Generator,
) -> tuple[Int64[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
    """The right end for half of the rows, each kind of wrong end for a quarter; and which are right."""
    rows = np.arange(len(own))
    others = own[rows[:, None], np.argsort(own == playing[:, None], axis=1, kind="stable")[:, :-1]]
    familiar = triples[others[rows, random.integers(others.shape[1], size=len(rows))], -1]
    kind = random.integers(4, size=len(rows))
    right, twin = triples[playing, -1], triples[playing ^ 1, -1]
    chosen = np.where(kind < 2, right, np.where(kind == 2, twin, familiar))
    return chosen, chosen == right


def _with_category(items: Int64[np.ndarray, "events"]) -> Int64[np.ndarray, "events 2"]:
    return np.stack([items + RESERVED, items % 5 + RESERVED], axis=1)
