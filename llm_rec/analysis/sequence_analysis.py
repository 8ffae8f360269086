"""All that the analyses of DARE and TIN (arXiv 2410.02604, 2308.08487) say about one trained model of sequences.

The model is seen through a `SequenceView`, rows come through `SequenceMaterial`: one pass over train rows counts
categories, one over the evaluated rows measures the search and collects what reaches the head.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.schema import Schema
from llm_rec.analysis.attention_gradients import GradientReport
from llm_rec.analysis.category_information import (
    CategoryCounter,
    CategoryCounts,
    CategoryRows,
    category_rows,
    information_map,
)
from llm_rec.analysis.discriminability import ClusterInformation, cluster_information
from llm_rec.analysis.search_quality import (
    Denominator,
    SearchCurves,
    SearchQuality,
    estimated_gains,
    planted_gains,
    search_curves,
    summarise_search,
    well_counted,
)
from llm_rec.analysis.target_attention import RoleVectors, attention_map, attention_scores, rank_correlation
from llm_rec.analysis.target_correlation import TargetCorrelation, target_correlation
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError, DataError

BY_VECTORS, BY_MODEL = "category and position", "whole score"


@runtime_checkable
class SequenceView(Protocol):
    """What the analyses ask of a trained model, of one of its embedding sets, in evaluation mode."""

    @property
    def attention(self) -> RoleVectors | None:
        """Category and position vectors that attention reads; None for models that attend otherwise."""
        ...

    @property
    def representation(self) -> RoleVectors | None:
        """Those that are pooled; None where there are none by category."""
        ...

    @property
    def semantic_dim(self) -> int | None:
        """The width that a score divides its semantic product by the root of; None: the category's."""
        ...

    def scores(self, batch: FeatureBatch) -> Float[Tensor, "batch length"] | None:
        """The scores by which events are found, whatever padding gets; None for models that search for nothing."""
        ...

    def features(self, batch: FeatureBatch) -> Float[Tensor, "batch width"]:
        """What the head reads."""
        ...


@dataclass(frozen=True, eq=False)
class SequenceMaterial:
    """Rows with their histories, anew for each call of `batches`, and names of the ids of the category field.

    `truth`, of a planted log, is the known worth of (target category, behaviour category, position from 1) and replaces
    the estimate in the search's NDCG.
    """

    schema: Schema
    batches: Callable[[Part], Iterable[FeatureBatch]]
    names: tuple[str, ...]
    truth: Float64[np.ndarray, "targets categories positions"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceAnalysisConfig:
    """`category`: the field of past events by which they are counted; None for the second of `Schema.history`, which
    follows the item. `max_length` newest events are looked at; maps have `top` rows and `positions` columns. `k`,
    `denominator` and the three limits are those of `search_quality`; `clusters`, `num_seeds` and `max_rows`
    evaluated rows those of `discriminability`.
    """

    category: str | None = None
    max_length: int = 200
    top: int = 10
    positions: int = 10
    k: int = 20
    denominator: Denominator = "k"
    min_target: int = 700
    min_cell: int = 50
    max_thin: int = 20
    clusters: tuple[int, ...] = (2, 5, 10, 20, 30, 50)
    num_seeds: int = 5
    max_rows: int = 50_000

    def __post_init__(self) -> None:
        sizes = {"max_length": self.max_length, "top": self.top, "positions": self.positions, "k": self.k}
        for name, value in (sizes | {"num_seeds": self.num_seeds, "max_rows": self.max_rows}).items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.positions > self.max_length:
            raise ConfigError(f"positions {self.positions} must not exceed max_length {self.max_length}")
        if not self.clusters or min(self.clusters) < 1:
            raise ConfigError(f"clusters must be numbers of at least 1, got {self.clusters}")


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Events of the target's own category, by target category and position; `learned` and its rank correlation with
    `information` where the model has vectors to read.
    """

    targets: Int64[np.ndarray, "rows"]
    information: Float64[np.ndarray, "rows positions"]
    learned: Float64[np.ndarray, "rows positions"] | None
    agreement: float | None


@dataclass(frozen=True, eq=False)
class SequenceAnalysis:
    """`search` by the score that ranked, empty when no row is counted well enough; `planted` says what its gains are,
    `denominator` what its NDCG is over.

    `correlation` is CTC of the most frequent target category whose rows have a past.
    """

    names: tuple[str, ...]
    maps: AttentionMaps
    correlation: TargetCorrelation
    search: Mapping[str, SearchQuality]
    planted: bool
    denominator: Denominator
    clusters: tuple[ClusterInformation, ...]
    gradients: GradientReport | None = None

    def means(self) -> dict[str, float]:
        """The figures that tell models apart, by name."""
        found = {"map_agreement": self.maps.agreement, "correlation_agreement": self.correlation.agreement}
        figures = {name: value for name, value in found.items() if value is not None}
        for name, quality in self.search.items():
            figures[f"ndcg@{len(quality.ndcg)}, {name}"] = float(quality.ndcg[-1])
            figures[f"overlap@{len(quality.ndcg)}, {name}"] = float(quality.overlap[-1])
        figures |= {f"information, {record.clusters} clusters": record.information for record in self.clusters}
        return figures | ({} if self.gradients is None else self.gradients.means())


def analyse_sequence(
    view: SequenceView,
    material: SequenceMaterial,
    config: SequenceAnalysisConfig,
    *,
    part: Part = "test",
    gradients: GradientReport | None = None,
) -> SequenceAnalysis:
    """Count train rows, read the model's vectors, and measure `part`. `DataError` for rows without what is asked."""
    counts = count_categories(material, config)
    targets = counts.top_targets(counts.num_categories)
    known = [target for target in targets.tolist() if len(counts.top_behaviours(target, 1))]
    if not known:
        raise DataError("no train row has a past event with a category; read the log with histories")
    try:
        measured = _measure(view, material, counts, config, part)
        return SequenceAnalysis(
            names=material.names,
            maps=_maps(view, counts, config),
            correlation=target_correlation(
                counts,
                known[0],
                num_behaviours=config.top,
                num_positions=config.positions,
                attention=view.attention,
                representation=view.representation,
                semantic_dim=view.semantic_dim,
            ),
            search=measured.search,
            planted=material.truth is not None,
            denominator=config.denominator,
            clusters=cluster_information(
                measured.features, measured.clicked, clusters=config.clusters, num_seeds=config.num_seeds
            ),
            gradients=gradients,
        )
    except ValueError as error:
        raise DataError(f"{part} rows: {error}") from error


def count_categories(material: SequenceMaterial, config: SequenceAnalysisConfig) -> CategoryCounts:
    """One pass over the train rows; `DataError` when the names are not those of the field's ids."""
    category = category_field(material.schema, config.category)
    sizes = {field.name: field.size for field in material.schema.id_fields}
    size = sizes.get(category, len(material.names))  # a field that is not there is named by category_rows
    if size != len(material.names):
        raise DataError(f"field {category!r} has {size} ids but {len(material.names)} names; give one for each")
    counter = CategoryCounter(len(material.names), config.max_length)
    for batch in material.batches("train"):
        rows = category_rows(batch, material.schema, category)
        counter.update(rows.target, rows.history, rows.clicked)
    return counter.counts()


def category_field(schema: Schema, category: str | None) -> str:
    """The field that `category` names, or the history's second; `DataError` when events have an item alone."""
    if category is not None:
        return category
    if len(schema.history) < 2:
        raise DataError("past events have an item alone; make the log with a category among its history fields")
    return schema.history[1]


@dataclass(frozen=True, eq=False)
class _Measured:
    search: dict[str, SearchQuality]
    features: Float[Tensor, "rows width"]
    clicked: Bool[np.ndarray, "rows"]


def _maps(view: SequenceView, counts: CategoryCounts, config: SequenceAnalysisConfig) -> AttentionMaps:
    targets = counts.top_targets(config.top)
    information = information_map(counts, targets, targets, config.positions)
    if view.attention is None:
        return AttentionMaps(targets, information, None, None)
    learned = attention_map(view.attention, targets, targets, config.positions)
    return AttentionMaps(targets, information, learned, rank_correlation(information, learned))


@torch.no_grad()
def _measure(
    view: SequenceView, material: SequenceMaterial, counts: CategoryCounts, config: SequenceAnalysisConfig, part: Part
) -> _Measured:
    curves: dict[str, list[SearchCurves]] = {}
    features: list[Tensor] = []
    clicked: list[np.ndarray] = []
    category, left = category_field(material.schema, config.category), config.max_rows
    for batch in material.batches(part):
        rows = category_rows(batch, material.schema, category)
        for name, found in _batch_curves(view, material, counts, config, batch, rows):
            curves.setdefault(name, []).append(found)
        if left > 0:
            features.append(view.features(batch)[:left].float().cpu())
            clicked.append(rows.clicked[:left])
            left -= len(clicked[-1])
    if not features:
        raise DataError(f"there are no {part} rows to analyse; encode the log with such a part")
    search = {name: summarise_search(parts) for name, parts in curves.items() if _any_gain(parts)}
    return _Measured(search, torch.cat(features), np.concatenate(clicked))


def _batch_curves(
    view: SequenceView,
    material: SequenceMaterial,
    counts: CategoryCounts,
    config: SequenceAnalysisConfig,
    batch: FeatureBatch,
    rows: CategoryRows,
) -> Iterator[tuple[str, SearchCurves]]:
    history = rows.history[:, -config.max_length :]
    if material.truth is None:
        kept = well_counted(
            counts,
            rows.target,
            history,
            min_target=config.min_target,
            min_cell=config.min_cell,
            max_thin=config.max_thin,
        )
        gains = estimated_gains(counts, rows.target, history)
    else:
        kept = np.ones(len(history), dtype=bool)
        gains = planted_gains(material.truth, rows.target, history)
    whole = view.scores(batch)
    found = {
        BY_VECTORS: None
        if view.attention is None
        else attention_scores(view.attention, rows.target, history, semantic_dim=view.semantic_dim),
        BY_MODEL: None if whole is None else whole[:, -config.max_length :].double().cpu().numpy(),
    }
    for name, scores in found.items():
        if scores is not None and kept.any():
            mask = history[kept] > 0
            yield name, search_curves(scores[kept], gains[kept], mask, k=config.k, denominator=config.denominator)


def _any_gain(parts: list[SearchCurves]) -> bool:
    return any(bool(np.isfinite(part.ndcg).any()) for part in parts)
