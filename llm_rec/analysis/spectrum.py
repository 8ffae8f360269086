"""How many directions a set of vectors really uses: the measures by which collapse is diagnosed.

All measures are functions of the singular values of the matrix (rows = items). Whether the mean is removed first is the
caller's choice and changes the answer: a shared mean direction (typical of pooled language-model vectors) alone takes
most of the spectrum of uncentred vectors.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor


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
