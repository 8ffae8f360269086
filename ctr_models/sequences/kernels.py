"""Kernels of fused top-k attention in Triton; no other file imports it (`fused_attention` makes them differentiable).

One program takes one row. Forward: keys of events stream through in blocks, the newest first; a block's scores are
compared with the worst of the k best so far, and only better ones are put in, so a block without any costs its loads
and one maximum. Softmax and sum of the k found rows of values follow in the same program. Backward reads the k found
rows again and writes their gradients a row each, without atomics, so that the caller can leave them sparse.

Triton comes with torch for CUDA; nothing else needs it. `unfit` says why the kernels cannot take given tensors.
"""

import os
from importlib.util import find_spec
from typing import NamedTuple, no_type_check

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

INSTALLED = find_spec("triton") is not None
if INSTALLED:
    import triton
    import triton.language as tl

MAX_K = 128
LARGEST = 2**15  # numbers that a program holds of k rows of keys, or of values
STREAMED = 2**12  # numbers of keys that a program loads at a time


class Found(NamedTuple):
    """What the forward kernel gives, as `TopKAttention`."""

    pooled: Float32[Tensor, "rows pooled"]
    weights: Float32[Tensor, "rows k"]
    indices: Int64[Tensor, "rows k"]


class FoundGradients(NamedTuple):
    """What the backward kernel gives: gradients of the query, and of score, key and value of each found event."""

    query: Float32[Tensor, "rows width"]
    scores: Float32[Tensor, "rows k"]
    keys: Float32[Tensor, "rows k width"]
    values: Float32[Tensor, "rows k pooled"]


class Operands(NamedTuple):
    """Contiguous tensors of a call. `keys` is a table read by `ids`, or has one key an event (three axes)."""

    query: Float[Tensor, "rows width"]
    keys: Float[Tensor, "*events key_dim"]
    ids: Int64[Tensor, "users length fields"]
    values: Float[Tensor, "vocabulary value_dim"]


def unfit(
    query: Float[Tensor, "rows width"],
    keys: Float[Tensor, "*events key_dim"],
    values: Float[Tensor, "vocabulary value_dim"],
    k: int,
) -> str | None:
    """Why the kernels cannot take these; None when they can."""
    if not INSTALLED:
        return "triton is not installed"
    if not query.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"the query is on {query.device}, but the kernel runs on a GPU"
    if torch.float64 in (query.dtype, keys.dtype, values.dtype):
        return "the kernel has no float64"
    if k > MAX_K:
        return f"k is {k}, but the kernel keeps at most {MAX_K}"
    widest = _padded(max(keys.shape[-1], values.shape[1]))
    if widest * _padded(k) > LARGEST:
        return f"{k} vectors of {widest} numbers are more than the {LARGEST} that a program holds"
    return None


def forward(
    operands: Operands, mask: Bool[Tensor, "users length"], bias: Float[Tensor, "biases length"] | None, k: int
) -> Found:
    """Search, softmax and sum."""
    query, keys, ids, values = operands
    found = Found(
        query.new_empty(len(query), ids.shape[2] * values.shape[1], dtype=torch.float32),
        query.new_empty(len(query), k, dtype=torch.float32),
        ids.new_empty(len(query), k),
    )
    if len(query):
        _jitted(_forward)[(len(query),)](
            *(query, keys, ids, values, mask.view(torch.uint8), query if bias is None else bias),
            *found,
            ids.shape[1],
            *_constants(operands, k),
            bias is not None,
            int(bias is not None and len(bias) > 1),
            max(16, STREAMED // _padded(keys.shape[-1])),
        )
    return found


def backward(
    operands: Operands,
    weights: Float32[Tensor, "rows k"],
    indices: Int64[Tensor, "rows k"],
    grad_pooled: Float[Tensor, "rows pooled"],
    grad_weights: Float[Tensor, "rows k"],
) -> FoundGradients:
    """Gradients of what was found, by the softmax's own: ds_i = w_i (dw_i - sum_j w_j dw_j)."""
    query, k = operands.query, weights.shape[1]
    gradients = FoundGradients(
        torch.empty_like(query, dtype=torch.float32),
        torch.empty_like(weights),
        query.new_empty(*weights.shape, query.shape[1], dtype=torch.float32),
        query.new_empty(*weights.shape, grad_pooled.shape[1], dtype=torch.float32),
    )
    if len(query):
        _jitted(_backward)[(len(query),)](
            *operands,
            *(weights, indices, grad_pooled.contiguous(), grad_weights.contiguous()),
            *gradients,
            operands.ids.shape[1],
            *_constants(operands, k),
        )
    return gradients


def _constants(operands: Operands, k: int) -> tuple[int, ...]:
    """K, K_PAD, MANY, READY, KEY_FIELDS, KEY_DIM, KEY_PAD, VALUE_FIELDS, VALUE_DIM, VALUE_PAD of the kernels."""
    _, keys, ids, values = operands
    ready = keys.ndim == 3
    fields, key_dim, value_dim = ids.shape[2], keys.shape[-1], values.shape[1]
    return (
        *(k, _padded(k), int(len(ids) > 1), int(ready)),
        *(1 if ready else fields, key_dim, _padded(key_dim)),
        *(fields, value_dim, _padded(value_dim)),
    )


def _padded(size: int) -> int:
    """The next power of two, which ranges in a kernel must be; at least 2."""
    return max(2, 1 << (size - 1).bit_length())


@no_type_check
def _jitted(kernel):  # noqa: ANN001, ANN202  (Triton has no types)
    if kernel not in _COMPILED:
        _COMPILED[kernel] = triton.jit(kernel)
    return _COMPILED[kernel]


_COMPILED: dict[object, object] = {}


# --- kernels -------------------------------------------------------------------------------------------------------
# Offsets are int64: rows * length and ids * dim pass 2^31. Ranges are powers of two, with masks at their ends.
# `no_type_check` keeps the wrappers of shape checking away, whose source Triton would compile instead.


@no_type_check
def _forward(
    query: "tl.tensor",
    keys: "tl.tensor",
    ids: "tl.tensor",
    values: "tl.tensor",
    mask: "tl.tensor",
    bias: "tl.tensor",
    pooled: "tl.tensor",
    weights: "tl.tensor",
    indices: "tl.tensor",
    length: "tl.tensor",
    K: "tl.constexpr",
    K_PAD: "tl.constexpr",
    MANY: "tl.constexpr",
    READY: "tl.constexpr",
    KEY_FIELDS: "tl.constexpr",
    KEY_DIM: "tl.constexpr",
    KEY_PAD: "tl.constexpr",
    VALUE_FIELDS: "tl.constexpr",
    VALUE_DIM: "tl.constexpr",
    VALUE_PAD: "tl.constexpr",
    BIASED: "tl.constexpr",
    MANY_BIASES: "tl.constexpr",
    BLOCK: "tl.constexpr",
) -> None:
    row = tl.program_id(0).to(tl.int64)
    first_event = row * MANY * length
    slots = tl.arange(0, K_PAD)
    key_dims = tl.arange(0, KEY_PAD)
    value_dims = tl.arange(0, VALUE_PAD)
    # The k best so far, in no order. Empty slots have score -inf and places before all events, each its own; slots from
    # K on have score +inf while events stream, so that they are never the worst.
    best = tl.where(slots < K, float("-inf"), float("inf"))
    places = -1 - slots
    for done in range(0, length, BLOCK):
        columns = length - 1 - done - tl.arange(0, BLOCK)
        inside = columns >= 0
        events = first_event + columns
        real = tl.load(mask + events, mask=inside, other=0) != 0
        scores = tl.zeros([BLOCK], dtype=tl.float32)
        for field in tl.static_range(KEY_FIELDS):
            part = tl.load(query + (row * KEY_FIELDS + field) * KEY_DIM + key_dims, mask=key_dims < KEY_DIM, other=0.0)
            if READY:
                key_rows = events
            else:
                key_rows = tl.load(ids + events * VALUE_FIELDS + field, mask=inside, other=0)
            found = tl.load(
                keys + key_rows[:, None] * KEY_DIM + key_dims[None, :],
                mask=real[:, None] & (key_dims < KEY_DIM)[None, :],
                other=0.0,
            )
            scores += tl.sum(found.to(tl.float32) * part.to(tl.float32)[None, :], axis=1)
        if BIASED:
            scores += tl.load(bias + row * MANY_BIASES * length + columns, mask=inside, other=0.0).to(tl.float32)
        scores = tl.where(real, scores, float("-inf"))
        top = tl.max(scores, axis=0)
        worst = tl.min(best, axis=0)
        while top > worst:  # strictly: of equal scores the newer event stays
            place = tl.max(tl.where(scores == top, columns, -1), axis=0)
            oldest = tl.min(tl.where(best == worst, places, 2147483647), axis=0)
            leaves = (best == worst) & (places == oldest)
            best = tl.where(leaves, top, best)
            places = tl.where(leaves, place, places)
            scores = tl.where(columns == place, float("-inf"), scores)
            top = tl.max(scores, axis=0)
            worst = tl.min(best, axis=0)
    best = tl.where(slots < K, best, float("-inf"))
    is_event = best > float("-inf")
    top = tl.max(best, axis=0)
    powers = tl.where(is_event, tl.exp(best - tl.where(top > float("-inf"), top, 0.0)), 0.0)
    total = tl.sum(powers, axis=0)
    share = powers / tl.where(total > 0.0, total, 1.0)
    ahead = (best[None, :] > best[:, None]) | ((best[None, :] == best[:, None]) & (places[None, :] > places[:, None]))
    rank = tl.sum(ahead.to(tl.int32), axis=1)
    tl.store(weights + row * K + rank, share, mask=slots < K)
    tl.store(indices + row * K + rank, tl.where(is_event, places, -1).to(tl.int64), mask=slots < K)
    for field in tl.static_range(VALUE_FIELDS):
        value_rows = tl.load(ids + (first_event + places) * VALUE_FIELDS + field, mask=is_event, other=0)
        found = tl.load(
            values + value_rows[:, None] * VALUE_DIM + value_dims[None, :],
            mask=is_event[:, None] & (value_dims < VALUE_DIM)[None, :],
            other=0.0,
        )
        total_value = tl.sum(found.to(tl.float32) * share[:, None], axis=0)
        out = pooled + (row * VALUE_FIELDS + field) * VALUE_DIM + value_dims
        tl.store(out, total_value, mask=value_dims < VALUE_DIM)


@no_type_check
def _backward(
    query: "tl.tensor",
    keys: "tl.tensor",
    ids: "tl.tensor",
    values: "tl.tensor",
    weights: "tl.tensor",
    indices: "tl.tensor",
    grad_pooled: "tl.tensor",
    grad_weights: "tl.tensor",
    grad_query: "tl.tensor",
    grad_scores: "tl.tensor",
    grad_keys: "tl.tensor",
    grad_values: "tl.tensor",
    length: "tl.tensor",
    K: "tl.constexpr",
    K_PAD: "tl.constexpr",
    MANY: "tl.constexpr",
    READY: "tl.constexpr",
    KEY_FIELDS: "tl.constexpr",
    KEY_DIM: "tl.constexpr",
    KEY_PAD: "tl.constexpr",
    VALUE_FIELDS: "tl.constexpr",
    VALUE_DIM: "tl.constexpr",
    VALUE_PAD: "tl.constexpr",
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, K_PAD)
    inside = slots < K
    key_dims = tl.arange(0, KEY_PAD)
    value_dims = tl.arange(0, VALUE_PAD)
    in_key = inside[:, None] & (key_dims < KEY_DIM)[None, :]
    in_value = inside[:, None] & (value_dims < VALUE_DIM)[None, :]
    places = tl.load(indices + row * K + slots, mask=inside, other=-1)
    is_event = places >= 0
    events = row * MANY * length + tl.where(is_event, places, 0)
    share = tl.load(weights + row * K + slots, mask=inside, other=0.0)
    slope = tl.load(grad_weights + row * K + slots, mask=inside, other=0.0)
    results = row * K + slots
    for field in tl.static_range(VALUE_FIELDS):
        above = tl.load(
            grad_pooled + (row * VALUE_FIELDS + field) * VALUE_DIM + value_dims, mask=value_dims < VALUE_DIM, other=0.0
        )
        value_rows = tl.load(ids + events * VALUE_FIELDS + field, mask=is_event, other=0)
        found = tl.load(
            values + value_rows[:, None] * VALUE_DIM + value_dims[None, :],
            mask=is_event[:, None] & in_value,
            other=0.0,
        )
        slope += tl.sum(found.to(tl.float32) * above[None, :], axis=1)
        out = grad_values + (results[:, None] * VALUE_FIELDS + field) * VALUE_DIM + value_dims[None, :]
        tl.store(out, share[:, None] * above[None, :], mask=in_value)
    change = share * (slope - tl.sum(share * slope, axis=0))
    tl.store(grad_scores + results, change, mask=inside)
    for field in tl.static_range(KEY_FIELDS):
        offsets = (row * KEY_FIELDS + field) * KEY_DIM + key_dims
        part = tl.load(query + offsets, mask=key_dims < KEY_DIM, other=0.0)
        if READY:
            key_rows = events
        else:
            key_rows = tl.load(ids + events * VALUE_FIELDS + field, mask=is_event, other=0)
        found = tl.load(
            keys + key_rows[:, None] * KEY_DIM + key_dims[None, :], mask=is_event[:, None] & in_key, other=0.0
        )
        tl.store(grad_query + offsets, tl.sum(found.to(tl.float32) * change[:, None], axis=0), mask=key_dims < KEY_DIM)
        out = grad_keys + (results[:, None] * KEY_FIELDS + field) * KEY_DIM + key_dims[None, :]
        tl.store(out, change[:, None] * part.to(tl.float32)[None, :], mask=in_key)
