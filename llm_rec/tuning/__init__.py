"""Tuning of text encoders on a catalog and its log: pairs, InfoNCE with cached gradients, adapters as artefacts."""

from llm_rec.tuning.batches import PairBatch, PairBatches, PairsConfig
from llm_rec.tuning.co_interactions import CoInteractionConfig, CoInteractions, co_interactions
from llm_rec.tuning.losses import InfoNCEConfig, PairLabels, info_nce
from llm_rec.tuning.neighbours import NeighbourRetriever, neighbour_metrics
from llm_rec.tuning.task import PairTask
from llm_rec.tuning.tune import TuningConfig, TuningOutcome, tune_encoder
from llm_rec.tuning.views import TextViews, ViewsConfig

__all__ = [
    "CoInteractionConfig",
    "CoInteractions",
    "InfoNCEConfig",
    "NeighbourRetriever",
    "PairBatch",
    "PairBatches",
    "PairLabels",
    "PairTask",
    "PairsConfig",
    "TextViews",
    "TuningConfig",
    "TuningOutcome",
    "ViewsConfig",
    "co_interactions",
    "info_nce",
    "neighbour_metrics",
    "tune_encoder",
]
