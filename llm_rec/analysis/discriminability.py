"""How well what reaches the head of a model separates clicks: clusters of it against labels (DARE, arXiv 2410.02604).

The vectors are clustered by k-means, and I(cluster; label) in nats and NMI = 2 I / (H(cluster) + H(label)) tell how
far the clusters are clicks and no-clicks. Information rises with the number of clusters, in sample from chance as well:
the Miller-Madow correction stands beside it.

The authors use scikit-learn's MiniBatchKMeans. Here it is `semantic_ids.kmeans` (Lloyd, k-means++) on `fit_rows`
sampled rows, and the nearest centroid for all: no further dependency, and runs repeat exactly.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from llm_rec.analysis.mutual_information import Cells, miller_madow, mutual_information
from semantic_ids.kmeans import FewRowsWarning, kmeans, nearest

PAPER_CLUSTERS = (2, 5, 10, 20, 30, 50, 100, 200, 300, 500, 700, 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterInformation:
    """Means over the seeds of k-means, and the standard deviation of the plug-in information between them."""

    clusters: int
    information: float  # nats, plug-in
    deviation: float
    corrected: float  # nats, Miller-Madow
    nmi: float


def cluster_information(
    features: Float[Tensor, "rows width"],
    clicked: Bool[np.ndarray, "rows"],
    *,
    clusters: Sequence[int] = (2, 5, 10, 20, 30, 50),
    num_seeds: int = 5,
    fit_rows: int = 16_384,
) -> tuple[ClusterInformation, ...]:
    """One record for each number of clusters, in the given order. Seeds are 0 to `num_seeds` - 1.

    Raises `ValueError` for fewer rows (of all, or to fit on) than clusters, labels of one class, and features that are
    not finite.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}")
    rows = min(len(features), fit_rows)
    if not clusters or not 1 <= min(clusters) <= max(clusters) <= rows:
        raise ValueError(f"clusters must lie in 1..{rows}, the rows to fit on, got {list(clusters)}")
    if clicked.all() or not clicked.any():
        raise ValueError(f"{len(clicked)} rows are all of one label; take rows with and without clicks")
    vectors = features.detach().float()
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError("features must be finite; the model gives NaN or infinite vectors")
    return tuple(_record(vectors, clicked, number, num_seeds, fit_rows) for number in clusters)


def normalised_information(cells: Cells) -> float:
    """NMI with the mean of the two entropies below; 0 when both are 0.

    >>> round(normalised_information(Cells.of(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))), 9)
    1.0
    """
    entropies = [_entropy(np.bincount(numbers, weights=cells.counts)) for numbers in (cells.codes, cells.labels)]
    mean = sum(entropies) / 2
    return mutual_information(cells) / mean if mean > 0 else 0.0


def _record(vectors: Tensor, clicked: np.ndarray, clusters: int, num_seeds: int, fit_rows: int) -> ClusterInformation:
    cells = [Cells.of(_clusters(vectors, clusters, seed, fit_rows), clicked) for seed in range(num_seeds)]
    information = np.array([mutual_information(found) for found in cells])
    return ClusterInformation(
        clusters=clusters,
        information=float(information.mean()),
        deviation=float(information.std(ddof=1)) if num_seeds > 1 else 0.0,
        corrected=float(np.mean([miller_madow(found) for found in cells])),
        nmi=float(np.mean([normalised_information(found) for found in cells])),
    )


def _clusters(vectors: Tensor, clusters: int, seed: int, fit_rows: int) -> Int64[np.ndarray, "rows"]:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(vectors), generator=generator)[:fit_rows].to(vectors.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewRowsWarning)  # clusters are measured here, not used as codes
        found = kmeans(vectors[chosen], clusters, generator=generator)
    codes: np.ndarray = nearest(vectors, found.centroids).cpu().numpy()
    return codes


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return -float((shares * np.log(shares)).sum())
