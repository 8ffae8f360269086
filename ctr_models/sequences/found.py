"""Events that a search found, and how a search ranks: by score, the newest first among equals."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor, nn


class Found(NamedTuple):
    """Columns of the events found, best first, and which of them are events: a history may hold fewer than asked for.

    Columns of what is no event come last, are valid to gather from, and are to be masked.
    """

    indices: Int64[Tensor, "tables batch found"]
    mask: Bool[Tensor, "tables batch found"]


def best_events(
    scores: Float[Tensor, "tables batch length"], mask: Bool[Tensor, "*tables batch length"], top_k: int
) -> Found:
    """The `top_k` events of the highest scores (all columns where the history is shorter); exact, by float32.

    Among equal scores the newest wins, on every device: the bits of a float, read as an integer of the same order, and
    the column below them make keys without ties. `torch.topk` of the scores leaves ties open.

    >>> best_events(torch.tensor([[[9.0, 2.0, 1.0, 2.0]]]), torch.tensor([[False, True, True, True]]), 2).indices
    tensor([[[3, 1]]])
    """
    with torch.no_grad():
        return _best(sortable(scores), mask, top_k)


def nearest_events(
    distances: Int32[Tensor, "tables batch length"], mask: Bool[Tensor, "*tables batch length"], top_k: int
) -> Found:
    """The `top_k` events of the smallest integer distances, the newest first among equals."""
    return _best(-distances, mask, top_k)


def newest_events(chosen: Bool[Tensor, "batch length"], top_k: int) -> Found:
    """The `top_k` newest of the chosen events, for one table."""
    return _best(torch.zeros_like(chosen, dtype=torch.int32).unsqueeze(0), chosen, top_k)


def sortable(scores: Float[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """Integers in the order of float32 numbers: the bits, those below the sign flipped where it is set."""
    bits = (scores.detach().float() + 0.0).view(torch.int32)  # + 0.0: no negative zero
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _best(ranks: Int32[Tensor, "tables batch length"], mask: Bool[Tensor, "*tables batch length"], top_k: int) -> Found:
    length = ranks.shape[-1]
    place = torch.arange(length, device=ranks.device)
    keys = torch.where(
        mask, ranks.long().bitwise_left_shift_(32).add_(place), place - 2**63
    )  # padding after all events
    indices = keys.topk(min(top_k, length)).indices
    return Found(indices, mask.expand(ranks.shape).gather(2, indices))


def without_autocast(device: torch.device) -> torch.autocast:
    """Codes and clusters are the same in training and serving only if no context rounds their products."""
    return torch.autocast(device.type, enabled=False)


def take_events(
    values: Float[Tensor, "tables batch length width"], indices: Int64[Tensor, "#tables batch found"]
) -> Float[Tensor, "tables batch found width"]:
    """The rows of `values` at the columns given, which all tables may share: one gather."""
    tables, batch, length, width = values.shape
    first = torch.arange(tables * batch, device=indices.device).view(tables, batch, 1) * length
    return nn.functional.embedding(indices + first, values.reshape(-1, width))


def masked_softmax(scores: Float[Tensor, "*shape length"], mask: Bool[Tensor, "*shape length"]) -> Tensor:
    """Softmax over what is real, exactly 0 elsewhere, all 0 where nothing is; in float32 at least, as are its results.

    The mask is the lowest number of the scores' own type, so no constant overflows in half precision.
    """
    lowest = torch.finfo(scores.dtype).min
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.masked_fill(~mask, lowest).softmax(-1, dtype=precise)
    return weights.masked_fill(~mask, 0.0)
