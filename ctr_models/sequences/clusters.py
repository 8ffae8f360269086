"""Hierarchical clusters of histories, batched and without chance: level by level, clusters above a size split in two.

TWIN-V2 clusters histories hierarchically; how is not established here, so all of this is our choice. Two-means of each
cluster starts from its newest event and the event farthest from that one.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ctr_models.sequences.found import sortable, take_events, without_autocast


class _History(NamedTuple):
    """Events with the squares of their lengths, and which columns are events."""

    vectors: Float[Tensor, "tables batch length width"]
    squares: Float[Tensor, "tables batch length"]
    mask: Bool[Tensor, "tables batch length"]


class Clusters(NamedTuple):
    """Mean vector and number of events of each cluster; size 0 where there is none."""

    vectors: Float[Tensor, "tables batch clusters width"]
    sizes: Float[Tensor, "tables batch clusters"]


@torch.no_grad()
def hierarchical_clusters(
    events: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "batch length"],
    *,
    num_levels: int,
    max_size: int,
    iterations: int,
) -> Int64[Tensor, "tables batch length"]:
    """The cluster of each event, of 2^num_levels numbers not all of which are used; padding says 0 and means nothing.

    A cluster of at most `max_size` events stays whole, and so does one of equal events. All is in float32.
    """
    vectors = events.float()
    history = _History(vectors, vectors.square().sum(-1), mask.expand(vectors.shape[:3]))
    clusters = torch.zeros_like(history.mask, dtype=torch.long)
    with without_autocast(events.device):
        for level in range(num_levels if events.shape[2] else 0):
            sizes = clusters.new_zeros(*clusters.shape[:2], 1 << level).scatter_add(2, clusters, history.mask.long())
            right = _split(history, clusters, 1 << level, iterations)
            clusters = 2 * clusters + (right & history.mask & sizes.gather(2, clusters).gt(max_size)).long()
    return clusters


def cluster_means(
    events: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "*tables batch length"],
    clusters: Int64[Tensor, "tables batch length"],
    num_clusters: int,
) -> Clusters:
    """Means, through which a gradient flows, as a product with 0 and 1 (no atomic additions: runs repeat)."""
    members = _members(clusters, mask.expand(clusters.shape), num_clusters)
    sizes = members.sum(-1)
    sums = members.to(events.dtype) @ events
    return Clusters(sums / sizes.clamp(min=1.0).unsqueeze(-1).to(sums.dtype), sizes)


def _members(clusters: Tensor, mask: Tensor, count: int) -> Float[Tensor, "tables batch clusters length"]:
    numbers = torch.arange(count, device=clusters.device)
    return (clusters.unsqueeze(2).eq(numbers.unsqueeze(-1)) & mask.unsqueeze(2)).float()


def _split(history: _History, clusters: Tensor, count: int, iterations: int) -> Bool[Tensor, "tables batch length"]:
    """Whether each event goes to the second half of its cluster."""
    vectors, mask = history.vectors, history.mask
    columns = torch.arange(vectors.shape[2], device=vectors.device)
    left = take_events(vectors, _largest(columns.expand_as(clusters), mask, clusters, count))
    keys = (sortable(_distances(history, clusters, left)).long() << 32) + columns
    right = take_events(vectors, _largest(keys, mask, clusters, count) & 0xFFFFFFFF)
    side = _nearer_right(vectors, clusters, left, right)
    for _ in range(iterations):
        halves = cluster_means(vectors, mask, 2 * clusters + side.long(), 2 * count).vectors
        side = _nearer_right(vectors, clusters, halves[:, :, 0::2], halves[:, :, 1::2])
    return side


def _largest(keys: Tensor, mask: Tensor, clusters: Tensor, count: int) -> Int64[Tensor, "tables batch clusters"]:
    """The largest key, not negative, of each cluster's events; 0 for a cluster without."""
    empty = keys.new_zeros(*clusters.shape[:2], count)
    return empty.scatter_reduce(2, clusters, keys.masked_fill(~mask, 0), "amax")


def _distances(history: _History, clusters: Tensor, centres: Tensor) -> Float[Tensor, "tables batch length"]:
    """Squared distances of events to the centres of their clusters, |x|^2 - 2 <x, c> + |c|^2."""
    products = _own(history.vectors, clusters, centres)
    return (history.squares - 2 * products + centres.square().sum(-1).gather(2, clusters)).clamp(min=0)


def _nearer_right(
    vectors: Tensor, clusters: Tensor, left: Tensor, right: Tensor
) -> Bool[Tensor, "tables batch length"]:
    """<x, r - l> > (|r|^2 - |l|^2) / 2."""
    middles = (right.square().sum(-1) - left.square().sum(-1)) / 2
    return _own(vectors, clusters, right - left) > middles.gather(2, clusters)


def _own(vectors: Tensor, clusters: Tensor, centres: Tensor) -> Float[Tensor, "tables batch length"]:
    """<x, c> of every event and its cluster's vector, out of the products with all of them: no vector is gathered."""
    return (vectors @ centres.transpose(2, 3)).gather(3, clusters.unsqueeze(3)).squeeze(3)
