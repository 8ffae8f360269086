"""How good the search of a long-sequence model is: NDCG of the events it ranks first (DARE, arXiv 2410.02604).

The gain of an event is what it says about the click: its mutual information with it (estimated of train rows), or a
planted truth. The authors divide DCG@n by the ideal DCG@20 for every n <= 20, so their curve below 20 is no NDCG@n;
`denominator` has both. They rank by category and position vectors alone (`target_attention.attention_scores` with
`semantic_dim` of item and category); scores of the whole model serve as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from llm_rec.analysis.category_information import CategoryCounts, event_positions

Denominator: TypeAlias = Literal["k", "n"]


@dataclass(frozen=True, eq=False)
class SearchCurves:
    """For each row and n = 1..k: NDCG, NaN where no event has a gain, and how many of the n events ranked first are
    among the k of the most gain.
    """

    ndcg: Float64[np.ndarray, "rows k"]
    overlap: Int64[np.ndarray, "rows k"]


@dataclass(frozen=True, eq=False)
class SearchQuality:
    """Means over the `rows` that have a gain; `standard_error` is that of the last value of the NDCG curve."""

    rows: int
    ndcg: Float64[np.ndarray, "k"]
    overlap: Float64[np.ndarray, "k"]
    standard_error: float


def search_curves(
    scores: Float[np.ndarray, "rows length"],
    gains: Float64[np.ndarray, "rows length"],
    mask: Bool[np.ndarray, "rows length"],
    *,
    k: int = 20,
    denominator: Denominator = "k",
) -> SearchCurves:
    """NDCG@n, discount 1 / log2(rank + 2) from rank 0. Denominator "k": ideal DCG@k for every n; "n": ideal DCG@n.

    Among equal scores, and equal gains, the newer event comes first. Padding is never found; a row of fewer than k
    events stays at what it reached. Raises `ValueError` for scores or gains that are NaN.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for name, values in (("scores", scores), ("gains", gains)):
        if np.isnan(values[mask]).any():
            raise ValueError(f"{name} of events must be numbers, got NaN in {int(np.isnan(values[mask]).sum())} places")
    missing = max(0, k - scores.shape[1])
    scores, gains, mask = (np.pad(part, ((0, 0), (missing, 0))) for part in (scores, gains, mask))
    gains = np.where(mask, gains, 0.0)
    found, ideal = _newest_first(scores, mask)[:, :k], _newest_first(gains, mask)[:, :k]
    discount = 1 / np.log2(np.arange(k) + 2)
    reached, best = ((np.take_along_axis(gains, order, axis=1) * discount).cumsum(axis=1) for order in (found, ideal))
    match denominator:
        case "k":
            best = best[:, -1:]
        case "n":
            pass
        case _:
            assert_never(denominator)
    ndcg = np.divide(reached, best, out=np.full_like(reached, np.nan), where=best > 0)
    wanted = np.zeros_like(mask)
    np.put_along_axis(wanted, ideal, np.take_along_axis(mask, ideal, axis=1), axis=1)
    return SearchCurves(ndcg, np.take_along_axis(wanted, found, axis=1).cumsum(axis=1, dtype=np.int64))


def summarise_search(parts: Sequence[SearchCurves]) -> SearchQuality:
    """Means over all batches; `ValueError` when no row has a gain."""
    ndcg = np.concatenate([part.ndcg for part in parts]) if parts else np.zeros((0, 1))
    kept = np.isfinite(ndcg).all(axis=1)
    rows = int(kept.sum())
    if not rows:
        raise ValueError(f"none of {len(ndcg)} rows has an event with a gain; lower min_target and min_cell")
    last = ndcg[kept, -1]
    return SearchQuality(
        rows=rows,
        ndcg=ndcg[kept].mean(axis=0),
        overlap=np.concatenate([part.overlap for part in parts])[kept].mean(axis=0),
        standard_error=float(last.std(ddof=1) / rows**0.5) if rows > 1 else float("nan"),
    )


def estimated_gains(
    counts: CategoryCounts, target: Int[np.ndarray, "rows"], history: Int[np.ndarray, "rows length"]
) -> Float64[np.ndarray, "rows length"]:
    """Mutual information of every event with the click, from train rows; 0 for padding."""
    places = event_positions(history.shape[1])
    return np.where(history > 0, counts.information(target[:, None], history, places[None]), 0.0)


def planted_gains(
    truth: Float[np.ndarray, "targets categories positions"],
    target: Int[np.ndarray, "rows"],
    history: Int[np.ndarray, "rows length"],
) -> Float64[np.ndarray, "rows length"]:
    """The same from a table that is known: entry (t, c, p - 1). 0 for padding, and beyond its last position."""
    places = np.broadcast_to(event_positions(history.shape[1]) - 1, history.shape)
    inside = (history > 0) & (places < truth.shape[2])
    gains = truth[target[:, None], history, places.clip(max=truth.shape[2] - 1)]
    return np.where(inside, gains, 0.0).astype(np.float64)


def well_counted(
    counts: CategoryCounts,
    target: Int[np.ndarray, "rows"],
    history: Int[np.ndarray, "rows length"],
    *,
    min_target: int = 700,
    min_cell: int = 50,
    max_thin: int = 20,
) -> Bool[np.ndarray, "rows"]:
    """Rows whose gains are estimated well: the target category has `min_target` train rows, and at most `max_thin`
    events of the row occur fewer than `min_cell` times with a click, or fewer than that without.

    The defaults are the authors', for histories of 200.
    """
    events = counts.events(target[:, None], history, event_positions(history.shape[1])[None])
    thin = (events < min_cell).any(axis=-1) & (history > 0)
    kept: np.ndarray = (counts.targets.sum(axis=1)[target] >= min_target) & (thin.sum(axis=1) <= max_thin)
    return kept


def _newest_first(values: np.ndarray, mask: np.ndarray) -> Int64[np.ndarray, "rows length"]:
    """Columns by falling value; equal ones by rising position, padding last."""
    kept = np.where(mask, values, -np.inf)[:, ::-1]
    order: np.ndarray = kept.shape[1] - 1 - np.argsort(-kept, axis=1, kind="stable")
    return order
