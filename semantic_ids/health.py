"""Is an index any good? Figures over the whole catalog, before any recommender is trained. Pure functions.

Read them together: Sinkhorn or a large codebook drives collisions to zero while neighbours get lost, so a collision
rate means little without the neighbour overlap beside it. 256^3 slots for 10^4 items are mostly empty by nature:
judge usage book by book. Perplexity exp(H) says how many codes a book really uses.
"""

import itertools
import warnings
from dataclasses import asdict, dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from semantic_ids.code_table import CodeTable
from semantic_ids.coherence import prefix_similarity
from semantic_ids.files import Plain
from semantic_ids.keys import prefix_groups
from semantic_ids.vectors import Vectors, take

REDUNDANT = 0.8


class RedundantBooksWarning(UserWarning):
    """Two books carry nearly the same information."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeHealth:
    """`collision_rate` = (items - distinct) / items, as in LC-Rec; `colliding_share` = items that share all codes
    with another.

    `usage` and `perplexity` per book; `joint_entropy` of the whole tuple, in nats; `unique_prefixes` per depth. `nmi`
    between books is a books x books matrix, and `nmi_chance` what the same code counts give when one book is
    shuffled: with few items per pair of codes even independent books look related, so compare the two. The last five
    need vectors; `prefix_similarity` is by depth, from 0 codes shared (all items) on (`semantic_ids.coherence`).
    """

    num_items: int
    codebook_sizes: tuple[int, ...]
    collision_rate: float
    colliding_share: float
    largest_group: int
    usage: tuple[float, ...]
    perplexity: tuple[float, ...]
    joint_entropy: float
    unique_prefixes: tuple[int, ...]
    nmi: tuple[tuple[float, ...], ...]
    nmi_chance: tuple[tuple[float, ...], ...]
    reconstruction_mse: float | None = None
    reconstruction_relative: float | None = None
    reconstruction_cosine: float | None = None
    neighbour_overlap: float | None = None
    prefix_similarity: tuple[float | None, ...] | None = None

    def to_plain(self) -> dict[str, Plain]:
        """JSON values."""
        return cast(dict[str, Plain], asdict(self))


class Reconstruction(NamedTuple):
    """`mse` per dimension; `relative` to the variance around the catalog mean (1 = nothing kept); mean `cosine`."""

    mse: float
    relative: float
    cosine: float


def health(
    table: CodeTable,
    *,
    vectors: Vectors | None = None,
    reconstructed: Vectors | None = None,
    neighbours: int = 10,
    queries: int = 500,
    seed: int = 0,
) -> CodeHealth:
    """All figures of a table; `vectors` and `reconstructed` (`Quantizer.decode` of the codes) are of items 1..N, no
    padding row.

    Warns with `RedundantBooksWarning` when the NMI of two semantic books is above 0.8 and well above chance.
    Seconds for 10^5 items: neighbours are searched for `queries` sampled items only.

    >>> table = CodeTable.from_codes(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), (2, 2))
    >>> figures = health(table)
    >>> figures.collision_rate, figures.usage, figures.perplexity, figures.unique_prefixes
    (0.0, (1.0, 1.0), (2.0, 2.0), (2, 4))
    """
    codes, sizes = table.items, table.codebook_sizes
    if len(codes) == 0:
        raise ValueError("the table holds 0 items; there is nothing to measure")
    groups = [prefix_groups(codes[:, : depth + 1], sizes[: depth + 1]) for depth in range(len(sizes))]
    counts = np.bincount(groups[-1])
    books = [np.bincount(codes[:, book], minlength=size) for book, size in enumerate(sizes)]
    nmi = book_nmi(codes, sizes)
    chance = book_nmi(_shuffled(codes, seed), sizes)
    _warn_if_redundant(nmi, chance, len(sizes) - (table.digit is not None))
    rebuilt = overlap = similarity = None
    if vectors is not None and reconstructed is not None:
        _check_pair(len(codes), vectors, reconstructed)
        rebuilt = reconstruction(vectors, reconstructed)
        overlap = neighbour_overlap(vectors, reconstructed, neighbours=neighbours, queries=queries, seed=seed)
        similarity = prefix_similarity(table, vectors)
    return CodeHealth(
        num_items=len(codes),
        codebook_sizes=sizes,
        collision_rate=(len(codes) - len(counts)) / len(codes),
        colliding_share=float(counts[counts > 1].sum() / len(codes)),
        largest_group=int(counts.max()),
        usage=tuple(float((book > 0).mean()) for book in books),
        perplexity=tuple(float(np.exp(entropy(book))) for book in books),
        joint_entropy=entropy(counts),
        unique_prefixes=tuple(int(group.max()) + 1 for group in groups),
        nmi=_rows(nmi),
        nmi_chance=_rows(chance),
        reconstruction_mse=rebuilt.mse if rebuilt else None,
        reconstruction_relative=rebuilt.relative if rebuilt else None,
        reconstruction_cosine=rebuilt.cosine if rebuilt else None,
        neighbour_overlap=overlap,
        prefix_similarity=similarity,
    )


def entropy(counts: Int64[np.ndarray, " cells"]) -> float:
    """H of the distribution that counts stand for, in nats.

    >>> round(entropy(np.array([2, 0, 2])), 4)
    0.6931
    """
    shares = counts[counts > 0] / counts.sum()
    return max(0.0, float(-(shares * np.log(shares)).sum()))


def book_nmi(codes: np.ndarray, sizes: tuple[int, ...]) -> Float[np.ndarray, "books books"]:
    """Normalised mutual information 2 I(A; B) / (H(A) + H(B)) of every pair of books; 1 where both are constant."""
    books = len(sizes)
    nmi = np.eye(books)
    alone = [entropy(np.bincount(codes[:, book])) for book in range(books)]
    for a, b in itertools.combinations(range(books), 2):
        pairs = np.unique(codes[:, a].astype(np.int64) * sizes[b] + codes[:, b], return_counts=True)[1]
        total = alone[a] + alone[b]
        shared = total - entropy(pairs.astype(np.int64))
        nmi[a, b] = nmi[b, a] = np.clip(2 * shared / total, 0, 1) if total > 0 else 1.0
    return nmi


def reconstruction(vectors: Vectors, reconstructed: Vectors, chunk: int = 16_384) -> Reconstruction:
    """Errors over all rows, in float64 sums, a chunk at a time."""
    cpu, items = torch.device("cpu"), len(vectors)
    rows = [torch.arange(start, min(start + chunk, items)) for start in range(0, items, chunk)]
    mean = torch.stack([take(vectors, part, cpu).double().sum(0) for part in rows]).sum(0) / items
    error = spread = cosine = 0.0
    for part in rows:
        given, got = take(vectors, part, cpu).double(), take(reconstructed, part, cpu).double()
        error += float((given - got).square().sum())
        spread += float((given - mean).square().sum())
        cosine += float(torch.cosine_similarity(given, got).sum())
    relative = error / spread if spread > 0 else 0.0
    return Reconstruction(error / (items * vectors.shape[1]), relative, cosine / items)


def neighbour_overlap(
    vectors: Vectors, reconstructed: Vectors, *, neighbours: int = 10, queries: int = 500, seed: int = 0
) -> float:
    """Mean share of an item's nearest neighbours (cosine, itself left out) that are nearest after quantisation too.

    Items with equal codes are equally near, so the overlap is its expectation over a random order of ties; codes that
    know nothing score neighbours / items. At most items - 1 neighbours.
    """
    items = len(vectors)
    if items < 2:
        raise ValueError(f"{items} item has no neighbours")
    wanted = min(neighbours, items - 1)
    drawn = np.random.default_rng(seed).choice(items, size=min(queries, items), replace=False)
    before, after = _unit(vectors), _unit(reconstructed)
    total = 0.0
    for part in torch.split(torch.from_numpy(np.sort(drawn)), max(1, 2**25 // items)):
        near = _similarity(before, part).topk(wanted, dim=1).indices
        total += float(_chance_kept(_similarity(after, part), near, wanted).sum())
    return total / (len(drawn) * wanted)


def _chance_kept(
    similarity: Float[Tensor, "queries items"], near: Int64[Tensor, "queries neighbours"], wanted: int
) -> Float[Tensor, "queries neighbours"]:
    """Probability of each true neighbour to be among the `wanted` most similar: (wanted - better) / tied, in [0, 1]."""
    scores = similarity.gather(1, near)
    kept = torch.empty_like(scores)
    for place in range(near.shape[1]):  # neighbours are few; queries x items x neighbours would not fit
        score = scores[:, place : place + 1]
        better, tied = (similarity > score).sum(1), (similarity == score).sum(1)
        kept[:, place] = ((wanted - better) / tied).clamp(0, 1)
    return kept


def _similarity(unit: Tensor, rows: Tensor) -> Tensor:
    """Cosines, rounded to 2^-20 so that equal vectors tie whatever the order of additions; -2 for the item itself."""
    similarity = (unit[rows] @ unit.T).mul_(2**20).round_().div_(2**20)
    return similarity.scatter_(1, rows.unsqueeze(1), -2.0)


def _unit(vectors: Vectors) -> Tensor:
    return torch.nn.functional.normalize(take(vectors, torch.arange(len(vectors)), torch.device("cpu")), dim=1)


def _shuffled(codes: np.ndarray, seed: int) -> np.ndarray:
    """Every book in its own random order: the same code counts, nothing shared."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(codes[:, book]) for book in range(codes.shape[1])], 1)


def _warn_if_redundant(nmi: np.ndarray, chance: np.ndarray, semantic: int) -> None:
    for a, b in itertools.combinations(range(semantic), 2):
        if nmi[a, b] > REDUNDANT and nmi[a, b] > chance[a, b] + 0.1:
            warnings.warn(
                f"books {a} and {b} have NMI {nmi[a, b]:.2f} (chance {chance[a, b]:.2f}): they say nearly the same, "
                "more books will not add information; use fewer, set diversity_weight, or another quantizer",
                RedundantBooksWarning,
                stacklevel=3,
            )


def _check_pair(items: int, vectors: Vectors, reconstructed: Vectors) -> None:
    if len(vectors) != items or tuple(reconstructed.shape) != tuple(vectors.shape):
        raise ValueError(
            f"the table has {items} items, vectors are {tuple(vectors.shape)}, "
            f"reconstructed {tuple(reconstructed.shape)}; "
            "pass both for items 1..N"
        )


def _rows(matrix: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in matrix)
