"""Hash buckets of events (SDIM): which events collide with a candidate, directly or through a table a user.

`bits` hashes stand in groups of `group_size`; a group's signs number 2^group_size buckets. A candidate reads, in each
group, the mean of the events in its bucket, and averages the groups.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ctr_models.sequences.hamming import binary_numbers


class BucketTable(NamedTuple):
    """Sums and counts of a user's events in every bucket of every group; its size does not depend on the history."""

    sums: Float[Tensor, "tables users groups buckets width"]
    counts: Float[Tensor, "tables users groups buckets"]

    def plus(self, other: "BucketTable") -> "BucketTable":
        """Tables of two parts of a history make that of both: an event is appended by adding its own table."""
        return BucketTable(self.sums + other.sums, self.counts + other.counts)

    def minus(self, other: "BucketTable") -> "BucketTable":
        """The table without events that it holds, whose own table is `other` (exact up to rounding)."""
        return BucketTable(self.sums - other.sums, self.counts - other.counts)


def bucket_ids(signs: Bool[Tensor, "tables *shape bits"], group_size: int) -> Int64[Tensor, "tables *shape groups"]:
    """The bucket in each group: its signs read as a binary number, the first lowest.

    >>> bucket_ids(torch.tensor([[True, False, True, True]]), 2)
    tensor([[1, 3]])
    """
    return binary_numbers(signs, group_size, signs.shape[-1] // group_size).long()


def build_table(
    buckets: Int64[Tensor, "tables users length groups"],
    events: Float[Tensor, "tables users length width"],
    mask: Bool[Tensor, "users length"],
    num_buckets: int,
) -> BucketTable:
    """One pass over the history, as a product with 0 and 1: no atomic additions, so runs repeat to the bit."""
    one_hot = buckets.unsqueeze(-1).eq(torch.arange(num_buckets, device=buckets.device))
    members = (one_hot & mask[..., None, None]).to(events.dtype)
    sums = members.flatten(3).transpose(2, 3) @ events
    counts = members.sum(2, dtype=torch.promote_types(events.dtype, torch.float32))
    return BucketTable(torch.unflatten(sums, 2, members.shape[3:]), counts)


def read_table(
    table: BucketTable, buckets: Int64[Tensor, "tables batch groups"]
) -> tuple[Float[Tensor, "tables batch groups width"], Float[Tensor, "tables batch groups"]]:
    """Sums and counts of the candidates' buckets: one read a group, whatever the history.

    The table has a user for each candidate, or one user for all of them.
    """
    tables, users, groups, _, width = table.sums.shape
    rows = buckets.shape[1] if users == 1 else users
    sums = table.sums.expand(tables, rows, groups, -1, width)
    counts = table.counts.expand(tables, rows, groups, -1)
    index = buckets.unsqueeze(-1)
    found = sums.gather(3, index.unsqueeze(-1).expand(-1, -1, -1, 1, width)).squeeze(3)
    return found, counts.gather(3, index).squeeze(3)


def collide(
    target: Int64[Tensor, "tables batch groups"],
    buckets: Int64[Tensor, "tables batch length groups"],
    events: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "batch length"],
) -> tuple[Float[Tensor, "tables batch groups width"], Float[Tensor, "tables batch groups"]]:
    """Sums and counts of the events in the candidates' buckets without a table: less work for one candidate a user."""
    same = buckets.eq(target.unsqueeze(2)) & mask.unsqueeze(-1)
    counts = same.sum(2, dtype=torch.promote_types(events.dtype, torch.float32))
    return same.transpose(2, 3).to(events.dtype) @ events, counts
