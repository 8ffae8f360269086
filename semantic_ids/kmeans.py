"""k-means by matrix products: seeding, Lloyd iterations, repair of empty clusters, an optional size cap.

Everything that quantises starts here: the codebooks of RQ-KMeans and PQ are k-means centroids, and those of RQ-VAE and
Mixture-of-Codes are initialised by it (k-means on one small batch is how codebooks collapse).
"""

import math
import warnings
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Init = Literal["k-means++", "random"]

ROWS_PER_CODE = 10
_SEEDING_ROWS_PER_CODE = 64
_CHUNK, _CPU_CHUNK = 16_384, 2_048  # rows at a time: on a CPU, what stays in its caches with the distances
_CACHED = 2**17  # numbers of a piece that a CPU works on at a time


class FewRowsWarning(UserWarning):
    """Fewer than ten rows a code: centroids will follow single rows rather than groups."""


class KMeans(NamedTuple):
    """`inertia` is the mean squared distance of a row to its centroid."""

    centroids: Float[Tensor, "codes dim"]
    codes: Int64[Tensor, " rows"]
    inertia: float


def kmeans(
    rows: Float[Tensor, "rows dim"],
    num_codes: int,
    *,
    generator: torch.Generator,
    iterations: int = 25,
    init: Init = "k-means++",
    balanced: bool = False,
    slack: float = 1.0,
    chunk: int | None = None,
) -> KMeans:
    """Lloyd's algorithm on `rows`; deterministic given the generator (a CPU one, whatever the device of the rows).

    An empty cluster is moved to the row that lies farthest from its own centroid, so there are no dead and, on distinct
    rows, no duplicate centroids. `balanced` caps every cluster at ceil(slack * rows / codes) rows (see
    `capped_assignment`; needs rows x codes floats). `chunk`: rows whose distances exist at a time; None: what suits
    the device.

    Refuses fewer rows than codes with a `ValueError`; warns with `FewRowsWarning` below ten rows a code.
    When there are fewer *distinct* rows than codes, the codes left over repeat the last centroid and stay unused.

    >>> points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    >>> with warnings.catch_warnings(action="ignore"):
    ...     found = kmeans(points, 2, generator=torch.Generator().manual_seed(0))
    >>> sorted(found.centroids.flatten().tolist()), found.inertia
    ([0.5, 10.5], 0.25)
    """
    check_rows(len(rows), num_codes)
    capacity = math.ceil(slack * len(rows) / num_codes) if balanced else None
    seeding = rows
    if len(rows) > _SEEDING_ROWS_PER_CODE * num_codes:
        keep = torch.randperm(len(rows), generator=generator)[: _SEEDING_ROWS_PER_CODE * num_codes]
        seeding = rows[keep.to(rows.device)]
    centroids = seed_centroids(seeding, num_codes, generator=generator, init=init)
    codes, distances = _assign(rows, centroids, capacity, chunk)
    for _ in range(iterations):
        centroids = _repair_empty(rows, group_means(rows, codes, centroids), codes, distances)
        previous = codes
        codes, distances = _assign(rows, centroids, capacity, chunk)
        if torch.equal(previous, codes):
            break
    return KMeans(centroids, codes, float(distances.mean()))


def check_rows(rows: int, num_codes: int) -> None:
    """Refuse fewer rows than codes, warn below ten rows a code."""
    if rows < num_codes:
        raise ValueError(f"{rows} rows cannot fill {num_codes} codes; lower codebook_size to at most {rows}")
    if rows < ROWS_PER_CODE * num_codes:
        warnings.warn(
            f"{rows} rows for {num_codes} codes is fewer than {ROWS_PER_CODE} rows a code; codes will fit single rows, "
            f"consider codebook_size {max(1, rows // ROWS_PER_CODE)} or less",
            FewRowsWarning,
            stacklevel=2,
        )


def squared_distances(
    rows: Float[Tensor, "rows dim"], centroids: Float[Tensor, "codes dim"]
) -> Float[Tensor, "rows codes"]:
    """|row - centroid|^2 by one matrix product, cut off at zero."""
    norms = rows.square().sum(1, keepdim=True) + centroids.square().sum(1)
    return torch.addmm(norms, rows, centroids.T, alpha=-2).clamp_min_(0)


def nearest(
    rows: Float[Tensor, "rows dim"], centroids: Float[Tensor, "codes dim"], chunk: int | None = None
) -> Int64[Tensor, " rows"]:
    """Index of the nearest centroid of each row; the lowest index wins a tie."""
    return torch.cat([squared_distances(piece, centroids).argmin(1) for piece in _pieces(rows, chunk)])


def seed_centroids(
    rows: Float[Tensor, "rows dim"], num_codes: int, *, generator: torch.Generator, init: Init = "k-means++"
) -> Float[Tensor, "codes dim"]:
    """k-means++ (Arthur and Vassilvitskii, 2007): each next centroid with probability proportional to its squared
    distance.

    `random` takes distinct row numbers; duplicates among them are left to the repair of empty clusters.
    """
    if init == "random":
        return rows[torch.randperm(len(rows), generator=generator)[:num_codes].to(rows.device)].clone()
    draws = torch.rand(num_codes, generator=generator, dtype=torch.float64).to(rows.device)
    chosen = torch.zeros(num_codes, dtype=torch.int64, device=rows.device)
    chosen[0] = (draws[0] * len(rows)).long()
    distances = _exact_distances(rows, rows[chosen[0]])
    for code in range(1, num_codes):
        mass = distances.double().cumsum(0)
        chosen[code] = torch.searchsorted(mass, draws[code] * mass[-1], right=True).clamp_max(len(rows) - 1)
        distances = torch.minimum(distances, _exact_distances(rows, rows[chosen[code]]))
    return rows[chosen].clone()


def capped_assignment(costs: Float[Tensor, "rows codes"], capacity: int) -> Int64[Tensor, " rows"]:
    """Assign every row to a code so that no code gets more than `capacity` rows.

    In rounds: each row that is still free proposes to its cheapest code with room, and each code accepts the cheapest
    proposals that fit. At most one round a code; every round fills a code or ends. Greedy, so the total cost is near
    the optimum but not at it (an exact assignment would be cubic).

    >>> capped_assignment(torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 9.0], [3.0, 4.0]]), 2).tolist()
    [0, 0, 1, 1]
    """
    rows, codes = costs.shape
    if capacity * codes < rows:
        raise ValueError(f"{codes} codes of capacity {capacity} cannot hold {rows} rows")
    assigned = torch.full((rows,), -1, dtype=torch.int64, device=costs.device)
    room = torch.full((codes,), capacity, dtype=torch.int64, device=costs.device)
    free = torch.arange(rows, device=costs.device)
    while len(free):
        open_costs = costs[free].masked_fill(room.eq(0), torch.inf)
        price, wish = open_costs.min(1)
        order = price.argsort(stable=True)
        order = order[wish[order].argsort(stable=True)]  # by code, then by price
        asked = torch.bincount(wish, minlength=codes)
        rank = torch.arange(len(free), device=costs.device) - (asked.cumsum(0) - asked)[wish[order]]
        accepted = order[rank < room[wish[order]]]
        assigned[free[accepted]] = wish[accepted]
        room -= torch.bincount(wish[accepted], minlength=codes)
        free = free[assigned[free].lt(0)]
    return assigned


def group_means(
    rows: Float[Tensor, "rows dim"], codes: Int64[Tensor, " rows"], previous: Float[Tensor, "codes dim"]
) -> Float[Tensor, "codes dim"]:
    """Mean of the rows of each code; `previous` where a code has no rows."""
    sums = torch.zeros_like(previous)
    if rows.is_cuda:  # index_add_ on CUDA adds in any order; a product with the one-hot codes does not
        for piece, code in zip(torch.split(rows, 4096), torch.split(codes, 4096), strict=True):
            sums += torch.nn.functional.one_hot(code, len(previous)).to(rows.dtype).T @ piece
    else:
        sums.index_add_(0, codes, rows)
    counts = torch.bincount(codes, minlength=len(previous)).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp_min(1), previous)


def _assign(rows: Tensor, centroids: Tensor, capacity: int | None, chunk: int | None) -> tuple[Tensor, Tensor]:
    if capacity is not None:
        costs = squared_distances(rows, centroids)
        codes = capped_assignment(costs, capacity)
        return codes, costs.gather(1, codes.unsqueeze(1)).squeeze(1)
    pairs = [squared_distances(piece, centroids).min(1) for piece in _pieces(rows, chunk)]
    return torch.cat([pair.indices for pair in pairs]), torch.cat([pair.values for pair in pairs])


def _repair_empty(rows: Tensor, centroids: Tensor, codes: Tensor, distances: Tensor) -> Tensor:
    """Move each empty centroid to the farthest row; a loop over the empty codes (few), never over rows."""
    empty = (torch.bincount(codes, minlength=len(centroids)) == 0).nonzero().flatten().tolist()
    for code in empty:
        farthest = distances.argmax()
        if not bool(distances[farthest] > 0):
            break
        centroids[code] = rows[farthest]
        distances = torch.minimum(distances, _exact_distances(rows, rows[farthest]))
    return centroids


def _exact_distances(rows: Tensor, point: Tensor) -> Tensor:
    """By differences, not by a product: exactly zero for equal rows, which seeding and repair rely on. On a CPU in
    pieces: fresh memory for all differences costs several times the sums.
    """
    pieces = (rows,) if rows.is_cuda else torch.split(rows, max(1, _CACHED // rows.shape[1]))
    return torch.cat([(piece - point).square_().sum(1) for piece in pieces])


def _pieces(rows: Tensor, chunk: int | None) -> tuple[Tensor, ...]:
    return torch.split(rows, chunk or (_CHUNK if rows.is_cuda else _CPU_CHUNK))
