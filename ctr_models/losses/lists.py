"""Rows that are ranked against each other: the whole batch, or the rows of one group (a user, a request).

Sums and log-sum-exps of every list at once, O(batch) whatever the number of lists, and without a host sync: lists are
numbered by sorting, so buffers have room for as many lists as there are rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Lists:
    """The list of every row, numbered from 0; at most `count` lists (some may hold no row)."""

    index: Int64[Tensor, "batch"]
    count: int

    def sums(self, values: Float[Tensor, "batch *outputs"]) -> Float[Tensor, "batch *outputs"]:
        """Of every row, the sum of `values` over its list."""
        totals = values.new_zeros(self.count, *values.shape[1:]).index_add(0, self.index, values)
        return totals.index_select(0, self.index)

    def logsumexp(self, values: Float[Tensor, "batch *outputs"]) -> Float[Tensor, "batch *outputs"]:
        """Of every row, log(sum(exp(values))) over its list; the maximum is taken out first, so nothing overflows."""
        spread = self.index.view(-1, *[1] * (values.ndim - 1)).expand_as(values)
        highest = values.new_full((self.count, *values.shape[1:]), -torch.inf)
        highest = highest.scatter_reduce(0, spread, values.detach(), "amax").index_select(0, self.index)
        return self.sums((values - highest).exp()).log() + highest


class Classes(NamedTuple):
    """Which rows are positive, and how many rows of each class the list of every row holds."""

    positive: Bool[Tensor, "batch"]
    positives: Float[Tensor, "batch"]
    negatives: Float[Tensor, "batch"]

    @property
    def mixed(self) -> Bool[Tensor, "batch"]:
        """Rows whose list holds both classes. A list of one class says nothing about ranking."""
        return (self.positives > 0) & (self.negatives > 0)


def lists_of(labels: Float[Tensor, "batch"], groups: Int64[Tensor, "batch"] | None) -> Lists:
    """One list per value of `groups`, in increasing order of the values; one list of all rows without groups.

    >>> lists_of(torch.zeros(4), torch.tensor([7, -1, 7, 3])).index.tolist()
    [2, 0, 2, 1]
    """
    if groups is None:
        return Lists(torch.zeros(len(labels), dtype=torch.int64, device=labels.device), 1)
    ordered, order = groups.sort()
    ranks = torch.zeros_like(order)
    ranks[1:] = ordered.diff().ne(0).cumsum(0)
    return Lists(torch.empty_like(order).scatter_(0, order, ranks), len(groups))


def classes_of(labels: Float[Tensor, "batch"], lists: Lists) -> Classes:
    """Rows with a label above one half are positive, all others negative."""
    positive = labels > 0.5
    counts = lists.sums(torch.stack([positive, ~positive], dim=1).to(at_least_float32(labels).dtype))
    return Classes(positive, counts[:, 0], counts[:, 1])


def at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In the precision that sums of exponentials need, whatever mixed precision made of them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
