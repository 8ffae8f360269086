"""Which head serves which row, and how the parameters of all heads meet the rows in batched products.

Rows by domain have one view each, that of their own domain; rows by task have one view for each task. A routing brings
views (views batch width) into groups (groups size width) that share a head, gives each group its head's parameters, and
brings results back:

- `EveryHead`: a group is a head with all rows (tasks, or a model with one domain);
- `TileRouting`: rows sorted by domain and cut into tiles, so that each row runs one head. Nothing waits for the device:
  batch and domains alone say how many tiles there are, and the last tile of a domain is filled up with zeros;
- `MaskRouting`: all heads over all rows, of which one result a row is kept: the plain reference.

Forward and backward on one core, batch 4,096, towers 256-128-64-1, domains as uneven as 50 to 1: tiles are about 1.6,
2.5 and 12 times as fast as masks for 3, 5 and 30 domains. One product a domain in a loop takes 0.6 to 0.7 of the tiles'
time, but must wait for the device to count its rows (`scripts/bench_domains.py`).
"""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.schema import RESERVED, Schema

Dispatch = Literal["sort", "mask"]
TILE = 64  # rows; 32 and 128 are slower for 3 to 30 domains at batch 4,096
SMALLEST_TILE = 8


@dataclass(frozen=True, slots=True)
class EveryHead:
    """All rows meet each of `num_heads` heads."""

    num_heads: int

    def spread(self, rows: Float[Tensor, "views batch width"]) -> Float[Tensor, "heads batch width"]:
        """One view for all heads is repeated, without a copy."""
        return rows.expand(self.num_heads, -1, -1)

    def collect(self, values: Float[Tensor, "heads batch width"]) -> Float[Tensor, "heads batch width"]:
        """Each head is a view."""
        return values

    def select(self, parameter: Float[Tensor, "sets *shape"], copies: int = 1) -> Float[Tensor, "groups *shape"]:
        """Groups are heads, in order."""
        return parameter

    def own(self, views: Float[Tensor, "heads batch width"]) -> Float[Tensor, "heads batch width"]:
        """Every head's view."""
        return views

    def rows_of(self, values: Float[Tensor, "heads width"]) -> Float[Tensor, "heads 1 width"]:
        """What each head has, for all rows."""
        return values.unsqueeze(1)

    def as_root(self) -> "EveryHead":
        """One head is its own root, and tasks have none."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class TileRouting:
    """`slots`: where each row lies among the rows of all tiles; `heads`: whose parameters each tile takes."""

    domains: Int64[Tensor, "batch"]
    slots: Int64[Tensor, "batch"]
    heads: Int64[Tensor, "tiles"]
    tile: int

    def spread(self, rows: Float[Tensor, "1 batch width"]) -> Float[Tensor, "tiles tile width"]:
        """Rows in their tiles, zeros where there is none."""
        empty = rows.new_zeros(len(self.heads) * self.tile, rows.shape[2])
        return empty.index_copy(0, self.slots, rows[0]).view(-1, self.tile, rows.shape[2])

    def collect(self, values: Float[Tensor, "tiles tile width"]) -> Float[Tensor, "1 batch width"]:
        """Rows in the batch's order."""
        return values.flatten(0, 1).index_select(0, self.slots).unsqueeze(0)

    def select(self, parameter: Float[Tensor, "sets *shape"], copies: int = 1) -> Float[Tensor, "groups *shape"]:
        """Of the head of each tile; sets are heads, or `copies` in a row for each head."""
        return _select(parameter, self.heads, copies)

    def own(self, views: Float[Tensor, "heads batch width"]) -> Float[Tensor, "1 batch width"]:
        """Each row's view of its own domain."""
        return _own(views, self.domains)

    def rows_of(self, values: Float[Tensor, "heads width"]) -> Float[Tensor, "1 batch width"]:
        """What the domain of each row has."""
        return values.index_select(0, self.domains).unsqueeze(0)

    def as_root(self) -> "TileRouting":
        """The same tiles, all by one head: the same products on the same numbers as heads that are equal."""
        return replace(self, heads=torch.zeros_like(self.heads))


@dataclass(frozen=True, slots=True, eq=False)
class MaskRouting:
    """`heads`: whose parameters each of as many groups as there are domains takes."""

    domains: Int64[Tensor, "batch"]
    heads: Int64[Tensor, "groups"]

    def spread(self, rows: Float[Tensor, "1 batch width"]) -> Float[Tensor, "groups batch width"]:
        """All rows for every head."""
        return rows.expand(len(self.heads), -1, -1)

    def collect(self, values: Float[Tensor, "groups batch width"]) -> Float[Tensor, "1 batch width"]:
        """Of each row the result of its own domain."""
        return _own(values, self.domains)

    def select(self, parameter: Float[Tensor, "sets *shape"], copies: int = 1) -> Float[Tensor, "groups *shape"]:
        """See `TileRouting.select`."""
        return _select(parameter, self.heads, copies)

    def own(self, views: Float[Tensor, "heads batch width"]) -> Float[Tensor, "1 batch width"]:
        """Each row's view of its own domain."""
        return _own(views, self.domains)

    def rows_of(self, values: Float[Tensor, "heads width"]) -> Float[Tensor, "1 batch width"]:
        """What the domain of each row has."""
        return values.index_select(0, self.domains).unsqueeze(0)

    def as_root(self) -> "MaskRouting":
        """As `TileRouting.as_root`."""
        return replace(self, heads=torch.zeros_like(self.heads))


Routing: TypeAlias = EveryHead | TileRouting | MaskRouting


def by_domain(domains: Int64[Tensor, "batch"], num_domains: int, dispatch: Dispatch) -> Routing:
    """How rows of these domains (0..num_domains - 1) meet a head for each domain."""
    if num_domains == 1:
        return EveryHead(1)
    if dispatch == "mask":
        return MaskRouting(domains, torch.arange(num_domains, device=domains.device))
    return in_tiles(domains, num_domains, tile_rows(len(domains), num_domains))


def in_tiles(domains: Int64[Tensor, "batch"], num_domains: int, tile: int) -> TileRouting:
    """Tiles of `tile` rows: (batch + domains (tile - 1)) // tile of them are always enough."""
    device, batch = domains.device, len(domains)
    order = torch.argsort(domains, stable=True)
    counts = torch.zeros(num_domains, dtype=torch.int64, device=device).index_add_(0, domains, torch.ones_like(domains))
    ends = (counts + tile - 1).div(tile, rounding_mode="floor").cumsum(0)
    shifts = torch.cat([ends.new_zeros(1), ends[:-1]]) * tile - (counts.cumsum(0) - counts)
    places = torch.arange(batch, device=device) + shifts.index_select(0, domains.index_select(0, order))
    slots = torch.empty_like(places).index_copy_(0, order, places)
    tiles = torch.arange((batch + num_domains * (tile - 1)) // tile, device=device)
    heads = torch.searchsorted(ends, tiles, right=True).clamp(max=num_domains - 1)
    return TileRouting(domains, slots, heads, tile)


def tile_rows(batch: int, num_domains: int) -> int:
    """Rows of a tile: fewer in small batches, where most of a tile would be empty."""
    return max(SMALLEST_TILE, min(TILE, batch // num_domains))


def domains_of(schema: Schema, batch: FeatureBatch) -> Int64[Tensor, "batch"]:
    """Each row's domain, 0..num_domains - 1; all 0 where the schema has none.

    Rows without a domain, or with one that training never saw (ids 0 and 1), have no head: the first domain's scores
    them. That is for evaluation; leave such rows out of training, or they train the first domain's head.
    """
    if schema.domain is None:
        return torch.zeros(len(batch.labels), dtype=torch.int64, device=batch.labels.device)
    return (batch.ids[:, schema.id_columns[schema.domain].start] - RESERVED).clamp(min=0)


def _own(views: Tensor, domains: Int64[Tensor, "batch"]) -> Float[Tensor, "1 batch width"]:
    batch = len(domains)
    places = domains * batch + torch.arange(batch, device=domains.device)
    return views.flatten(0, 1).index_select(0, places).unsqueeze(0)


def _select(parameter: Tensor, heads: Int64[Tensor, "groups"], copies: int) -> Tensor:
    if copies == 1:
        return parameter.index_select(0, heads)
    own: Tensor = torch.unflatten(parameter, 0, (-1, copies))
    return own.index_select(0, heads).flatten(0, 1)
