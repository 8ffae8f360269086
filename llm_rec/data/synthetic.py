"""Planted worlds: small logs whose answer is known, for tests and benchmarks of learning.

Items belong to clusters and say so in their texts. Users walk from cluster to cluster along a planted cycle. Some
items are held back until a user's last event. So a model that learns from ids can find the next cluster and its popular
items, but only a model that reads texts (or vectors made from them) can rank an item that training never saw.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions

_WORDS_PER_CLUSTER = 8
_WORDS_PER_TEXT = 5
_REDRAWS = 8  # a repeated item is drawn again at most so often, so a user may own more events than a cluster has items
_PERIOD = 1_000_000  # seconds of simulated clock time; last events fall in its last tenth


@dataclass(frozen=True, eq=False)
class PlantedWorld:
    """A catalog, a log with clock times, and the planted truth behind them (row 0 is padding everywhere)."""

    catalog: Catalog
    log: Interactions
    embeddings: Float32[np.ndarray, "items_plus_one dim"]  # unit vectors around the cluster centres; row 0 zeros
    clusters: Int64[np.ndarray, "items_plus_one"]  # 0..num_clusters - 1; -1 for padding
    next_cluster: Int64[np.ndarray, "clusters"]  # where the planted walk goes from each cluster
    unseen: Bool[np.ndarray, "items_plus_one"]  # items that occur at most as a user's last event


def planted_world(
    num_users: int = 500,
    num_items: int = 240,
    *,
    num_clusters: int = 12,
    dim: int = 32,
    lengths: tuple[int, int] = (5, 15),
    follow: float = 0.85,
    unseen_items: float = 0.15,
    unseen_targets: float = 0.25,
    seed: int = 0,
) -> PlantedWorld:
    """Draw a world; equal arguments give equal bytes.

    A user has between `lengths[0]` and `lengths[1]` events. The next cluster is the planted one with probability
    `follow`, else any. Inside a cluster, items are drawn by a Zipf law, without repetition as far as possible. A share
    `unseen_items` of every cluster occurs only as last event (the test event of leave-one-out), which is one of them
    with probability `unseen_targets`. Last events are also the latest in clock time, as new releases are.

    Recall@10 of rules on the default world, for floors (leave-one-out, seen items removed; seeds 0 to 2): popularity
    .20; planted cluster, then popularity .55 (0 on unseen targets, .73 on the others); planted cluster's centre against
    the embeddings .46 (.43 on unseen targets).

    >>> world = planted_world(50, 24, num_clusters=3)
    >>> len(world.catalog), world.log.num_users, world.embeddings.shape, int(world.unseen.sum())
    (24, 50, (25, 32), 3)
    """
    if not 1 <= num_clusters <= num_items // 2:
        raise ValueError(f"num_clusters must be between 1 and num_items / 2 = {num_items // 2}, got {num_clusters}")
    if not 1 <= lengths[0] <= lengths[1]:
        raise ValueError(f"lengths must be (shortest, longest) with 1 <= shortest <= longest, got {lengths}")
    if not 0 <= unseen_items < 1:
        raise ValueError(f"unseen_items must be in [0, 1), got {unseen_items}")
    rng = np.random.default_rng(seed)
    clusters, unseen = _plant_items(num_items, num_clusters, unseen_items, rng)
    cycle = rng.permutation(num_clusters)
    next_cluster = np.empty(num_clusters, dtype=np.int64)
    next_cluster[cycle] = np.roll(cycle, -1)
    catalog = Catalog([f"item-{row}" for row in range(1, num_items + 1)], _texts(clusters[1:], rng))
    embeddings = _embeddings(clusters, num_clusters, dim, rng)

    sizes = rng.integers(lengths[0], lengths[1] + 1, size=num_users)
    ends_unseen = (rng.random(num_users) < unseen_targets) & unseen.any()
    popularity = 1 / rng.permuted(np.arange(1, num_items + 1)) ** 0.8
    usual = _Shelves.of(clusters, np.where(unseen[1:], 0.0, popularity), num_clusters)
    releases = _Shelves.of(clusters, unseen[1:].astype(np.float64), num_clusters)

    events = np.zeros((num_users, lengths[1]), dtype=np.int64)
    cluster = rng.integers(num_clusters, size=num_users)
    for step in range(lengths[1]):
        moved = np.where(
            rng.random(num_users) < follow, next_cluster[cluster], rng.integers(num_clusters, size=num_users)
        )
        cluster = cluster if step == 0 else moved
        drawn = _draw_new(usual, cluster, events[:, :step], rng)
        events[:, step] = np.where(ends_unseen & (step == sizes - 1), releases.draw(cluster, rng), drawn)
    real = np.arange(lengths[1]) < sizes[:, None]
    log = Interactions(
        [f"user-{user}" for user in range(num_users)],
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        events[real],
        _times(real, sizes, rng)[real],
        num_items=num_items,
        catalog=catalog.fingerprint,
    )
    return PlantedWorld(catalog, log, embeddings, clusters, next_cluster, unseen)


@dataclass(frozen=True, eq=False)
class _Shelves:
    """Items sorted by cluster with the running sum of their weights: a draw is one binary search."""

    rows: Int64[np.ndarray, "items"]
    mass: Float64[np.ndarray, "items"]
    low: Float64[np.ndarray, "clusters"]
    high: Float64[np.ndarray, "clusters"]

    @classmethod
    def of(
        cls, clusters: Int64[np.ndarray, "items_plus_one"], weights: Float64[np.ndarray, "items"], num_clusters: int
    ) -> "_Shelves":
        order = np.argsort(clusters[1:], kind="stable")
        mass = np.cumsum(weights[order])
        ends = np.searchsorted(clusters[1:][order], np.arange(num_clusters), side="right")
        high = mass[ends - 1]
        return cls(rows=order + 1, mass=mass, low=np.concatenate([[0.0], high[:-1]]), high=high)

    def draw(self, cluster: Int64[np.ndarray, "users"], rng: np.random.Generator) -> Int64[np.ndarray, "users"]:
        point = self.low[cluster] + rng.random(len(cluster)) * (self.high - self.low)[cluster]
        slots = np.searchsorted(self.mass, point, side="right")
        rows: np.ndarray = self.rows[np.minimum(slots, len(self.rows) - 1)]
        return rows


def _plant_items(
    num_items: int, num_clusters: int, unseen_items: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "items_plus_one"], Bool[np.ndarray, "items_plus_one"]]:
    """Cluster and unseen flag of every row; equal shares of each cluster, in an order that rows do not give away."""
    index = rng.permutation(num_items)
    held_back = min(round(unseen_items * (num_items // num_clusters)), num_items // num_clusters - 1)
    clusters = np.concatenate([[-1], index % num_clusters])
    unseen = np.concatenate([[False], index // num_clusters < held_back])
    return clusters.astype(np.int64), unseen


def _texts(clusters: Int64[np.ndarray, "items"], rng: np.random.Generator) -> list[str]:
    """A few words of the cluster's own vocabulary, then one word that says nothing."""
    num_clusters = int(clusters.max()) + 1
    words = _pseudo_words((num_clusters + 1) * _WORDS_PER_CLUSTER, rng).reshape(num_clusters + 1, _WORDS_PER_CLUSTER)
    order = np.argsort(rng.random((len(clusters), _WORDS_PER_CLUSTER)), axis=1)[:, :_WORDS_PER_TEXT]
    own = words[clusters[:, None], order]
    common = words[-1, rng.integers(_WORDS_PER_CLUSTER, size=len(clusters))]
    return [" ".join([*row, last]) for row, last in zip(own.tolist(), common.tolist(), strict=True)]


def _pseudo_words(number: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct words of three syllables."""
    syllables = np.array([first + second for first in "bdfgklmnprstvz" for second in "aeiou"])
    codes = rng.choice(len(syllables) ** 3, size=number, replace=False)
    one, two, three = np.unravel_index(codes, (len(syllables),) * 3)
    return np.char.add(np.char.add(syllables[one], syllables[two]), syllables[three])


def _embeddings(
    clusters: Int64[np.ndarray, "items_plus_one"], num_clusters: int, dim: int, rng: np.random.Generator
) -> Float32[np.ndarray, "items_plus_one dim"]:
    centres = rng.standard_normal((num_clusters, dim))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors: np.ndarray = centres[clusters] + rng.standard_normal((len(clusters), dim)) * (0.4 / np.sqrt(dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = 0
    return vectors.astype(np.float32)


def _draw_new(
    shelves: _Shelves,
    cluster: Int64[np.ndarray, "users"],
    history: Int64[np.ndarray, "users steps"],
    rng: np.random.Generator,
) -> Int64[np.ndarray, "users"]:
    drawn = shelves.draw(cluster, rng)
    for _ in range(_REDRAWS):
        repeated = (history == drawn[:, None]).any(axis=1)
        drawn = np.where(repeated, shelves.draw(cluster, rng), drawn)
    return drawn


def _times(
    real: Bool[np.ndarray, "users steps"], sizes: Int64[np.ndarray, "users"], rng: np.random.Generator
) -> Int64[np.ndarray, "users steps"]:
    """Rising within each user; the last event of everybody is later than every other event."""
    times = np.sort(np.where(real, rng.random(real.shape) * 0.9, 2.0), axis=1)
    users = np.arange(len(sizes))
    times[users, sizes - 1] = 0.9 + rng.random(len(sizes)) * 0.1
    seconds: np.ndarray = (times * _PERIOD).astype(np.int64)
    return seconds
