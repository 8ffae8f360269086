"""Symmetric InfoNCE over the pairs of a batch, without the negatives that are none."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoNCEConfig:
    """`tile` rows of the matrix of cosines are in memory at a time: it changes memory and time, not the loss."""

    temperature: float = 0.05
    tile: int = 2048

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1, got {self.tile}")


@dataclass(frozen=True, eq=False)
class PairLabels:
    """Which pairs of a batch say the same: the text each side is of, and the pairs known to belong together.

    `known` holds sorted (i, j) where anchor i and positive j are a co-interaction of the train part.
    """

    anchors: Int64[Tensor, "pairs"]
    positives: Int64[Tensor, "pairs"]
    known: Int64[Tensor, "2 known"]

    def to(self, device: torch.device) -> "PairLabels":
        return PairLabels(self.anchors.to(device), self.positives.to(device), self.known.to(device))

    @property
    def swapped(self) -> "PairLabels":
        """The same with anchors and positives in each other's place."""
        return PairLabels(self.positives, self.anchors, self.known.flip(0))


def info_nce(
    anchors: Float[Tensor, "pairs dim"],
    positives: Float[Tensor, "pairs dim"],
    labels: PairLabels,
    config: InfoNCEConfig,
) -> Float32[Tensor, ""]:
    """Mean over pairs and both directions of -log softmax_j(cos(a_i, p_j) / temperature) at j = i.

    Candidate j leaves the softmax of anchor i (the other direction likewise, with the sides swapped) when p_j is of the
    text of a_i or of p_i, or is known to belong to a_i: it is no negative. The pair itself always stays.
    Computed in float32. van den Oord et al., arXiv 1807.03748, eq. 4; symmetric as in arXiv 2103.00020, fig. 3.
    """
    with torch.autocast(anchors.device.type, enabled=False):
        one, other = F.normalize(anchors.float(), dim=1), F.normalize(positives.float(), dim=1)
        forth = _direction(one, other, labels, config)
        back = _direction(other, one, labels.swapped, config)
        return (forth + back) / (2 * len(anchors))


def false_negatives(labels: PairLabels, start: int, stop: int) -> Bool[Tensor, "rows pairs"]:
    """Candidates that are no negatives of anchors `start` to `stop`; waits for nothing on the device."""
    rows, pairs = stop - start, len(labels.anchors)
    own, partner = labels.anchors[start:stop, None], labels.positives[start:stop, None]
    same = (labels.positives == own) | (labels.positives == partner)
    row, column = labels.known[0] - start, labels.known[1]
    inside = (row >= 0) & (row < rows)
    place = torch.where(inside, row * pairs + column, rows * pairs)  # the others fall behind the end
    known = torch.zeros(rows * pairs + 1, dtype=torch.bool, device=own.device).index_fill(0, place, True)
    masked = same | known[:-1].view(rows, pairs)
    itself = torch.arange(start, stop, device=own.device)[:, None] == torch.arange(pairs, device=own.device)
    return masked & ~itself


def _direction(
    queries: Float32[Tensor, "pairs dim"],
    candidates: Float32[Tensor, "pairs dim"],
    labels: PairLabels,
    config: InfoNCEConfig,
) -> Float32[Tensor, ""]:
    """Sum over queries; with several tiles each is computed again in the backward pass instead of being kept."""

    def tile(queries: Tensor, candidates: Tensor, start: int, stop: int) -> Tensor:
        logits = queries[start:stop] @ candidates.T / config.temperature
        logits = logits.masked_fill(false_negatives(labels, start, stop), -torch.inf)
        return F.cross_entropy(logits, torch.arange(start, stop, device=logits.device), reduction="sum")

    number = len(queries)
    if number <= config.tile:
        return tile(queries, candidates, 0, number)
    bounds = ((start, min(start + config.tile, number)) for start in range(0, number, config.tile))
    parts = [checkpoint(tile, queries, candidates, *edge, use_reentrant=False) for edge in bounds]
    return torch.stack(parts).sum()
