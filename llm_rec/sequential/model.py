"""A sequential recommender: item vectors and a backbone, scored by one inner product."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from ctr_models.dropout import Dropout
from llm_rec.sequential.backbones import BackboneConfig, build_backbone
from llm_rec.sequential.items import IdItemsConfig, ItemsConfig, ItemSources, build_items, distinct_rows
from llm_rec.sequential.protocols import Backbone, ItemVectors
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.saving import read_settings, reading_weights, write_model

KIND = "sequential_model"


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialConfig:
    """Which item vectors meet which backbone, at what width, over the last `max_length` events.

    `score`: "dot" is the inner product of state and item vector; "cosine" normalises both (give the loss a temperature
    then). `item_dropout` acts on the item vectors in training, before any other: each step draws one mask for an item
    and uses it wherever the item occurs, in histories, as target and as negative (dropout on the table itself, as
    RecTools has it).
    """

    items: ItemsConfig = field(default_factory=IdItemsConfig)
    backbone: BackboneConfig = field(default_factory=SASRecConfig)
    dim: int = 64
    max_length: int = 50
    score: Literal["dot", "cosine"] = "dot"
    item_dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.item_dropout < 1:
            raise ValueError(f"item_dropout must lie in 0..1 (1 excluded), got {self.item_dropout}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceSizes:
    """Sizes of the item sources a saved model was built on: enough to build it again before its weights are read."""

    num_items: int
    width: int | None
    codebook_sizes: tuple[int, ...] | None

    @classmethod
    def of(cls, sources: ItemSources) -> "SourceSizes":
        width = None if sources.embeddings is None else sources.embeddings.shape[1]
        return cls(num_items=sources.num_items, width=width, codebook_sizes=sources.codebook_sizes)

    def blank(self) -> ItemSources:
        """Sources of these sizes, all zeros."""
        rows, books = self.num_items + 1, self.codebook_sizes
        return ItemSources(
            num_items=self.num_items,
            embeddings=None if self.width is None else torch.zeros(rows, self.width),
            codes=None if books is None else torch.zeros(rows, len(books), dtype=torch.int64),
            codebook_sizes=books,
            train_counts=torch.zeros(rows, dtype=torch.int64),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedModel:
    """What `config.json` of a saved model holds."""

    model: SequentialConfig
    sources: SourceSizes


class SequentialModel(nn.Module):
    """Histories -> states; states and item vectors -> scores by inner product. A `Retriever`."""

    def __init__(self, config: SequentialConfig, sources: ItemSources) -> None:
        super().__init__()
        self.config = config
        self.sizes = SourceSizes.of(sources)
        self.items: ItemVectors = build_items(config.items, sources, config.dim)
        self.backbone: Backbone = build_backbone(config.backbone, config.dim, config.max_length)
        self.item_dropout = Dropout(config.item_dropout)

    @property
    def max_length(self) -> int:
        return self.config.max_length

    @property
    def num_items(self) -> int:
        return self.sizes.num_items

    def forward(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch length dim"]:
        """States of all positions: what the inner product with `comparable` item vectors scores."""
        return self.states(self.items(history), history != 0)

    def step_vectors(self, rows: Int64[Tensor, "rows"]) -> Float[Tensor, "rows dim"]:
        """Vectors of all rows a training step looks up, under its `item_dropout`: equal rows get equal masks.

        On the CPU only the rows that occur draw a mask; elsewhere finding them would wait for the device, so the whole
        table does.
        """
        vectors: Tensor = self.items(rows)
        if not self.training or self.config.item_dropout == 0:
            return vectors
        number, place = self.num_items + 1, rows
        if rows.device.type == "cpu":
            distinct, place = distinct_rows(rows, number)
            number = len(distinct)
        mask = self.item_dropout(vectors.new_ones(number, vectors.shape[-1]))
        return vectors * F.embedding(place, mask)

    def states(
        self, vectors: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]:
        """States of histories whose item vectors are already there."""
        return self.comparable(self.backbone(vectors, mask))

    def comparable(self, vectors: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        """Vectors as the score compares them: as they are, or of unit length."""
        return vectors if self.config.score == "dot" else F.normalize(vectors, dim=-1)

    @torch.no_grad()
    def user_vectors(self, history: Int64[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """State at the last event of each right-padded row, without dropout; zeros for an empty row."""
        training = self.training
        self.eval()
        try:
            states = self(history)
        finally:
            self.train(training)
        lengths = (history != 0).sum(dim=1)
        last = (lengths - 1).clamp(min=0)[:, None, None].expand(-1, 1, states.shape[-1])
        vectors: Tensor = states.gather(1, last).squeeze(1) * (lengths > 0)[:, None]
        return vectors

    @torch.no_grad()
    def item_vectors(self) -> Float[Tensor, "items_plus_one width"]:
        """Vectors of all rows, as ranked."""
        return self.comparable(self.items.all()).detach()

    def save_pretrained(self, folder: Path | str, *, catalog: str | None = None, overwrite: bool = False) -> None:
        """Write config and weights (frozen embeddings among them) as one artefact; `catalog` is its fingerprint."""
        saved = SavedModel(model=self.config, sources=self.sizes)
        write_model(folder, KIND, saved, self, catalog, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> "SequentialModel":
        """The model saved in `folder`, in evaluation mode; `ArtifactError` when it is damaged or something else."""
        saved = read_settings(SavedModel, folder, KIND)
        model = cls(saved.model, saved.sources.blank())
        with reading_weights(folder) as weights:
            model.load_state_dict(load_file(weights))
        return model.to(device).eval()
