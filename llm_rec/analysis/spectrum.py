"""How many directions a set of vectors really uses: the measures by which collapse is diagnosed.

All measures are functions of the singular values of the matrix (rows = items). Whether the mean is removed first is the
caller's choice and changes the answer: a shared mean direction (typical of pooled language-model vectors) alone takes
most of the spectrum of uncentred vectors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

Method: TypeAlias = Literal["auto", "gram", "qr"]

_CHUNK = 1 << 18  # rows of one pass
_LOST = 1e-7  # singular values below this share of the largest are noise of a Gram matrix in float64
_TINY = 1e-10  # smallest over largest eigenvalue of a Gram matrix from which square roots keep 7 digits


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Singular values, largest first, with the three usual counts of "how many dimensions", and the mean cosine."""

    singular_values: Float64[np.ndarray, "dim"]
    information_abundance: float
    effective_rank: float
    participation_ratio: float
    mean_cosine: float
    variance_share: Float64[np.ndarray, "dim"]  # of each coordinate, in the given order


def spectrum(
    vectors: Float[Tensor, "items dim"], *, centre: bool = True, pairs: int = 100_000, seed: int = 0
) -> Spectrum:
    """Spectrum of item vectors without the padding row: pass ``store.all()[1:]``.

    The mean cosine is always that of the vectors as given (uncentred), over sampled pairs. Raises `ValueError` for
    fewer than two vectors or values that are not finite.
    """
    if len(vectors) < 2 or not bool(torch.isfinite(vectors).all()):
        raise ValueError(
            f"a spectrum needs at least 2 finite vectors, got {len(vectors)}, finite or not; check the embeddings"
        )
    double = vectors.detach().double().cpu()
    used = double - double.mean(dim=0) if centre else double
    values = singular_values(used)
    variance = used.var(dim=0, unbiased=False)
    share = variance / variance.sum().clamp(min=torch.finfo(torch.float64).tiny)
    return Spectrum(
        singular_values=values,
        information_abundance=information_abundance(values),
        effective_rank=effective_rank(values),
        participation_ratio=participation_ratio(values),
        mean_cosine=mean_cosine(double, pairs=pairs, seed=seed),
        variance_share=share.numpy(),
    )


def singular_values(vectors: Float64[Tensor, "items dim"]) -> Float64[np.ndarray, "dim"]:
    """Largest first, from the eigenvalues of the dim x dim Gram matrix: one pass over the items, memory dim^2.

    Squaring loses what lies below about 1e-8 of the largest value; such values are noise for every measure here.
    """
    eigenvalues = torch.linalg.eigvalsh(vectors.T @ vectors).flip(0)
    values: np.ndarray = eigenvalues.clamp(min=0.0).sqrt().numpy()
    return values


def compact_factor(
    vectors: Float[Tensor, "items *tables dim"], *, method: Method = "auto"
) -> Float64[Tensor, "*tables dim dim"]:
    """R with R^T R = E^T E: dim x dim, with the singular values and right singular vectors of E, and those of E W for
    any W are those of R W. In float64, a chunk of rows at a time.

    "gram" sums E^T E and takes its root: fast, but values below about 1e-8 of the largest are lost. "qr" folds chunks
    into one triangular factor: every digit. "auto" is gram unless there are fewer rows than dimensions or the smallest
    value is below 1e-5 of the largest.
    """
    *tables, dim = vectors.shape[1:]
    if method == "qr" or (method == "auto" and len(vectors) < dim):
        return _qr_factor(vectors)
    gram = torch.zeros(*tables, dim, dim, dtype=torch.float64)
    for rows in _chunks(vectors):
        gram += rows.mT @ rows
    values, directions = torch.linalg.eigh(gram)
    if method == "auto" and bool((values[..., 0] < _TINY * values[..., -1]).any()):
        return _qr_factor(vectors)
    factor: Tensor = values.clamp(min=0.0).sqrt().unsqueeze(-1) * directions.mT
    return factor


def _qr_factor(vectors: Float[Tensor, "items *tables dim"]) -> Float64[Tensor, "*tables dim dim"]:
    *tables, dim = vectors.shape[1:]
    factor = torch.zeros(*tables, dim, dim, dtype=torch.float64)
    for rows in _chunks(vectors):
        factor = torch.linalg.qr(torch.cat([factor, rows], dim=-2), mode="r").R
    return factor


def _chunks(vectors: Float[Tensor, "items *tables dim"]) -> Iterator[Float64[Tensor, "*tables rows dim"]]:
    for first in range(0, len(vectors), _CHUNK):
        yield vectors[first : first + _CHUNK].detach().cpu().double().movedim(0, -2)


def abundance_of(factors: Float64[Tensor, "*tables dim other"]) -> Float64[np.ndarray, "*tables"]:
    """Information abundance of each matrix; NaN for a matrix of zeros, which has no direction."""
    values = torch.linalg.svdvals(factors)
    abundance: np.ndarray = (values.sum(-1) / values[..., 0]).numpy()  # 0 / 0 is NaN
    return abundance


def information_abundance(values: Float64[np.ndarray, "dim"]) -> float:
    """sum(s) / max(s): 1 when one direction holds everything, dim when all are equal (Guo et al., 2024, eq. 1).

    >>> information_abundance(np.array([2.0, 1.0, 1.0]))
    2.0
    """
    return float(values.sum() / values.max()) if values.max() > 0 else 0.0


def effective_rank(values: Float64[np.ndarray, "dim"]) -> float:
    """exp(entropy of s / sum(s)) (Roy and Vetterli, 2007): less swayed by the largest value than abundance.

    >>> effective_rank(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return math.exp(-float((shares * np.log(shares)).sum()))


def participation_ratio(values: Float64[np.ndarray, "dim"]) -> float:
    """(sum of s^2)^2 / sum of s^4: the same count for variances instead of standard deviations.

    >>> participation_ratio(np.array([1.0, 1.0, 0.0]))
    2.0
    """
    energy = values**2
    return float(energy.sum() ** 2 / (energy**2).sum()) if energy.sum() > 0 else 0.0


def condition_number(values: Float64[np.ndarray, "dim"]) -> float:
    """Largest over smallest; infinite where the smallest is lost in the rounding of `singular_values`.

    >>> condition_number(np.array([4.0, 2.0]))
    2.0
    """
    smallest, largest = float(values.min()), float(values.max())
    return largest / smallest if smallest > _LOST * largest else math.inf


def mean_cosine(vectors: Float[Tensor, "items dim"], *, pairs: int = 100_000, seed: int = 0) -> float:
    """Mean cosine of two different vectors, over `pairs` random pairs; near 1 means that all point the same way.

    A vector of norm zero has cosine 0 with everything.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(vectors), (pairs,), generator=generator)
    step = torch.randint(1, len(vectors), (pairs,), generator=generator)
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    return float((unit[first] * unit[(first + step) % len(vectors)]).sum(dim=1).mean())


def principal_plane(vectors: Float[Tensor, "items dim"]) -> Float64[np.ndarray, "items 2"]:
    """Coordinates on the two principal directions, for a map; of each direction the largest entry is positive."""
    centred = vectors.detach().double().cpu()
    centred = centred - centred.mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    plane = directions[:, -2:].flip(1)
    strongest = plane.gather(0, plane.abs().argmax(dim=0, keepdim=True))
    points: np.ndarray = (centred @ (plane * torch.where(strongest < 0, -1.0, 1.0))).numpy()
    return points
