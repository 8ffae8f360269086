"""Search: which events of a history are attended to.

A search scores every event against the candidate and gives the best k. What `ctr_models.sequences` attends with is the
score itself (search and attention agree, TWIN and DARE); a search by codes or categories gives events alone, and their
attention scores are computed afterwards.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from ctr_models.sequences.found import best_events


class ScoredEvents(NamedTuple):
    """Events in falling order of score. Where a history has fewer than k, the rest are padding: not `real`, with the
    smallest finite score of their type.
    """

    scores: Float[Tensor, "tables batch k"]
    indices: Int64[Tensor, "tables batch k"]
    real: Bool[Tensor, "tables batch k"]


@runtime_checkable
class Search(Protocol):
    """Vectors of candidates and events -> the k events that suit each candidate best, of all `length` where k is more.

    `bias` is added to the scores (a term of position, which needs no vectors). An event is never padding while a real
    one is left.
    """

    def __call__(
        self,
        query: Float[Tensor, "tables batch width"],
        keys: Float[Tensor, "tables batch length width"],
        mask: Bool[Tensor, "batch length"],
        k: int,
        bias: Float[Tensor, "#tables #batch length"] | None = None,
    ) -> ScoredEvents: ...


def exact_search(
    query: Float[Tensor, "tables batch width"],
    keys: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "batch length"],
    k: int,
    bias: Float[Tensor, "#tables #batch length"] | None = None,
) -> ScoredEvents:
    """The k largest dot products, by brute force: faster than an index a user up to tens of thousands of events."""
    scores = dot_scores(query, keys)
    return best(scores if bias is None else scores + bias, mask, k)


def dot_scores(
    query: Float[Tensor, "tables batch width"], keys: Float[Tensor, "tables batch length width"]
) -> Float[Tensor, "tables batch length"]:
    """<q, k_i> of every event, one batched product."""
    scores: Tensor = torch.einsum("tbw,tblw->tbl", query, keys)
    return scores


def best(scores: Float[Tensor, "tables batch length"], mask: Bool[Tensor, "batch length"], k: int) -> ScoredEvents:
    """The k best of given scores. Of equal ones the newest come first, so the result is the same on every device.

    >>> best(torch.tensor([[[1.0, 3.0, 1.0]]]), torch.tensor([[True, True, True]]), 2).indices.tolist()
    [[[1, 2]]]
    """
    _check_k(k)
    if scores.dtype == torch.float64:
        indices = _by_sort(scores, mask)[..., :k]
    else:
        indices = best_events(scores, mask, k).indices
    real = mask.expand_as(scores).gather(-1, indices)
    return ScoredEvents(masked(scores.gather(-1, indices), real), indices, real)


def newest(
    matches: Bool[Tensor, "batch length"], mask: Bool[Tensor, "batch length"], k: int
) -> Int64[Tensor, "batch k"]:
    """The newest k events that match, filled up with the newest others; padding comes last.

    >>> newest(torch.tensor([[True, False, False]]), torch.tensor([[True, True, True]]), 2).tolist()
    [[0, 2]]
    """
    _check_k(k)
    length = matches.shape[1]
    place = torch.arange(length, device=matches.device)
    rank = place + length * (mask.long() + (mask & matches))
    return rank.topk(min(k, length), dim=1).indices


def masked(scores: Float[Tensor, "*shape"], mask: Bool[Tensor, "..."]) -> Float[Tensor, "*shape"]:
    """Scores, with the smallest finite number of their type where a mask, which may broadcast, is False."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def take(values: Shaped[Tensor, "batch length *rest"], indices: Int64[Tensor, "batch k"]) -> Tensor:
    """Columns `indices` of each row: (batch, k, ...)."""
    rows = indices + torch.arange(indices.shape[0], device=indices.device).unsqueeze(1) * values.shape[1]
    taken: Tensor = torch.unflatten(values.flatten(0, 1).index_select(0, rows.flatten()), 0, indices.shape)
    return taken


def _by_sort(scores: Tensor, mask: Tensor) -> Tensor:
    """For numbers of 64 bits, which leave no room for a place: newest first, stable by score, stable by mask."""
    known = scores.detach().masked_fill(~mask, -torch.inf)
    by_score = known.flip(-1).sort(dim=-1, descending=True, stable=True).indices
    real = mask.flip(-1).expand_as(scores).gather(-1, by_score)
    by_mask = real.byte().sort(dim=-1, descending=True, stable=True).indices
    return scores.shape[-1] - 1 - by_score.gather(-1, by_mask)


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
