"""Category-wise target-aware correlation (CTC): which past categories, and how long ago, go with clicks on a target.

The diagnostic of TIN (arXiv 2308.08487), in two forms for one target category: of raw train rows, and of the vectors of
a trained model. Rows are behaviour categories, columns positions (1 is the newest). Of raw rows it is the mutual
information of `category_information`; `phi` has its sign, which information lacks (our addition). Of a model it is
|alpha (e~ ⊙ v~)|, `target_attention.correlation_map`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

from llm_rec.analysis.category_information import CategoryCounts, information_map
from llm_rec.analysis.target_attention import Reduction, RoleVectors, correlation_map, rank_correlation


@dataclass(frozen=True, eq=False)
class TargetCorrelation:
    """CTC of one target category; `learned` and its rank correlation with `information` when a model was given."""

    target: int
    behaviours: Int64[np.ndarray, "rows"]
    information: Float64[np.ndarray, "rows positions"]
    phi: Float64[np.ndarray, "rows positions"]
    learned: Float64[np.ndarray, "rows positions"] | None = None
    agreement: float | None = None


def target_correlation(
    counts: CategoryCounts,
    target: int,
    *,
    num_behaviours: int = 10,
    num_positions: int = 10,
    attention: RoleVectors | None = None,
    representation: RoleVectors | None = None,
    semantic_dim: int | None = None,
    reduction: Reduction = "norm",
) -> TargetCorrelation:
    """CTC over the categories that the past of the target's rows holds most.

    Without `representation` (one table for both roles) the attention vectors serve for it.
    """
    behaviours = counts.top_behaviours(target, num_behaviours)
    if not len(behaviours):
        raise ValueError(f"no row of target category {target} has a past; choose one of `counts.top_targets`")
    targets = np.full(len(behaviours), target, dtype=np.int64)
    information = information_map(counts, targets, behaviours, num_positions)
    positions = np.arange(1, num_positions + 1)
    phi = phi_coefficient(counts.tables(targets[:, None], behaviours[:, None], positions[None]))
    if attention is None:
        return TargetCorrelation(target, behaviours, information, phi)
    learned = correlation_map(
        attention,
        representation or attention,
        targets,
        behaviours,
        num_positions,
        semantic_dim=semantic_dim,
        reduction=reduction,
    )
    return TargetCorrelation(target, behaviours, information, phi, learned, rank_correlation(information, learned))


def phi_coefficient(tables: Int[np.ndarray, "*cells 2 2"]) -> Float64[np.ndarray, "*cells"]:
    """Pearson correlation of the two axes of 2 x 2 tables; 0 where one of them is constant.

    >>> phi_coefficient(np.array([[3, 1], [1, 3]])).item()
    0.5
    """
    counts = tables.astype(np.float64)
    determinant = counts[..., 0, 0] * counts[..., 1, 1] - counts[..., 0, 1] * counts[..., 1, 0]
    margins = counts.sum(axis=-1).prod(axis=-1) * counts.sum(axis=-2).prod(axis=-1)
    scale = np.sqrt(margins)
    phi: np.ndarray = np.divide(determinant, scale, out=np.zeros_like(determinant), where=scale > 0)
    return phi
