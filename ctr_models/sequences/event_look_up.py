"""Candidates and events of a batch from one table and one of positions, as one operation with its own gradient.

A look-up, its product with the mask, the concatenation with positions and the split into candidates and events each
write the vectors of all events anew, forward and backward; that, and not arithmetic, is what a training step of long
histories costs on a CPU. Here rows go straight to their place beside the positions, and gradients straight from there
to the rows they belong to. `PartTables` and this give the same values, and the same gradients but for the order of
sums.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class LookedUp(NamedTuple):
    """Fields side by side, then the position where there is one."""

    target: Float[Tensor, "batch width"]
    events: Float[Tensor, "batch length width"]


def look_up_events(
    weight: Float[Tensor, "rows dim"],
    ids: Int64[Tensor, "batch columns fields"],
    offsets: Int64[Tensor, "fields"],
    times: Float[Tensor, "columns time_dim"] | None = None,
    *,
    sparse: bool = False,
) -> LookedUp:
    """Column 0 is the candidate. A field's rows begin at its offset, with that of padding (id 0), which gives zeros and
    gets no gradient. `times` are the vectors of the columns' positions, the same for the whole batch. With `sparse` the
    gradient of `weight` holds the rows of the batch alone, an id and a gradient for each look-up.

    >>> weight, ids = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[[2], [0], [1]]])
    >>> look_up_events(weight, ids, torch.tensor([0]), torch.tensor([[7.0], [8.0], [9.0]])).events.tolist()
    [[[0.0, 8.0], [1.0, 9.0]]]
    """
    target, events = _LookUp.apply(weight, ids, offsets, times, sparse)  # type: ignore[no-untyped-call]
    return LookedUp(target, events)


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, weight: Tensor, ids: Tensor, offsets: Tensor, times: Tensor | None, sparse: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids, offsets)
        ctx.table, ctx.sparse, ctx.timed = weight.shape, sparse, times is not None  # type: ignore[attr-defined]
        target, events = (
            _vectors(weight, ids[:, part], offsets, None if times is None else times[part])
            for part in (slice(0, 1), slice(1, None))
        )
        return target.squeeze(1), events

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, target: Tensor, events: Tensor) -> tuple[Tensor | None, ...]:
        ids, offsets = ctx.saved_tensors  # type: ignore[attr-defined]
        (size, dim), sparse, timed = ctx.table, ctx.sparse, ctx.timed  # type: ignore[attr-defined]
        pieces = [
            Piece(
                at[..., field].flatten(), gradient[..., field * dim : (field + 1) * dim].flatten(0, 1), offsets[field]
            )
            for gradient, at in ((target.unsqueeze(1), ids[:, :1]), (events, ids[:, 1:]))
            for field in range(len(offsets))
        ]
        to_weight = _of_lookups(pieces, size) if sparse else _of_rows(pieces, offsets, size)
        width = dim * len(offsets)
        to_times = torch.cat([target[:, width:].sum(0, keepdim=True), events[..., width:].sum(0)]) if timed else None
        return to_weight, None, None, to_times, None


class Piece(NamedTuple):
    """Ids of one field, and the gradients of what was read of them: a view whose rows lie apart."""

    ids: Int64[Tensor, "lookups"]
    gradients: Float[Tensor, "lookups dim"]
    offset: Int64[Tensor, ""]


def _vectors(
    weight: Tensor, ids: Tensor, offsets: Tensor, times: Tensor | None
) -> Float[Tensor, "batch columns width"]:
    batch, columns, fields = ids.shape
    dim, timed = weight.shape[1], 0 if times is None else times.shape[1]
    found = weight.new_empty(batch, columns, fields * dim + timed)
    flat = found.flatten(0, 1)
    for field in range(fields):
        rows = ids[..., field].flatten() + offsets[field]
        torch.index_select(weight, 0, rows, out=flat[:, field * dim : (field + 1) * dim])
    real = ids.ne(0)
    if not _all(real):
        torch.unflatten(found[..., : fields * dim], 2, (fields, dim)).mul_(real.unsqueeze(3))
    if times is not None:
        found[..., fields * dim :] = times
    return found


def _of_rows(pieces: list[Piece], offsets: Tensor, size: int) -> Float[Tensor, "size dim"]:
    """The whole table's gradient; that of padding's rows is left out at the end."""
    total = pieces[0].gradients.new_zeros(size, pieces[0].gradients.shape[1])
    for piece in pieces:
        total.index_add_(0, piece.ids + piece.offset, piece.gradients)
    return total.index_fill_(0, offsets, 0.0)


def _of_lookups(pieces: list[Piece], size: int) -> Tensor:
    """A sparse gradient, ids repeated, zeros for padding."""
    values = torch.cat([piece.gradients for piece in pieces])
    real = torch.cat([piece.ids for piece in pieces]).ne(0)
    if not _all(real):
        values.mul_(real.unsqueeze(1))
    rows = torch.cat([piece.ids + piece.offset for piece in pieces]).unsqueeze(0)
    return torch.sparse_coo_tensor(rows, values, (size, values.shape[1]), check_invariants=False)


def _all(real: Bool[Tensor, "..."]) -> bool:
    """Whether there is nothing to mask; a GPU is not asked."""
    return not real.is_cuda and bool(real.all())
