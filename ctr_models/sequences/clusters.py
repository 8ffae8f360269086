"""Hierarchical clusters of histories, batched and without chance: level by level, clusters above a size split in two.

TWIN-V2 clusters histories hierarchically; how is not established here, so all of this is our choice. Two-means of each
cluster starts from the event farthest from its mean and the event farthest from that one.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ctr_models.sequences.found import sortable


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

    A cluster of at most `max_size` events stays whole, and so does one of equal events.
    """
    vectors = events.float()
    mask = mask.expand(vectors.shape[:3])
    clusters = torch.zeros_like(mask, dtype=torch.long)
    for level in range(num_levels if events.shape[2] else 0):
        large = _members(clusters, mask, 1 << level).sum(-1).gt(max_size).gather(2, clusters)
        right = _split(vectors, mask, clusters, 1 << level, iterations) & large & mask
        clusters = 2 * clusters + right.long()
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
    weights = members / sizes.clamp(min=1.0).unsqueeze(-1)
    return Clusters(weights.to(events.dtype) @ events, sizes)


def _members(clusters: Tensor, mask: Tensor, count: int) -> Float[Tensor, "tables batch clusters length"]:
    numbers = torch.arange(count, device=clusters.device)
    return (clusters.unsqueeze(2).eq(numbers.unsqueeze(-1)) & mask.unsqueeze(2)).float()


def _split(
    vectors: Tensor, mask: Tensor, clusters: Tensor, count: int, iterations: int
) -> Bool[Tensor, "tables batch length"]:
    """Whether each event goes to the second half of its cluster."""
    means = cluster_means(vectors, mask, clusters, count).vectors
    left = _farthest(vectors, mask, clusters, means)
    right = _farthest(vectors, mask, clusters, left)
    side = _nearer_right(vectors, clusters, left, right)
    for _ in range(iterations):
        halves = cluster_means(vectors, mask, 2 * clusters + side.long(), 2 * count).vectors
        left, right = halves[:, :, 0::2], halves[:, :, 1::2]
        side = _nearer_right(vectors, clusters, left, right)
    return side


def _farthest(vectors: Tensor, mask: Tensor, clusters: Tensor, centres: Tensor) -> Tensor:
    """The member of each cluster farthest from its centre, the newest among equals; any event for no members."""
    keys = sortable(_distances(vectors, clusters, centres)).long() << 32
    keys = (keys + torch.arange(vectors.shape[2], device=vectors.device)).masked_fill(~mask, -1)
    best = keys.new_zeros(centres.shape[:3]).scatter_reduce(2, clusters, keys, "amax")
    return _rows(vectors, best & 0xFFFFFFFF)


def _nearer_right(vectors: Tensor, clusters: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return _distances(vectors, clusters, right) < _distances(vectors, clusters, left)


def _distances(vectors: Tensor, clusters: Tensor, centres: Tensor) -> Float[Tensor, "tables batch length"]:
    """Squared distances of events to the centres of their clusters."""
    return (vectors - _rows(centres, clusters)).square().sum(-1)


def _rows(values: Tensor, indices: Tensor) -> Tensor:
    return values.gather(2, indices.unsqueeze(-1).expand(-1, -1, -1, values.shape[-1]))
