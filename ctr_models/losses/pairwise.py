"""Pairwise logistic loss over all (positive, negative) pairs, without ever holding all pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, assert_never, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ctr_models.losses.lists import Classes, Lists, at_least_float32, classes_of, lists_of

PairReduction: TypeAlias = Literal["pairs", "groups"]

_CPU_PAIRS = 1 << 16  # pairs of one tile: two float32 tiles stay in a core's cache
_GPU_PAIRS = 1 << 24
_SMALL_GROUP = 1 << 12  # pairs up to which the pairs of a group are listed instead of tiled


class PairTerms(NamedTuple):
    """The pairwise loss and its gradient with respect to every logit."""

    loss: Float[Tensor, ""]
    gradient: Float[Tensor, "batch"]


def pairwise_logistic(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None = None,
    *,
    pair_reduction: PairReduction = "pairs",
    temperature: float = 1.0,
    tile: int | None = None,
) -> Float[Tensor, ""]:
    """RankNet's loss (Burges et al., 2005), the ranking term of Combined-Pair in arXiv 2403.14144:

        L = mean over i in P, j in N of softplus(-(s_i - s_j) / temperature)

    With groups only pairs inside one group count. `pair_reduction`: "pairs" is the mean over all of them (as EasyRec),
    "groups" the mean of each group's own mean. Positives are not weighted. A batch or group of one class adds exactly
    0; the result stays connected to `logits`. Every pair costs time, so for lists of many thousands prefer
    `listwise_softmax`, which is O(batch).

    Value and gradient come from one pass over tiles of `tile` positives against all negatives (None: what suits the
    device), O(tile * negatives) memory. No host sync on an accelerator: there, masked tiles over batch x batch replace
    the selection of rows. Second derivatives are not available.

    >>> loss = pairwise_logistic(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 0.0, 0.0]))
    >>> round(loss.item(), 4)  # (softplus(-1) + softplus(1)) / 2
    0.8133
    """
    scores = at_least_float32(logits) / temperature
    applied = _Pairwise.apply(scores, labels, groups, pair_reduction, tile)  # type: ignore[no-untyped-call]
    return cast(Tensor, applied)


def pair_terms(
    logits: Float[Tensor, "batch"],
    labels: Float[Tensor, "batch"],
    groups: Int64[Tensor, "batch"] | None,
    pair_reduction: PairReduction,
    tile: int | None = None,
) -> PairTerms:
    """Loss and closed-form gradient: dL/ds_j = sum_i c_i sigmoid(s_j - s_i), dL/ds_i = -c_i sum_j sigmoid(s_j - s_i),
    where c_i is one over the number of pairs (times the number of groups, if those are averaged).
    """
    lists = lists_of(labels, groups)
    classes = classes_of(labels.to(logits.dtype), lists)
    weights = _pair_weights(classes, pair_reduction)
    if logits.device.type != "cpu":
        return _masked(logits, classes, weights, None if groups is None else lists.index, tile)
    if groups is None:
        return _selected(logits, classes.positive, weights, tile)
    return _grouped(logits, lists, classes, weights, tile)


class _Pairwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        logits: Tensor,
        labels: Tensor,
        groups: Tensor | None,
        pair_reduction: PairReduction,
        tile: int | None,
    ) -> Tensor:
        terms = pair_terms(logits, labels, groups, pair_reduction, tile)
        ctx.save_for_backward(terms.gradient)
        return terms.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * grad, None, None, None, None


def _pair_weights(classes: Classes, pair_reduction: PairReduction) -> Float[Tensor, "batch"]:
    """Weight of every pair of a positive row; 0 for negative rows."""
    own = classes.positive * classes.negatives  # pairs of a row
    match pair_reduction:
        case "pairs":
            return classes.positive / own.sum().clamp(min=1)
        case "groups":
            shares = own / (classes.positives * classes.negatives).clamp(min=1)  # sum to 1 over a group's positives
            number = shares.sum().clamp(min=1)
            return classes.positive / (classes.positives * classes.negatives).clamp(min=1) / number
        case _:
            assert_never(pair_reduction)


def _selected(
    logits: Float[Tensor, "batch"],
    positive: Bool[Tensor, "batch"],
    weights: Float[Tensor, "batch"],
    tile: int | None,
) -> PairTerms:
    """All positives against all negatives, by their rows."""
    high, low = positive.nonzero().flatten(), (~positive).nonzero().flatten()
    gradient = torch.zeros_like(logits)
    loss, gradient[high], gradient[low] = _tiles(logits[high], logits[low], weights[high], None, tile)
    return PairTerms(loss, gradient)


def _masked(
    logits: Float[Tensor, "batch"],
    classes: Classes,
    weights: Float[Tensor, "batch"],
    index: Int64[Tensor, "batch"] | None,
    tile: int | None,
) -> PairTerms:
    """Every row against every row with a mask: more arithmetic, but sizes are known without asking the device."""
    related = _Related(~classes.positive, index)
    loss, up, down = _tiles(logits, logits, weights, related, tile)
    return PairTerms(loss, up + down)


def _grouped(
    logits: Float[Tensor, "batch"], lists: Lists, classes: Classes, weights: Float[Tensor, "batch"], tile: int | None
) -> PairTerms:
    """Rows sorted by (group, class), positives first: a small group lists its pairs, a large one is tiled."""
    order = (lists.index * 2 + ~classes.positive).argsort()
    scores, rates = logits[order], weights[order]
    up, down = classes.positives[order].long(), classes.negatives[order].long()
    starts = torch.searchsorted(lists.index[order], lists.index[order])  # where the group of each row starts
    gradient = torch.zeros_like(scores)
    small = classes.positive[order] & (up * down <= _SMALL_GROUP)
    high, low = _listed_pairs(small.nonzero().flatten(), starts + up, down)
    margin = scores[high] - scores[low]
    loss = -(rates[high] * F.logsigmoid(margin)).sum()
    share = torch.sigmoid(-margin).mul_(rates[high])
    gradient.index_add_(0, high, share, alpha=-1).index_add_(0, low, share)
    for first, middle, last in _large_groups(starts, up, down):
        block = _tiles(scores[first:middle], scores[middle:last], rates[first:middle], None, tile)
        loss, gradient[first:middle], gradient[middle:last] = loss + block.loss, block.high, block.low
    return PairTerms(loss, torch.empty_like(gradient).index_copy_(0, order, gradient))


def _listed_pairs(
    high: Int64[Tensor, "positives"], first: Int64[Tensor, "batch"], number: Int64[Tensor, "batch"]
) -> tuple[Int64[Tensor, "pairs"], Int64[Tensor, "pairs"]]:
    """Rows of every pair: each positive of `high` with `number` negatives from row `first` on."""
    repeats = number[high]
    ends = repeats.cumsum(0)
    pairs = torch.repeat_interleave(high, repeats)
    places = torch.arange(len(pairs)) - torch.repeat_interleave(ends - repeats, repeats)
    return pairs, first[pairs] + places


def _large_groups(
    starts: Int64[Tensor, "batch"], up: Int64[Tensor, "batch"], down: Int64[Tensor, "batch"]
) -> Iterator[tuple[int, int, int]]:
    """First positive, first negative and end of every group with more pairs than are listed."""
    heads = ((torch.arange(len(starts)) == starts) & (up * down > _SMALL_GROUP)).nonzero().flatten()
    bounds = torch.stack([heads, heads + up[heads], heads + up[heads] + down[heads]], dim=1)
    yield from ((first, middle, last) for first, middle, last in bounds.tolist())


@dataclass(frozen=True, slots=True, eq=False)
class _Related:
    """Which columns are negatives, and the group of rows and columns, if pairs must share one."""

    negative: Bool[Tensor, "batch"]
    index: Int64[Tensor, "batch"] | None

    def mask(self, rows: slice) -> Bool[Tensor, "#rows batch"]:
        if self.index is None:
            return self.negative[None]
        return self.negative & (self.index[rows, None] == self.index)


class _Block(NamedTuple):
    loss: Float[Tensor, ""]
    high: Float[Tensor, "positives"]
    low: Float[Tensor, "negatives"]


def _tiles(
    high: Float[Tensor, "positives"],
    low: Float[Tensor, "negatives"],
    weights: Float[Tensor, "positives"],
    related: _Related | None,
    tile: int | None,
) -> _Block:
    """sum_i c_i sum_j softplus(low_j - high_i) and its gradients, `tile` rows i at a time."""
    budget = _CPU_PAIRS if high.device.type == "cpu" else _GPU_PAIRS
    step = tile or max(1, budget // max(len(low), 1))
    loss, up, down = high.new_zeros(()), torch.empty_like(high), torch.zeros_like(low)
    for first in range(0, len(high), step):
        rows = slice(first, first + step)
        margin = high[rows, None] - low
        terms, share = F.logsigmoid(margin), margin.neg_().sigmoid_()
        if related is not None:
            mask = related.mask(rows)
            terms, share = terms * mask, share.mul_(mask)
        loss -= weights[rows] @ terms.sum(1)
        up[rows] = -weights[rows] * share.sum(1)
        down += weights[rows] @ share
    return _Block(loss, up, down)
