"""Batches of pairs: a pure function of (seed, epoch, step), tokenised, sorted by length and cut into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from llm_rec.data.catalog import Catalog
from llm_rec.data.splits import Split
from llm_rec.encoders.duplicates import Duplicates
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.tokens import TokenRows, token_batches
from llm_rec.errors import ConfigError, DataError
from llm_rec.tuning.co_interactions import CoInteractionConfig, co_interactions
from llm_rec.tuning.losses import PairLabels
from llm_rec.tuning.views import TextViews, ViewsConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsConfig:
    """Where pairs come from: co-interactions, views of one text, or both; None leaves a source out.

    With both, a share `views_share` of every batch are views. An epoch is `steps` batches of `batch_size` pairs. A
    chunk holds at most `tokens_per_chunk` tokens, padding included (None: what suits the encoder's device).
    """

    co_interaction: CoInteractionConfig | None = field(default_factory=CoInteractionConfig)
    views: ViewsConfig | None = None
    views_share: float = 0.5
    batch_size: int = 256
    steps: int = 100
    tokens_per_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.co_interaction is None and self.views is None:
            raise ConfigError("pairs need a source: set co_interaction, views, or both")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2, or there is no negative, got {self.batch_size}")
        for name in ("steps", "tokens_per_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not 0 < self.views_share < 1:
            raise ValueError(f"views_share must lie between 0 and 1, got {self.views_share}; one source needs no share")

    @property
    def num_views(self) -> int:
        """How many pairs of a batch are views."""
        if self.views is None:
            return 0
        if self.co_interaction is None:
            return self.batch_size
        return min(max(round(self.views_share * self.batch_size), 1), self.batch_size - 1)


class TokenChunk(NamedTuple):
    """Token ids of some texts, padded to the longest of them, and the mask of real tokens."""

    ids: Int64[Tensor, "texts length"]
    mask: Bool[Tensor, "texts length"]


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Texts 0..pairs - 1 are anchors, the next as many their positives; text t is row `places[t]` of the chunks.

    Chunks hold the longest texts first.
    """

    chunks: tuple[TokenChunk, ...]
    places: Int64[Tensor, "twice_pairs"]
    labels: PairLabels

    @property
    def num_pairs(self) -> int:
        return len(self.labels.anchors)

    def to(self, device: torch.device) -> "PairBatch":
        chunks = tuple(TokenChunk(ids.to(device), mask.to(device)) for ids, mask in self.chunks)
        return PairBatch(chunks, self.places.to(device), self.labels.to(device))


class PairBatches:
    """A `BatchSource` of pairs. Reads train events alone, and the texts of the whole catalog.

    Items of equal texts are one text here, named by their first row, and items without text are in no pair.
    """

    def __init__(self, catalog: Catalog, split: Split, encoder: TextEncoder, config: PairsConfig, seed: int) -> None:
        self.config, self.seed, self.encoder = config, seed, encoder
        self.groups = text_groups(catalog)
        self.rows = np.unique(self.groups[self.groups > 0])
        if len(self.rows) < 2:
            raise DataError(f"the catalog has {len(self.rows)} different texts; tuning an encoder needs at least 2")
        source = config.co_interaction
        self.pairs = co_interactions(split, source.window, self.groups) if source else None
        self._cumulative = np.cumsum(self.pairs.weights(source.damping)) if self.pairs and source else np.zeros(0)
        self._tokens = encoder.tokenize(["", *catalog.texts]) if source else None
        self._views = TextViews(catalog, config.views) if config.views else None
        self._budget = config.tokens_per_chunk or encoder.tokens_per_batch

    def __len__(self) -> int:
        return self.config.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[PairBatch]:
        for step in range(first_step, self.config.steps):
            yield self.batch(epoch, step)

    def batch(self, epoch: int, step: int) -> PairBatch:
        """Batch `step` of `epoch`."""
        rng = np.random.default_rng([self.seed, epoch, step])
        viewed = self.config.num_views
        anchors, positives = self._draw_pairs(self.config.batch_size - viewed, rng)
        rows = rng.choice(self.rows, size=viewed, replace=viewed > len(self.rows)) if viewed else self.rows[:0]
        sides = [self._side(side, rows, rng) for side in (anchors, positives)]
        anchors, positives = np.concatenate([anchors, rows]), np.concatenate([positives, rows])
        known = self.pairs.known(anchors, positives) if self.pairs else np.zeros((2, 0), dtype=np.int64)
        labels = PairLabels(*map(torch.from_numpy, (anchors, positives, known)))
        return self._chunked(TokenRows.concatenate(sides), labels)

    def _draw_pairs(
        self, number: int, rng: np.random.Generator
    ) -> tuple[Int64[np.ndarray, "number"], Int64[np.ndarray, "number"]]:
        """Co-interactions by weight, with replacement, either side first by chance."""
        if self.pairs is None:
            return self.rows[:0], self.rows[:0]
        at = np.searchsorted(self._cumulative, rng.random(number) * self._cumulative[-1], side="right")
        at = np.minimum(at, len(self.pairs) - 1)
        swap = rng.random(number) < 0.5
        left, right = self.pairs.left[at], self.pairs.right[at]
        return np.where(swap, right, left), np.where(swap, left, right)

    def _side(
        self, items: Int64[np.ndarray, "items"], viewed: Int64[np.ndarray, "viewed"], rng: np.random.Generator
    ) -> TokenRows:
        """Tokens of whole texts, then of fresh views."""
        parts = [] if self._tokens is None else [self._tokens.take(items)]
        if self._views is not None:
            parts.append(self.encoder.tokenize(self._views.draw(viewed, rng)))
        return TokenRows.concatenate(parts)

    def _chunked(self, tokens: TokenRows, labels: PairLabels) -> PairBatch:
        chosen = token_batches(tokens.lengths, self._budget, len(tokens))
        padded = (tokens.padded(rows) for rows in chosen)
        places = np.empty(len(tokens), dtype=np.int64)
        places[np.concatenate(chosen)] = np.arange(len(tokens))
        chunks = tuple(TokenChunk(torch.from_numpy(ids), torch.from_numpy(mask)) for ids, mask in padded)
        return PairBatch(chunks, torch.from_numpy(places), labels)


def text_groups(catalog: Catalog) -> Int64[np.ndarray, "items_plus_one"]:
    """For each item row the first row with the same text; 0 for items without text, and for padding.

    >>> text_groups(Catalog(["a", "b", "c"], ["tea", "", "tea"])).tolist()
    [0, 1, 0, 1]
    """
    first = Duplicates(catalog.texts).sources(0, len(catalog)) + 1
    blank = np.fromiter((not text.strip() for text in catalog.texts), dtype=bool, count=len(catalog))
    return np.concatenate([[0], np.where(blank, 0, first)]).astype(np.int64)
