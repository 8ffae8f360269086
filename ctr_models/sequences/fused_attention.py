"""The kernels of `kernels.py` as one differentiable function: the "triton" backend of `topk_attention`."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from ctr_models.sequences import kernels
from ctr_models.sequences.topk_attention import found_ids


def fused_attention(
    query: Float[Tensor, "rows width"],
    keys: Float[Tensor, "*events key_dim"],
    ids: Int64[Tensor, "users length fields"],
    values: Float[Tensor, "vocabulary value_dim"],
    mask: Bool[Tensor, "users length"],
    bias: Float[Tensor, "biases length"] | None,
    sparse: bool,
    k: int,
) -> tuple[Float[Tensor, "rows pooled"], Float[Tensor, "rows k"], Int64[Tensor, "rows k"]]:
    """Pooled values, weights and indices as in `TopKAttention`, differentiable once in all but ids and mask.

    Gradients are summed in float32 and then take the type of their tensor.
    """
    pooled, weights, indices = _FusedAttention.apply(query, keys, ids, values, mask, bias, sparse, k)  # type: ignore[no-untyped-call]
    return pooled, weights, indices


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query: Tensor,
        keys: Tensor,
        ids: Tensor,
        values: Tensor,
        mask: Tensor,
        bias: Tensor | None,
        sparse: bool,
        k: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        operands = kernels.Operands(query.contiguous(), keys.contiguous(), ids.contiguous(), values.contiguous())
        biases = None if bias is None else bias.contiguous()
        found = kernels.forward(operands, mask.contiguous(), biases, k)
        ctx.save_for_backward(*operands, found.weights, found.indices, bias)  # type: ignore[arg-type]
        ctx.mark_non_differentiable(found.indices)
        ctx.sparse = sparse  # type: ignore[attr-defined]
        return found.pooled, found.weights, found.indices

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_pooled: Tensor, grad_weights: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, ids, values, weights, indices, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        sparse: bool = ctx.sparse  # type: ignore[attr-defined]
        operands = kernels.Operands(query, keys, ids, values)
        found = kernels.backward(operands, weights, indices, grad_pooled, grad_weights)
        to_query, to_keys, _, to_values, _, to_bias, _, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
        ids_found = found_ids(ids, indices)
        by_event = keys.ndim == 3
        return (
            found.query.to(query.dtype) if to_query else None,
            (_by_event(keys, indices, found.keys) if by_event else _by_id(keys, ids_found, found.keys, sparse))
            if to_keys
            else None,
            None,
            _by_id(values, ids_found, found.values, sparse) if to_values else None,
            None,
            _by_event(bias.unsqueeze(2), indices, found.scores.unsqueeze(2)).squeeze(2) if to_bias else None,
            None,
            None,
        )


def _by_id(
    table: Float[Tensor, "vocabulary dim"],
    ids: Int64[Tensor, "rows k fields"],
    gradients: Float[Tensor, "rows k width"],
    sparse: bool,
) -> Tensor:
    """Gradient of a table of which found events read rows."""
    rows, numbers = ids.flatten(), gradients.reshape(-1, table.shape[1])
    if sparse:
        return torch.sparse_coo_tensor(rows.unsqueeze(0), numbers.to(table.dtype), table.shape, check_invariants=False)
    summed = torch.zeros(table.shape, dtype=numbers.dtype, device=numbers.device).index_add_(0, rows, numbers)
    return summed.to(table.dtype)


def _by_event(
    events: Float[Tensor, "users length dim"],
    indices: Int64[Tensor, "rows k"],
    gradients: Float[Tensor, "rows k dim"],
) -> Float[Tensor, "users length dim"]:
    """Gradient of numbers an event: those of `users` histories, or of one that all rows look at."""
    users, length, dim = events.shape
    shifts = torch.arange(len(indices), device=indices.device).unsqueeze(1) * (length if users > 1 else 0)
    rows = (indices.clamp(min=0) + shifts).flatten()
    summed = torch.zeros(users * length, dim, dtype=gradients.dtype, device=gradients.device)
    summed = summed.index_add_(0, rows, gradients.reshape(-1, dim))
    return summed.view(users, length, dim).to(events.dtype)
