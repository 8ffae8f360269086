"""What a trained model attends to by category and position: the learned counterpart of `category_information`.

Only the category and position vectors take part, the item's does not (DARE, arXiv 2410.02604, and the analysis of TIN,
arXiv 2308.08487). With positions side by side ("concat") the score of behaviour category c at position p against target
category t is <cat_t, cat_c> / sqrt(d_c) + <pos_0, pos_p> / sqrt(d_p); with positions added it is
<cat_t + pos_0, cat_c + pos_p> / sqrt(d_c).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jaxtyping import Float, Float64, Int

from llm_rec.analysis.category_information import event_positions, min_max

Position: TypeAlias = Literal["concat", "add", "none"]
Reduction: TypeAlias = Literal["norm", "sum"]


@dataclass(frozen=True, eq=False)
class RoleVectors:
    """Vectors of one role (attention or representation) in one embedding set: a row for each category id, and a row for
    each position (row 1 is the newest event's; width 0 with position "none").

    The candidate has the same vectors, and row 0 of the positions, unless it has a table or a projection of its own:
    `target_category` by id, and `target_position`.
    """

    category: Float[np.ndarray, "categories dim"]
    position: Float[np.ndarray, "positions position_dim"]
    combine: Position = "concat"
    target_category: Float[np.ndarray, "categories dim"] | None = None
    target_position: Float[np.ndarray, "position_dim"] | None = None

    def __post_init__(self) -> None:
        width, other = self.category.shape[1], self.position.shape[1]
        if self.combine == "add" and width != other:
            raise ValueError(f"positions of {other} numbers cannot be added to categories of {width}; use concat")

    def events(self, categories: Int[np.ndarray, "*cells"], positions: Int[np.ndarray, "*cells"]) -> np.ndarray:
        """The whole vectors of events, float64, in the last axis."""
        return self._joined(self.category[categories], self.position[positions])

    def targets(self, categories: Int[np.ndarray, "rows"]) -> np.ndarray:
        """The whole vectors of candidates."""
        vectors = self.category if self.target_category is None else self.target_category
        place = self.position[0] if self.target_position is None else self.target_position
        return self._joined(vectors[categories], np.broadcast_to(place, (len(categories), len(place))))

    def weights(self, semantic_dim: int | None) -> Float64[np.ndarray, "width"]:
        """What each product of coordinates is multiplied by in a score: the two scales of the equation."""
        dim = self.category.shape[1]
        semantic = np.full(dim, (semantic_dim or dim) ** -0.5)
        if self.combine != "concat":
            return semantic
        positions = self.position.shape[1]
        return np.concatenate([semantic, np.full(positions, positions**-0.5)])

    def _joined(self, vectors: np.ndarray, places: np.ndarray) -> np.ndarray:
        semantic: np.ndarray = vectors.astype(np.float64)
        match self.combine:
            case "concat":
                return np.concatenate([semantic, places.astype(np.float64)], axis=-1)
            case "add":
                summed: np.ndarray = semantic + places
                return summed
            case "none":
                return semantic
            case _:
                assert_never(self.combine)


def attention_scores(
    vectors: RoleVectors,
    targets: Int[np.ndarray, "rows"],
    history: Int[np.ndarray, "rows length"],
    *,
    semantic_dim: int | None = None,
) -> Float64[np.ndarray, "rows length"]:
    """Scores of all events of rows; ids oldest first, left padded with 0, whose scores mean nothing.

    `semantic_dim`: the width that the model divides its semantic product by the root of, item and category together;
    None takes that of the category alone. Raises `ValueError` for more events than there are positions.
    """
    _check_length(vectors, history.shape[1])
    places = np.broadcast_to(event_positions(history.shape[1]), history.shape)
    events = vectors.events(history, places)
    candidates = vectors.targets(targets) * vectors.weights(semantic_dim)
    scores: np.ndarray = np.einsum("rld,rd->rl", events, candidates)
    return scores


def attention_map(
    vectors: RoleVectors,
    targets: Int[np.ndarray, "rows"],
    behaviours: Int[np.ndarray, "rows"],
    num_positions: int = 10,
    *,
    semantic_dim: int | None = None,
) -> Float64[np.ndarray, "rows positions"]:
    """Softmax over the whole map of scores, then min-max: the learned side of `information_map`, which see."""
    _check_length(vectors, num_positions)
    weights = _map_attention(vectors, targets, behaviours, num_positions, semantic_dim)
    return min_max(weights)


def correlation_map(
    attention: RoleVectors,
    representation: RoleVectors,
    targets: Int[np.ndarray, "rows"],
    behaviours: Int[np.ndarray, "rows"],
    num_positions: int = 10,
    *,
    semantic_dim: int | None = None,
    reduction: Reduction = "norm",
) -> Float64[np.ndarray, "rows positions"]:
    """|alpha (e ⊙ v)|: attention over the map (softmax over all of it) times the target-aware representation.

    The sources give no more than the bars: "norm" is the Euclidean norm of the vector, "sum" the absolute sum of its
    entries, which is the inner product. Both are our reading.
    """
    for vectors in (attention, representation):
        _check_length(vectors, num_positions)
    alpha = _map_attention(attention, targets, behaviours, num_positions, semantic_dim)
    events, candidates = _map_vectors(representation, targets, behaviours, num_positions)
    products = alpha[..., None] * events * candidates[:, None]
    match reduction:
        case "norm":
            return np.asarray(np.linalg.norm(products, axis=-1))
        case "sum":
            return np.asarray(np.abs(products.sum(axis=-1)))
        case _:
            assert_never(reduction)


def rank_correlation(first: Float64[np.ndarray, "*cells"], second: Float64[np.ndarray, "*cells"]) -> float:
    """Spearman's rank correlation of two maps (ties get their mean rank); NaN when one of them is constant.

    >>> round(rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([0.1, 5.0, 4.0])), 3)
    0.5
    """
    ranks = [_ranks(values.ravel()) for values in (first, second)]
    deviations = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float(deviations[0] @ deviations[1]) / scale if scale > 0 else float("nan")


def _map_attention(
    vectors: RoleVectors, targets: np.ndarray, behaviours: np.ndarray, num_positions: int, semantic_dim: int | None
) -> np.ndarray:
    events, candidates = _map_vectors(vectors, targets, behaviours, num_positions)
    scores = np.einsum("rpd,rd->rp", events, candidates * vectors.weights(semantic_dim))
    powers = np.exp(scores - scores.max())
    attention: np.ndarray = powers / powers.sum()
    return attention


def _map_vectors(
    vectors: RoleVectors, targets: np.ndarray, behaviours: np.ndarray, num_positions: int
) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(behaviours), num_positions)
    positions = np.broadcast_to(np.arange(1, num_positions + 1), shape)
    events = vectors.events(np.broadcast_to(behaviours[:, None], shape), positions)
    return events, vectors.targets(targets)


def _check_length(vectors: RoleVectors, length: int) -> None:
    if vectors.combine != "none" and length >= len(vectors.position):
        raise ValueError(
            f"there are vectors of positions 0..{len(vectors.position) - 1}, but {length} are asked for; take fewer"
        )


def _ranks(values: Float64[np.ndarray, "cells"]) -> Float64[np.ndarray, "cells"]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    ranks: np.ndarray = (last - (counts - 1) / 2)[place]
    return ranks
