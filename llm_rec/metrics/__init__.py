"""Full-ranking metrics, slices of targets, intervals and paired tests."""

from llm_rec.metrics.lists import ListRecommender, rank_lists
from llm_rec.metrics.ranking import Ranks, Retriever, coverage, per_target, rank_split
from llm_rec.metrics.significance import compare, compare_seeds, holm
from llm_rec.metrics.slices import target_slices
from llm_rec.metrics.summary import SliceSummary, summarise

__all__ = [
    "ListRecommender",
    "Ranks",
    "Retriever",
    "SliceSummary",
    "compare",
    "compare_seeds",
    "coverage",
    "holm",
    "per_target",
    "rank_lists",
    "rank_split",
    "summarise",
    "target_slices",
]
