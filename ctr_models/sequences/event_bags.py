"""Scores and weighted sums of past events straight from their table: on a CPU no vector of an event is ever written.

Target attention reads a history twice and writes its gradient twice:

    s_i = <q, e_i>,   h = sum_i w_i e_i,   dL/de_i = (dL/ds_i) q + w_i dL/dh

With e_i a row of a table, all four are products with one sparse matrix of batch rows by table rows: s a product sampled
at its entries, h a bag of embeddings, and the table's gradient its transpose times q or dL/dh. So the vectors of all
events (200 of 48 numbers a row, in both roles) and their gradients, whose writing is most of a training step, do not
exist. The transpose needs the look-ups sorted by table row once a batch; scores and sums of all roles share the order.
The values are those of `ctr_models.sequences.event_look_up` but for the order of sums.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


def _matrix(starts: Tensor, columns: Tensor, values: Shaped[Tensor, "entries"], shape: tuple[int, int]) -> Tensor:
    """Sparse by rows. A row may name a column more than once, so torch must not check that it does not."""
    return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


with warnings.catch_warnings():  # torch says once a process that this layout is in beta
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    _matrix(torch.zeros(2, dtype=torch.int32), torch.zeros(0, dtype=torch.int32), torch.zeros(0), (1, 1))


class Uses(NamedTuple):
    """Look-ups by table row: `rows` are those in use, in order; `order` the look-ups sorted by row, of equal ones the
    first before; `starts` where each row's begin, and their number at the end.
    """

    rows: Int64[Tensor, "used"]
    starts: Int[Tensor, "used_and_one"]
    order: Int64[Tensor, "look_ups"]


class EventIndex:
    """Which table rows the events of a batch are: a bag of `length` rows for each field of each history.

    `ids` are those of the fields, 0 for padding, whose rows give and get nothing.
    """

    def __init__(self, ids: Int64[Tensor, "batch length fields"], offsets: Int64[Tensor, "fields"]) -> None:
        by_field = ids.transpose(1, 2)
        real = by_field.ne(0)
        self.real: Bool[Tensor, "batch fields length"] | None = None if bool(real.all()) else real
        self.rows: Int64[Tensor, "batch fields length"] = by_field + offsets.unsqueeze(1)
        self.bags = self.rows.flatten(0, 1)

    @cached_property
    def uses(self) -> Uses:
        found = self.columns.sort(stable=True)
        rows, counts = torch.unique_consecutive(found.values, return_counts=True)
        return Uses(rows.long(), torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int(), found.indices)

    @cached_property
    def starts(self) -> Int[Tensor, "bags_and_one"]:
        """Where each bag begins among all look-ups."""
        bags, length = self.bags.shape
        return torch.arange(bags + 1, dtype=torch.int32) * length

    @cached_property
    def columns(self) -> Int[Tensor, "look_ups"]:
        return self.bags.flatten().int()

    @cached_property
    def bag_of_use(self) -> Int[Tensor, "look_ups"]:
        bags, length = self.bags.shape
        bag = torch.arange(bags, dtype=torch.int32).repeat_interleave(length)
        return bag.index_select(0, self.uses.order)

    def products(
        self, weight: Float[Tensor, "rows dim"], queries: Float[Tensor, "bags dim"]
    ) -> Float[Tensor, "bags length"]:
        """<query of the bag, row> of every look-up."""
        shape = (len(queries), len(weight))
        entries = _matrix(self.starts, self.columns, queries.new_zeros(self.bags.numel()), shape)
        found: Tensor = torch.sparse.sampled_addmm(entries, queries, weight.t())
        return found.values().view(self.bags.shape)

    def sums(
        self, weight: Float[Tensor, "rows dim"], weights: Float[Tensor, "bags length"]
    ) -> Float[Tensor, "bags dim"]:
        """sum_i w_i row_i of every bag."""
        factors, starts = weights.flatten(), self.starts[:-1]
        found: Tensor = F.embedding_bag(self.columns, weight, starts, per_sample_weights=factors, mode="sum")
        return found

    def spread(
        self, factors: Float[Tensor, "bags length"], vectors: Float[Tensor, "bags dim"]
    ) -> Float[Tensor, "used dim"]:
        """Of every row in use, the sum over its look-ups of factor * vector of the bag."""
        uses = self.uses
        shape = (len(uses.rows), len(vectors))
        return _matrix(uses.starts, self.bag_of_use, factors.flatten().index_select(0, uses.order), shape) @ vectors


@dataclass(frozen=True, slots=True, eq=False)
class EventBags:
    """Events of one role: parts of `weight` rows side by side, then the position, which all histories share."""

    weight: Float[Tensor, "rows dim"]
    index: EventIndex
    positions: Float[Tensor, "length position_dim"] | None
    sparse: bool

    def scores(self, query: Float[Tensor, "1 batch width"]) -> Float[Tensor, "1 batch length"]:
        """<query, event> of every event."""
        index, dim = self.index, self.weight.shape[1]
        fields = index.rows.shape[1]
        content = query[0, :, : fields * dim].reshape(-1, dim)
        products: Tensor = _Scores.apply(self.weight, content, index, self.sparse)  # type: ignore[no-untyped-call]
        total: Tensor = _real(torch.unflatten(products, 0, (-1, fields)), index).sum(1)
        if self.positions is not None:
            total = torch.addmm(total, query[0, :, fields * dim :], self.positions.t())
        return total.unsqueeze(0)

    def sums(self, weights: Float[Tensor, "1 batch n length"]) -> Float[Tensor, "1 batch n width"]:
        """Weighted sums of each history, for `n` sets of weights."""
        index = self.index
        fields = index.rows.shape[1]
        each = weights[0].transpose(0, 1).unsqueeze(2).expand(-1, -1, fields, -1)  # n batch fields length
        factors = _real(each, index).flatten(1, 2)
        found: Tensor = _Sums.apply(self.weight, factors, index, self.sparse)  # type: ignore[no-untyped-call]
        content = torch.unflatten(found, 1, (-1, fields)).flatten(2).transpose(0, 1)
        if self.positions is None:
            return content.unsqueeze(0)
        return torch.cat([content, weights[0] @ self.positions], -1).unsqueeze(0)


@dataclass(frozen=True, slots=True, eq=False)
class BagInput:
    """`SequenceInput` with bags in place of the events' vectors."""

    target: Float[Tensor, "1 batch width"]
    events: EventBags
    mask: Bool[Tensor, "batch length"]
    target_ids: Int64[Tensor, "batch fields"]
    event_ids: Int64[Tensor, "batch length fields"]
    attention_target: Float[Tensor, "1 batch attention_width"] | None = None
    attention_events: EventBags | None = None


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, queries: Tensor, index: EventIndex, sparse: bool) -> Tensor:
        ctx.save_for_backward(weight, queries)
        ctx.index, ctx.sparse = index, sparse  # type: ignore[attr-defined]
        return index.products(weight, queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, queries = ctx.saved_tensors  # type: ignore[attr-defined]
        index: EventIndex = ctx.index  # type: ignore[attr-defined]
        rows = index.spread(gradient, queries)
        return _gradient(weight, index, rows, ctx.sparse), index.sums(weight, gradient), None, None  # type: ignore[attr-defined]


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, weights: Tensor, index: EventIndex, sparse: bool) -> Tensor:
        ctx.save_for_backward(weight, weights)
        ctx.index, ctx.sparse = index, sparse  # type: ignore[attr-defined]
        return torch.stack([index.sums(weight, each) for each in weights])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, weights = ctx.saved_tensors  # type: ignore[attr-defined]
        index: EventIndex = ctx.index  # type: ignore[attr-defined]
        gradient = gradient.contiguous()
        pairs = list(zip(weights, gradient, strict=True))
        rows = torch.stack([index.spread(each, of_sum) for each, of_sum in pairs]).sum(0)
        to_weights = torch.stack([index.products(weight, of_sum) for of_sum in gradient])
        return _gradient(weight, index, rows, ctx.sparse), to_weights, None, None  # type: ignore[attr-defined]


def _gradient(weight: Tensor, index: EventIndex, rows: Float[Tensor, "used dim"], sparse: bool) -> Tensor:
    """Of the whole table, or with `sparse` of the rows in use alone, each once."""
    used = index.uses.rows
    if sparse:
        return torch.sparse_coo_tensor(
            used.unsqueeze(0), rows, tuple(weight.shape), check_invariants=False, is_coalesced=True
        )
    return torch.zeros_like(weight).index_copy_(0, used, rows)


def _real(
    values: Float[Tensor, "*n batch fields length"], index: EventIndex
) -> Float[Tensor, "*n batch fields length"]:
    return values if index.real is None else values * index.real
