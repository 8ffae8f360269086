"""Ranking of a trained recommender's held-out targets, in slices of how well training knew the target."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from llm_rec.data.splits import Split
from llm_rec.errors import ConfigError
from llm_rec.metrics.lists import ListRecommender, rank_lists
from llm_rec.metrics.ranking import Part, Ranks, Retriever, coverage, per_target, rank_split
from llm_rec.metrics.slices import target_slices
from llm_rec.metrics.summary import SliceSummary, summarise
from llm_rec.recipes.material import Material


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How targets are ranked: always against the whole catalog; seen items leave the ranking, unless `exclude_seen` is
    off. `samples` bootstrap resamples make the 95 % intervals."""

    ks: tuple[int, ...] = (5, 10, 20)
    exclude_seen: bool = True
    buckets: int = 10
    samples: int = 1000
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks must be at least 1 each, got {self.ks}")
        if min(self.buckets, self.samples, self.batch_size) < 1:
            raise ConfigError("buckets, samples and batch_size must be at least 1")


LISTS_AT_ONCE = 64  # users whose lists are made together: beam search keeps keys and values for every beam
AMONG_UNSEEN = "among_unseen"  # a slice of its own: unseen targets ranked among the unseen items alone


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of every target, the slices the targets fall into, and their summaries.

    `summary` has one slice more, "among_unseen", where the catalog has more unseen items than the deepest k: it tells
    whether a recommender knows nothing of unseen items, or knows them and ranks items it has seen before them.
    """

    targets: Int64[np.ndarray, "targets"]
    per_target: dict[str, Float64[np.ndarray, "targets"]]
    slices: dict[str, Bool[np.ndarray, "targets"]]
    summary: dict[str, SliceSummary]
    coverage: float  # of the catalog, by the first ks[-1] recommendations


def evaluate(
    recommender: Retriever | ListRecommender, material: Material, part: Part, config: EvaluationConfig
) -> Evaluation:
    """Rank every target of `part` by full ranking; the unseen ones among themselves too.

    A `ListRecommender` is asked for its best items instead, as deep as the deepest cut; what is not among them is a
    miss, and there is no ranking of unseen items among themselves.
    """
    split = material.split
    events = split.validation if part == "validation" else split.test
    if not len(events):
        raise ConfigError(f"the split has no {part} targets; choose another split")
    deepest = max(config.ks)
    ranks = _ranks(recommender, split, part, config)
    targets = split.log.items[events]
    metrics = per_target(ranks, config.ks)
    slices = target_slices(targets, split.train_counts, material.buckets(config.buckets))
    recommended = ranks.recommended
    share = 0.0 if recommended is None else coverage(recommended, split.num_items, deepest)
    summary = summarise(metrics, slices, samples=config.samples)
    among = None
    if isinstance(recommender, Retriever):
        among = _among_unseen(recommender, split, part, events[slices["unseen"]], config)
    return Evaluation(targets, metrics, slices, summary if among is None else {**summary, AMONG_UNSEEN: among}, share)


def _ranks(recommender: Retriever | ListRecommender, split: Split, part: Part, config: EvaluationConfig) -> Ranks:
    deepest = max(config.ks)
    if isinstance(recommender, Retriever):
        return rank_split(
            recommender, split, part, exclude_seen=config.exclude_seen, batch_size=config.batch_size, top_k=deepest
        )
    return rank_lists(
        recommender,
        split,
        part,
        k=deepest,
        exclude_seen=config.exclude_seen,
        batch_size=min(config.batch_size, LISTS_AT_ONCE),
    )


def _among_unseen(
    retriever: Retriever, split: Split, part: Part, events: Int64[np.ndarray, "unseen"], config: EvaluationConfig
) -> SliceSummary | None:
    """Unseen targets against unseen items; None where that is no ranking worth the name."""
    candidates = split.train_counts == 0
    candidates[0] = False
    if not len(events) or candidates.sum() <= max(config.ks):
        return None
    asked = replace(split, validation=events) if part == "validation" else replace(split, test=events)
    ranks = rank_split(
        retriever,
        asked,
        part,
        exclude_seen=config.exclude_seen,
        candidates=candidates,
        batch_size=config.batch_size,
    )
    metrics = per_target(ranks, config.ks)
    everything = {AMONG_UNSEEN: np.ones(len(events), dtype=bool)}
    return summarise(metrics, everything, samples=config.samples)[AMONG_UNSEEN]
