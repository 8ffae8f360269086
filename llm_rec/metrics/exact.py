"""Inner products that can be compared: which items score better than the target, exactly, at the speed of a matmul.

A float32 matmul gives one inner product different last bits in different tiles, chunks, thread counts and devices, so
two items with the same vector may come out one ulp apart, and a rank would depend on the chunk size. Here the
matmul only *screens*. Whatever the order of summation, the float32 score of width K is off by at most
``gamma * |u| * |v|``, ``gamma = K * 2^-24 / (1 - K * 2^-24)`` (the standard forward error bound of inner products), so
every item outside that band around the target's score is decided. The few inside are scored again by `pair_scores`:
products of float32 numbers are exact in float64, and they are added along one fixed tree of elementwise additions,
which IEEE arithmetic rounds the same way everywhere. Ranks are therefore those of the float64 tree scores: they
depend neither on the chunk size, the batch or the device, nor on the number of threads or processes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from llm_rec.errors import DataError

_PAIRS_AT_ONCE = 1 << 16  # undecided pairs that may wait before they are scored
_CPU_TERMS = 1 << 18  # products of exact scoring held at once: 2 MiB of float64, which a core's cache holds
_GPU_TERMS = 1 << 26
_CPU_TILE = 1 << 18  # scores of one matmul: two float32 tiles of this size stay in a core's second-level cache
_GPU_TILE = 1 << 26


class Pairs(NamedTuple):
    """User rows of a batch (0..batch-1) and candidate positions (0..items-1), one of each per pair."""

    users: Int64[Tensor, "pairs"]
    items: Int64[Tensor, "pairs"]


class Counts(NamedTuple):
    """For every user of a batch: candidates that score better than the target, and others that score the same."""

    better: Int64[Tensor, "batch"]
    ties: Int64[Tensor, "batch"]


class Best(NamedTuple):
    """The best candidates of every user, best first, ties by row; row 0, score -inf where there are fewer."""

    rows: Int64[Tensor, "batch k"]
    scores: Float64[Tensor, "batch k"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Item vectors that take part in a ranking; `position[row]` is -1 for item rows that do not, padding among them."""

    vectors: Float32[Tensor, "items dim"]
    rows: Int64[Tensor, "items"]
    position: Int64[Tensor, "items_plus_one"]
    norms: Float32[Tensor, "items"]

    @classmethod
    def of(
        cls,
        vectors: Float[Tensor, "items_plus_one dim"],
        allowed: Bool[Tensor, "items_plus_one"] | None = None,
    ) -> "Candidates":
        """All items but row 0, or only those `allowed`; lower precisions are ranked as float32.

        Raises `DataError` when a vector is not finite.
        """
        vectors = vectors.detach().float()
        norms = vectors.norm(dim=1)  # finite only where the vector is; a huge finite vector overflows it
        suspects = torch.nonzero(~torch.isfinite(norms)).flatten()
        broken = suspects[~torch.isfinite(vectors[suspects]).all(dim=1)]
        if len(broken):
            raise DataError(
                f"{len(broken)} item vectors are not finite (NaN or infinite), the first at item row {int(broken[0])}; "
                "a ranking over them would be meaningless: check the embeddings and the training loss"
            )
        position = torch.arange(-1, len(vectors) - 1, device=vectors.device)
        if allowed is None:
            rows, used, norms = position[1:] + 1, vectors[1:], norms[1:]
        else:
            allowed = allowed.to(vectors.device)
            rows = torch.nonzero(allowed[1:]).flatten() + 1
            used, norms = vectors[rows], norms[rows]
            position = torch.full_like(position, -1)
            position[rows] = torch.arange(len(rows), device=vectors.device)
        return cls(vectors=used, rows=rows, position=position, norms=norms)

    def __len__(self) -> int:
        return len(self.rows)

    def chunk_size(self, batch: int, item_chunk: int | None) -> int:
        """Items scored at once: as asked, or so that a tile of scores fits the cache (CPU) or keeps a GPU busy."""
        tile = _GPU_TILE if self.vectors.is_cuda else _CPU_TILE
        return item_chunk or max(256, tile // max(batch, 1))


def pair_scores(
    users: Float32[Tensor, "batch dim"], items: Float32[Tensor, "items dim"], pairs: Pairs
) -> Float64[Tensor, "pairs"]:
    """Inner product of every pair in float64, the same bits on every device: a fixed tree of elementwise additions.

    >>> u, v = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.0, 2.0]])
    >>> pair_scores(u, v, Pairs(torch.tensor([0, 0]), torch.tensor([0, 1]))).tolist()
    [6.0, 6.5]
    """
    slab = max(1, (_GPU_TERMS if users.is_cuda else _CPU_TERMS) // max(users.shape[1], 1))
    parts = [
        _tree_sum(users[rows].double().mul_(items[cols]))
        for rows, cols in zip(torch.split(pairs.users, slab), torch.split(pairs.items, slab), strict=True)
    ]
    return torch.cat(parts) if parts else users.new_zeros(0, dtype=torch.float64)


def _tree_sum(terms: Float64[Tensor, "pairs dim"]) -> Float64[Tensor, "pairs"]:
    """Sum over the last axis, right half onto left half, in place."""
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0] if terms.shape[1] else terms.sum(dim=1)


def count_better(
    users: Float32[Tensor, "batch dim"],
    targets: Float32[Tensor, "batch dim"],
    target_positions: Int64[Tensor, "batch"],
    candidates: Candidates,
    *,
    item_chunk: int | None = None,
) -> Counts:
    """Count the candidates before each target, and those beside it; the target itself is never counted.

    `targets` are the vectors of the target items, `target_positions` their places among the candidates, -1 where a
    target is none. Memory: two tiles of batch x chunk, whatever the number of items.
    """
    batch = len(users)
    chunk = candidates.chunk_size(batch, item_chunk)
    own = torch.arange(batch, device=users.device)
    exact = pair_scores(users, targets, Pairs(own, own))
    better = torch.zeros(batch, dtype=torch.int64, device=users.device)
    ties = torch.zeros_like(better)
    band = _Band.of(users, candidates, exact, chunk)
    undecided = _Undecided(users, candidates, exact, target_positions, better, ties)
    scores, above = (users.new_empty(batch, min(chunk, len(candidates))) for _ in range(2))
    with full_precision():
        for index, start in enumerate(range(0, len(candidates), chunk)):
            vectors = candidates.vectors[start : start + chunk]
            if len(vectors) < scores.shape[1]:
                scores, above = (users.new_empty(batch, len(vectors)) for _ in range(2))
            torch.mm(users, vectors.T, out=scores)
            torch.gt(scores, band.high[index], out=above)  # float 0/1: several times faster than a boolean result
            scores.ge_(band.low[index])
            sure, possible = above.sum(dim=1), scores.sum(dim=1)  # exact: a chunk has fewer than 2^24 items
            better += sure.long()
            rows = torch.nonzero(possible > sure).flatten()
            if len(rows):
                pairs = torch.nonzero(scores[rows] > above[rows])
                undecided.add(rows[pairs[:, 0]], pairs[:, 1] + start)
    undecided.settle()
    return Counts(better, ties)


def seen_counts(
    users: Float32[Tensor, "batch dim"],
    targets: Float32[Tensor, "batch dim"],
    candidates: Candidates,
    seen: Pairs,
) -> Counts:
    """How many of the `seen` pairs score better than, or the same as, their user's target: what exclusion subtracts."""
    own = torch.arange(len(users), device=users.device)
    reference = pair_scores(users, targets, Pairs(own, own))[seen.users]
    scores = pair_scores(users, candidates.vectors, seen)
    zeros = torch.zeros(len(users), dtype=torch.int64, device=users.device)
    better = zeros.index_add(0, seen.users, (scores > reference).long())
    return Counts(better, zeros.index_add(0, seen.users, (scores == reference).long()))


def best_items(
    users: Float32[Tensor, "batch dim"],
    candidates: Candidates,
    k: int,
    *,
    seen: Pairs | None = None,
    item_chunk: int | None = None,
) -> Best:
    """The `k` best candidates of every user without those `seen`; ties in the order of item rows.

    Exact in the same sense as `count_better`, so the lists depend neither on the chunk size nor on the device. A chunk
    contributes only what the float32 screen cannot rule out against the k-th best so far.
    """
    batch, chunk = len(users), candidates.chunk_size(len(users), item_chunk)
    starts = range(0, len(candidates), chunk)
    positions = torch.full((batch, k), len(candidates), dtype=torch.int64, device=users.device)
    best = torch.full((batch, k), -torch.inf, dtype=torch.float64, device=users.device)
    slack = _error_bounds(users, candidates, chunk)
    hidden, edges = _by_position(seen, starts, users.device)
    with full_precision():
        for index, start in enumerate(starts):
            scores = torch.mm(users, candidates.vectors[start : start + chunk].T)
            inside = slice(edges[index], edges[index + 1])
            scores[hidden.users[inside], hidden.items[inside] - start] = -torch.inf
            low = _below(best[:, -1:], slack[index])
            low.clamp_(min=torch.finfo(torch.float32).min)  # never lets a hidden item (-inf) through
            rows = torch.nonzero((scores.amax(dim=1, keepdim=True) >= low).flatten()).flatten()
            if not len(rows):
                continue
            scores, low, bound = scores[rows], low[rows], slack[index, rows]
            passing = scores >= low
            if int(torch.count_nonzero(passing)) > 4 * k * len(rows):
                least = scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1:].double()
                passing &= scores >= _below(least, 2 * bound)
            chosen, columns = torch.nonzero(passing, as_tuple=True)
            found = Pairs(rows[chosen], columns + start)
            best, positions = _merge(best, positions, found, pair_scores(users, candidates.vectors, found))
    empty = positions == len(candidates)
    rows_or_none = torch.cat([candidates.rows, candidates.rows.new_zeros(1)])[positions]
    return Best(rows_or_none, best.masked_fill(empty, -torch.inf))


@contextmanager
def full_precision() -> Iterator[None]:
    """Matmuls in true float32: the error bound does not hold for TF32, bfloat16 passes or autocast."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that the name of this setting will change
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_float32_matmul_precision(before)


class _Band(NamedTuple):
    """Float32 scores above `high` are better for sure, those below `low` are not: one pair of columns per chunk."""

    low: Float32[Tensor, "chunks batch 1"]
    high: Float32[Tensor, "chunks batch 1"]

    @classmethod
    def of(
        cls,
        users: Float32[Tensor, "batch dim"],
        candidates: Candidates,
        exact: Float64[Tensor, "batch"],
        chunk: int,
    ) -> "_Band":
        slack = _error_bounds(users, candidates, chunk)
        middle = exact[None, :, None]
        return cls(_round(middle - slack, -1), _round(middle + slack, +1))


class _Undecided:
    """Pairs inside the band, collected over chunks and settled by exact scores, a bounded number at a time."""

    def __init__(
        self,
        users: Float32[Tensor, "batch dim"],
        candidates: Candidates,
        exact: Float64[Tensor, "batch"],
        target_positions: Int64[Tensor, "batch"],
        better: Int64[Tensor, "batch"],
        ties: Int64[Tensor, "batch"],
    ) -> None:
        self.users, self.candidates, self.exact = users, candidates, exact
        self.target_positions, self.better, self.ties = target_positions, better, ties
        self.waiting: list[Pairs] = []
        self.number = 0

    def add(self, users: Int64[Tensor, "pairs"], items: Int64[Tensor, "pairs"]) -> None:
        self.waiting.append(Pairs(users, items))
        self.number += len(users)
        if self.number >= _PAIRS_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Add the waiting pairs to the counts."""
        if not self.waiting:
            return
        pairs = Pairs(*(torch.cat(column) for column in zip(*self.waiting, strict=True)))
        other = pairs.items != self.target_positions[pairs.users]
        pairs = Pairs(pairs.users[other], pairs.items[other])
        scores, reference = pair_scores(self.users, self.candidates.vectors, pairs), self.exact[pairs.users]
        self.better.index_add_(0, pairs.users, (scores > reference).long())
        self.ties.index_add_(0, pairs.users, (scores == reference).long())
        self.waiting, self.number = [], 0


def _error_bounds(
    users: Float32[Tensor, "batch dim"], candidates: Candidates, chunk: int
) -> Float64[Tensor, "chunks batch 1"]:
    """Largest possible |float32 score - true score| per chunk and user; 0 only where all products are 0.

    The bound for K terms, a little more for the norms (themselves float32) and for products below the normal range.
    """
    dim = users.shape[1]
    gamma = (dim + 2) * 2.0**-24 / (1 - (dim + 2) * 2.0**-24) * 1.01
    starts = range(0, len(candidates), chunk)
    largest = [candidates.norms[start : start + chunk].max() for start in starts]
    if not largest:
        return users.new_zeros(0, len(users), 1, dtype=torch.float64)
    product = torch.stack(largest).double()[:, None, None] * users.norm(dim=1).double()[None, :, None]
    if float(product.max()) > torch.finfo(torch.float32).max / 4:
        raise DataError(
            f"scores reach {float(product.max()):.1e}, beyond the range of float32; the model has diverged, "
            "or its vectors need scaling"
        )
    bounds: Tensor = gamma * product + (product > 0) * dim * 2.0**-126
    return bounds


def _round(values: Float64[Tensor, "*shape"], direction: int) -> Float32[Tensor, "*shape"]:
    """The nearest float32 that is not above (-1) or not below (+1) the value."""
    nearest = values.float()
    wrong = nearest.double() > values if direction < 0 else nearest.double() < values
    return torch.where(wrong, torch.nextafter(nearest, torch.full_like(nearest, direction * torch.inf)), nearest)


def _below(values: Float64[Tensor, "*shape"], margin: Float64[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """A float32 number at or below value - margin; what float32 scores reach when the true ones reach the value."""
    return _round(values - margin, -1)


def _by_position(seen: Pairs | None, starts: range, device: torch.device) -> tuple[Pairs, list[int]]:
    """The pairs sorted by position, and where each chunk begins among them."""
    if seen is None:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return Pairs(none, none), [0] * (len(starts) + 1)
    items, order = torch.sort(seen.items)
    edges = torch.searchsorted(items, torch.tensor([*starts, starts.stop], device=device))
    return Pairs(seen.users[order], items), edges.tolist()


def _merge(
    best: Float64[Tensor, "batch k"],
    positions: Int64[Tensor, "batch k"],
    found: Pairs,
    scores: Float64[Tensor, "pairs"],
) -> tuple[Float64[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """The k best of what was there and what was found, per row: by score, then by position."""
    batch, k = best.shape
    all_rows = torch.cat([torch.arange(batch, device=best.device).repeat_interleave(k), found.users])
    all_scores, all_items = torch.cat([best.flatten(), scores]), torch.cat([positions.flatten(), found.items])
    order = torch.argsort(all_items, stable=True)
    order = order[torch.argsort(all_scores[order], descending=True, stable=True)]
    order = order[torch.argsort(all_rows[order], stable=True)]
    rows = all_rows[order]
    first = torch.searchsorted(rows, torch.arange(batch, device=best.device))
    place = torch.arange(len(rows), device=best.device) - first[rows]
    kept = order[place < k]
    return all_scores[kept].view(batch, k), all_items[kept].view(batch, k)
