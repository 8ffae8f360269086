"""The k best of many scores, always the same ones: among equal scores the higher index (the newer event) comes first.

`torch.topk` leaves open which of equal scores it gives, and equal scores are the rule in behaviour logs, where an item
occurs many times. Here the result is that of a stable sort of the whole row from its end, in a fraction of its time.
Large rows can come in tiles, so that the whole matrix of scores never exists (`running_topk`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.checks import check_at_least
from ctr_models.sequences.found import sortable

MISSING = -1  # the index where there are fewer than k
BLOCK = 8  # scores of which the maximum alone is looked at first,
SCREENED, LARGE = 4, 2**16  # where rows are that many times longer than k blocks, and there are so many scores


class TopK(NamedTuple):
    """Best first. Where a row has fewer than k scores above -inf, the rest is score -inf and index -1."""

    scores: Float[Tensor, "rows k"]
    indices: Int64[Tensor, "rows k"]


def ordered_topk(scores: Float[Tensor, "rows length"], k: int) -> TopK:
    """The k best of every row, by score, then by higher index; -inf marks what must not be found.

    >>> ordered_topk(torch.tensor([[1.0, 3.0, -torch.inf, 3.0]]), 5).indices.tolist()
    [[3, 1, 0, -1, -1]]
    """
    check_at_least("k", k, 1)
    length = scores.shape[1]
    indices = _first(scores, min(k, length))
    best = scores.gather(1, indices)
    indices = indices.masked_fill(best.isneginf(), MISSING)
    if k <= length:
        return TopK(best, indices)
    missing = k - length
    return TopK(F.pad(best, (0, missing), value=-torch.inf), F.pad(indices, (0, missing), value=MISSING))


def running_topk(tiles: Iterable[Float[Tensor, "rows _"]], k: int) -> TopK:
    """`ordered_topk` of all tiles side by side, holding one of them and the k best so far.

    >>> running_topk(iter([torch.tensor([[1.0, 3.0]]), torch.tensor([[3.0, 2.0]])]), 2).indices.tolist()
    [[2, 1]]
    """
    best: TopK | None = None
    start = 0
    for tile in tiles:
        found = ordered_topk(tile, k)
        shifted = found.indices.add(start).masked_fill(found.indices.eq(MISSING), MISSING)
        found = TopK(found.scores, shifted)
        best = found if best is None else merge_topk(best, found)
        start += tile.shape[1]
    if best is None:
        raise ValueError("there is no tile of scores; give at least one")
    return best


def merge_topk(first: TopK, second: TopK) -> TopK:
    """The k best of two results of which `first` comes from lower indices. Turned around, equal scores of each are in
    the order of their indices.
    """
    scores = torch.cat([first.scores.flip(1), second.scores.flip(1)], 1)
    indices = torch.cat([first.indices.flip(1), second.indices.flip(1)], 1)
    chosen = _first(scores, first.scores.shape[1])
    return TopK(scores.gather(1, chosen), indices.gather(1, chosen))


def _first(scores: Float[Tensor, "rows length"], k: int) -> Int64[Tensor, "rows k"]:
    """Columns of the k best; of equal scores the last column first."""
    rows, length = scores.shape
    if length >= SCREENED * BLOCK * k and rows * length >= LARGE:
        places = _screened(scores, k)
        return places.gather(1, _first(scores.gather(1, places), k))
    if scores.dtype != torch.float32:
        return length - 1 - torch.sort(scores.flip(1), dim=1, descending=True, stable=True).indices[:, :k]
    return _sort_keys(scores).topk(k, 1).values & 0xFFFFFFFF


def _screened(scores: Float[Tensor, "rows length"], k: int) -> Int64[Tensor, "rows kept"]:
    """Ascending columns that hold the k best: those of k blocks, and what is left over at the end of the row.

    Whatever is among the k best lies in one of the k blocks whose maxima are best (equal maxima: the later block).
    """
    maxima = F.max_pool1d(scores, BLOCK)
    blocks = _first(maxima, k).sort(1).values
    inside = torch.arange(BLOCK, device=scores.device)
    rest = torch.arange(maxima.shape[1] * BLOCK, scores.shape[1], device=scores.device)
    places = (blocks.unsqueeze(2) * BLOCK + inside).flatten(1)
    return torch.cat([places, rest.expand(len(scores), -1)], 1)


def _sort_keys(scores: Float[Tensor, "rows length"]) -> Int64[Tensor, "rows length"]:
    """Integers in the order of (score, column): all different, so that every way to sort agrees.

    Columns stand below the bits of a score.
    """
    columns = torch.arange(scores.shape[1], device=scores.device)
    return sortable(scores).long().bitwise_left_shift_(32).bitwise_or_(columns)
