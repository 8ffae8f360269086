"""Search and target attention in one: the k events whose keys score best, softmax over them, the sum of their values.

    s_i = <q, key_i> + b_i,    S = the k best real events,    w = softmax of s over S,    pooled = sum_S w_i value_i

(TWIN, arXiv 2302.02352: both stages have one score. DARE, arXiv 2410.02604: with tables of their own for keys and for
values.) The product is taken as it is: divide the query by sqrt(dim). A term of the position alone goes into `bias`.

Only k rows of values are read, and only found events get gradients, their keys as well: that is exact, since which
events are found has no gradient. Nothing of (rows, length, width) is kept for the backward pass. Where every event
needs a gradient (the auxiliary loss of DARE looks at all of them), use plain attention instead.

All functions take events of `users` histories, one for each row of `query`, or one history for all of them (candidates
of one request). An event has an id a field; its key and its value are rows of the two tables, side by side.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Literal, NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.checks import check_at_least
from ctr_models.sequences.found import masked_softmax
from ctr_models.sequences.ordered_topk import MISSING, running_topk

Backend: TypeAlias = Literal["auto", "reference", "compile", "triton"]
TILE, LOADED = 8192, 2**25  # events that the reference scores at a time, and numbers of keys that it reads


class TopKAttention(NamedTuple):
    """`indices` are columns of the events, best first (equal scores: the newer event); -1, with weight 0, where a row
    has fewer than k events. A row without any has zeros. Sums are taken, and numbers given, in float32, of bfloat16
    tables too (in float64 of float64 ones).
    """

    pooled: Float[Tensor, "rows pooled"]
    weights: Float[Tensor, "rows k"]
    indices: Int64[Tensor, "rows k"]


class Events(NamedTuple):
    """What backends get. `keys` is a table of keys, read by `ids`, or one key an event."""

    keys: Float[Tensor, "vocabulary key_dim"] | Float[Tensor, "users length width"]
    ids: Int64[Tensor, "users length fields"]
    values: Float[Tensor, "vocabulary value_dim"]
    mask: Bool[Tensor, "users length"]
    bias: Float[Tensor, "biases length"] | None
    sparse: bool


def topk_attention(
    query: Float[Tensor, "rows width"],
    key_table: Float[Tensor, "vocabulary key_dim"],
    ids: Int64[Tensor, "users length fields"],
    value_table: Float[Tensor, "vocabulary value_dim"],
    mask: Bool[Tensor, "users length"],
    k: int,
    bias: Float[Tensor, "biases length"] | None = None,
    *,
    backend: Backend = "auto",
    sparse: bool = False,
) -> TopKAttention:
    """Events whose keys and values are rows of tables; `width` is fields * key_dim.

    With `sparse` the gradients of the tables hold rows of found events alone, as `ctr_models.optim` needs them.

    Backends give the same: "reference" is torch, in tiles of the events; "compile" the same through `torch.compile`
    (the first call of a shape takes long); "triton" one fused kernel on a GPU. "auto" is the kernel where it can run
    and the reference elsewhere. Raises ValueError for shapes that do not fit, and for "triton" without it.
    """
    width = ids.shape[2] * key_table.shape[1]
    if query.shape[1] != width:
        raise ValueError(
            f"the query has {query.shape[1]} numbers but a key {width} ({ids.shape[2]} fields of "
            f"{key_table.shape[1]}); give a query as wide as the keys"
        )
    return _dispatch(query, Events(key_table, ids, value_table, mask, bias, sparse), k, backend)


def topk_attention_of_keys(
    query: Float[Tensor, "rows width"],
    keys: Float[Tensor, "users length width"],
    ids: Int64[Tensor, "users length fields"],
    value_table: Float[Tensor, "vocabulary value_dim"],
    mask: Bool[Tensor, "users length"],
    k: int,
    bias: Float[Tensor, "biases length"] | None = None,
    *,
    backend: Backend = "auto",
    sparse: bool = False,
) -> TopKAttention:
    """`topk_attention` with keys that are there already, in one piece (a user's, or projected ones)."""
    return _dispatch(query, Events(keys, ids, value_table, mask, bias, sparse), k, backend)


def _dispatch(query: Float[Tensor, "rows width"], events: Events, k: int, backend: Backend) -> TopKAttention:
    check_at_least("k", k, 1)
    _check_rows(len(query), events)
    if not events.ids.shape[1]:
        events = _one_masked_column(events)
    match backend:
        case "auto":
            fits = query.is_cuda and _unfit(query, events, k) is None
            return _dispatch(query, events, k, "triton" if fits else "reference")
        case "reference":
            return TopKAttention(*_reference(query, *events, k, _tile(query, events)))
        case "compile":
            return TopKAttention(*_compiled()(query, *events, k, events.ids.shape[1]))
        case "triton":
            reason = _unfit(query, events, k)
            if reason is not None:
                raise ValueError(f"backend 'triton': {reason}; use 'auto', which takes the kernel where it can run")
            return TopKAttention(*_fused(query, events, k))
        case _:
            assert_never(backend)


def _tile(query: Float[Tensor, "rows width"], events: Events) -> int:
    return min(TILE, max(64, LOADED // max(1, query.shape[1] * len(events.ids))))


def _unfit(query: Float[Tensor, "rows width"], events: Events, k: int) -> str | None:
    from ctr_models.sequences import kernels  # imports Triton where it is installed

    return kernels.unfit(query, events.keys, events.values, k)


def _fused(query: Float[Tensor, "rows width"], events: Events, k: int) -> tuple[Tensor, Tensor, Tensor]:
    from ctr_models.sequences.fused_attention import fused_attention  # imports Triton

    return fused_attention(query, *events, k)


def _one_masked_column(events: Events) -> Events:
    """Histories without a column get one that holds nothing."""
    keys = F.pad(events.keys, (0, 0, 0, 1)) if events.keys.ndim == 3 else events.keys
    ids, mask = F.pad(events.ids, (0, 0, 0, 1)), F.pad(events.mask, (0, 1))
    return events._replace(keys=keys, ids=ids, mask=mask, bias=None)


def _check_rows(rows: int, events: Events) -> None:
    given = {"ids": len(events.ids), "bias": 1 if events.bias is None else len(events.bias)}
    for name, count in given.items():
        if count not in (1, rows):
            raise ValueError(f"{name} has {count} rows but the query {rows}; give as many, or one for all")


Core: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]


@cache
def _compiled() -> Core:
    compiled: Core = torch.compile(_reference, dynamic=False)
    return compiled


def _reference(
    query: Tensor,
    keys: Tensor,
    ids: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    sparse: bool,
    k: int,
    tile: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Search without gradients, then attention over what was found, with them."""
    wide = torch.float64 if torch.float64 in (query.dtype, keys.dtype, values.dtype) else torch.float32
    query = query.to(wide)
    with torch.no_grad():
        indices = running_topk(_score_tiles(query, keys, ids, mask, bias, tile), k).indices
    real = indices.ne(MISSING)
    places = indices.clamp(min=0)
    ids_found = found_ids(ids, indices)
    found = _at(keys, places) if keys.ndim == 3 else F.embedding(ids_found, keys, sparse=sparse).flatten(2)
    scores = torch.einsum("rw,rkw->rk", query, found.to(wide))
    if bias is not None:
        scores = scores + bias.to(wide).expand(len(query), -1).gather(1, places)
    weights = masked_softmax(scores, real)
    vectors = F.embedding(ids_found, values, sparse=sparse).flatten(2)
    return torch.einsum("rk,rkw->rw", weights, vectors.to(wide)), weights, indices


def _score_tiles(
    query: Tensor, keys: Tensor, ids: Tensor, mask: Tensor, bias: Tensor | None, tile: int
) -> Iterator[Float[Tensor, "rows _"]]:
    """Scores of the events from the first on, `tile` columns at a time; -inf where there is none."""
    for start in range(0, ids.shape[1], tile):
        columns = slice(start, start + tile)
        found = keys[:, columns] if keys.ndim == 3 else F.embedding(ids[:, columns], keys).flatten(2)
        found = found.to(query.dtype)
        scores = query @ found[0].T if len(found) == 1 else torch.einsum("rw,rlw->rl", query, found)
        if bias is not None:
            scores = scores + bias[:, columns].to(query.dtype)
        yield scores.masked_fill(~mask[:, columns], -torch.inf)


def found_ids(
    ids: Int64[Tensor, "users length fields"], indices: Int64[Tensor, "rows k"]
) -> Int64[Tensor, "rows k fields"]:
    """Ids of found events; 0 where there is none."""
    return _at(ids, indices.clamp(min=0)).masked_fill(indices.eq(MISSING).unsqueeze(2), 0)


def _at(events: Tensor, places: Int64[Tensor, "rows k"]) -> Tensor:
    """Rows of the events' second axis, for every row of `places`; one history serves all rows."""
    if len(events) == 1:
        return events[0][places]
    return events.gather(1, places.unsqueeze(2).expand(-1, -1, events.shape[2]))
