"""Patterns: short windows of behaviour, each named by the event it ends with (its anchor).

    P_i = (b_(i-n+1), .., b_i)        the n = `slots` events up to i
    P_t = (b_(T-n+2), .., b_T, t)     the target's pattern: the candidate takes the anchor's slot

A window is a column number until it has been chosen: `best_columns` ranks anchors by their scores, `gather_windows`
reads the chosen ones, so a batch holds (patterns, slots) columns and never all windows of all events. Windows that
begin before the first event are cut there: such slots are masked and zero.

Reconstruction from the published description of DPN (arXiv 2404.11456); the paper's hyper-parameters are unknown to us.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.checks import check_at_least
from ctr_models.sequences.found import take_events
from ctr_models.sequences.search import best


class Anchors(NamedTuple):
    """Columns of chosen events, best first. Rows with fewer events than places have invalid ones at the end."""

    columns: Int64[Tensor, "tables batch patterns"]
    valid: Bool[Tensor, "tables batch patterns"]


class Windows(NamedTuple):
    """Events by slot, the anchor in the last one; zeros where `mask` is False."""

    vectors: Float[Tensor, "tables batch patterns slots width"]
    mask: Bool[Tensor, "tables batch patterns slots"]


@torch.no_grad()
def best_columns(
    scores: Float[Tensor, "tables batch length"], mask: Bool[Tensor, "batch length"], top_k: int, radius: int = 0
) -> Anchors:
    """The `top_k` events with the highest scores; of equal ones, the newest comes first.

    With a `radius` r, anchors are taken one by one, and no later one lies within r columns of an earlier one
    (non-maximum suppression): overlapping windows would count their common events again and again.

    >>> scores, mask = torch.tensor([[[0.1, 0.9, 0.9, 0.3]]]), torch.ones(1, 4, dtype=torch.bool)
    >>> best_columns(scores, mask, 2).columns.tolist(), best_columns(scores, mask, 2, radius=1).columns.tolist()
    ([[[2, 1]]], [[[2, 0]]])
    """
    check_at_least("top_k", top_k, 1)
    check_at_least("radius", radius, 0)
    if radius == 0 or scores.shape[2] == 0:
        found = best(scores, mask, top_k)
        return Anchors(found.indices, found.real)
    newest_first = scores.masked_fill(~mask, -torch.inf).flip(2)
    places_back, valid = _suppressed(newest_first, min(top_k, scores.shape[2]), radius)
    return Anchors(scores.shape[2] - 1 - places_back, valid)


def _suppressed(scores: Float[Tensor, "tables batch length"], places: int, radius: int) -> Anchors:
    """Greedy choice, one place at a time for all rows. `argmax` takes the first of equal scores."""
    numbers = torch.arange(scores.shape[2], device=scores.device)
    columns, valid = [], []
    for _ in range(places):
        chosen = scores.argmax(2, keepdim=True)
        columns.append(chosen)
        valid.append(scores.gather(2, chosen) > -torch.inf)
        scores = scores.masked_fill((numbers - chosen).abs() <= radius, -torch.inf)
    return Anchors(torch.cat(columns, 2), torch.cat(valid, 2))


def newest_columns(mask: Bool[Tensor, "batch length"], count: int, num_tables: int) -> Anchors:
    """The last `count` events, newest first, whatever their scores."""
    length = mask.shape[1]
    columns = torch.arange(length - 1, max(length - count, 0) - 1, -1, device=mask.device)
    shape = (num_tables, len(mask), len(columns))
    return Anchors(columns.expand(shape), mask[:, columns].expand(shape))


def window_columns(anchors: Int64[Tensor, "*shape"], slots: int) -> Int64[Tensor, "*shape {slots}"]:
    """The columns of each window; negative ones lie before the first.

    >>> window_columns(torch.tensor([5, 1]), 3).tolist()
    [[3, 4, 5], [-1, 0, 1]]
    """
    return anchors.unsqueeze(-1) + torch.arange(1 - slots, 1, device=anchors.device)


def gather_windows(
    events: Float[Tensor, "tables batch length width"], mask: Bool[Tensor, "batch length"], anchors: Anchors, slots: int
) -> Windows:
    """Windows that end at `anchors`: one gather of patterns * slots rows for each user. Invalid ones are all masked."""
    columns = window_columns(anchors.columns, slots)
    places = columns.clamp(min=0).flatten(2)
    vectors = torch.unflatten(take_events(events, places), 2, columns.shape[2:])
    real = torch.unflatten(mask.expand(len(events), -1, -1).gather(2, places), 2, columns.shape[2:])
    real = real & (columns >= 0) & anchors.valid.unsqueeze(-1)
    return Windows(vectors * real.unsqueeze(-1), real)


def all_windows(
    events: Float[Tensor, "tables batch length width"], mask: Bool[Tensor, "batch length"], slots: int
) -> Windows:
    """The window of every column, in order: strided views of padded events, for caches and small histories."""
    vectors = events * mask.unsqueeze(-1)
    cut = F.pad(vectors, (0, 0, slots - 1, 0)).unfold(2, slots, 1).movedim(-1, 3)
    real = F.pad(mask, (slots - 1, 0)).unfold(1, slots, 1) & mask.unsqueeze(-1)
    return Windows(cut, real.expand(len(events), -1, -1, -1))


def id_windows(ids: Int64[Tensor, "batch length fields"], slots: int) -> Int64[Tensor, "batch length {slots} fields"]:
    """The ids of every column's window: a strided view, with 0 before the first column.

    >>> id_windows(torch.tensor([[[7], [8], [9]]]), 2).squeeze(-1).tolist()
    [[[0, 7], [7, 8], [8, 9]]]
    """
    return F.pad(ids, (0, 0, slots - 1, 0)).unfold(1, slots, 1).movedim(-1, 2)


def target_window(
    target: Float[Tensor, "tables batch width"],
    events: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "batch length"],
    slots: int,
) -> Windows:
    """The target's pattern: the newest slots - 1 events and the candidate; one pattern a row."""
    past = min(slots - 1, mask.shape[1])
    start = mask.shape[1] - past
    real = F.pad(mask[:, start:], (slots - 1 - past, 0))
    newest = F.pad(events[:, :, start:], (0, 0, slots - 1 - past, 0)) * real.unsqueeze(-1)
    vectors = torch.cat([newest, target.unsqueeze(2)], 2)
    real = F.pad(real, (0, 1), value=True).expand(len(target), -1, -1)
    return Windows(vectors.unsqueeze(2), real.unsqueeze(2))
