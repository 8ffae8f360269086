"""A trained click model with its schema and encoders as one artefact, and probabilities for raw rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from ctr_models.losses import ClickLossConfig
from ctr_models.model import CTRModel
from ctr_models.schema import Schema
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.item_fields import ItemTables
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data.columns import ClickColumns, ClickLog, FittedColumn
from llm_rec.errors import DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.serving.click_histories import RawHistories, with_histories
from llm_rec.serving.model_files import Form, load_model, save_model
from llm_rec.serving.raw_rows import RawRows, RowEncoder
from semantic_ids.code_table import CodeTable

KIND = "click-model"
FORM = Form(kind=KIND, words="click model", settings="click_model.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemSizes:
    """Shapes of the tables of `ItemFieldsConfig`; their contents are among the weights."""

    num_items: int
    codebook_sizes: tuple[int, ...] = ()
    embedding_dim: int | None = None

    @classmethod
    def of(cls, items: ItemTables) -> "ItemSizes":
        return cls(
            num_items=len(items.train_counts) - 1,
            codebook_sizes=() if items.codes is None else items.codes.codebook_sizes,
            embedding_dim=None if items.embeddings is None else items.embeddings.shape[1],
        )

    def blank(self) -> ItemTables:
        """Tables of these shapes, for building the modules that weights are then loaded into."""
        books, rows = len(self.codebook_sizes), self.num_items
        codes = CodeTable.from_codes(np.zeros((rows, books), dtype=np.int64), self.codebook_sizes) if books else None
        width = self.embedding_dim
        embeddings = None if width is None else np.zeros((rows + 1, width), dtype=np.float32)
        return ItemTables(np.zeros(rows + 1, dtype=np.int64), codes, embeddings)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedClickModel:
    """What ``click_model.json`` holds: how the modules are built."""

    method: ClickMethodConfig
    items: ItemSizes | None = None


class ClickScorer:
    """Click probabilities of raw rows, by the encoders that training fitted. `columns` are those it reads, in order."""

    def __init__(
        self,
        model: CTRModel,
        saved: SavedClickModel,
        schema: Schema,
        fitted: Sequence[FittedColumn],
        *,
        batch_size: int = 16384,
    ) -> None:
        self.model, self.saved, self.schema, self.fitted = model.eval(), saved, schema, tuple(fitted)
        self.encoder, self.batch_size = RowEncoder(schema, fitted), batch_size

    @property
    def history_length(self) -> int:
        """How many past events of `histories` the model looks at: 0 for a model that looks at none."""
        return self.model.config.history_length

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that a row needs, each once."""
        return self.encoder.columns

    @property
    def loss(self) -> ClickLossConfig:
        """The loss of training: it says how many outputs the model has and which logit is the click's."""
        return self.saved.method.loss

    def score(self, rows: RawRows, histories: RawHistories | None = None) -> Float64[np.ndarray, "rows"]:
        """One probability a row, in order. Unseen values are no error: they are what "unknown" was trained on.

        `rows` holds raw columns by name (arrays, lists, or a DataFrame), as they were in the files of training; other
        columns are ignored. Raises `DataError` for a missing column, columns of different lengths, a value that an
        encoder cannot read (a text where a number belongs), and histories that are missing, or do not fit the rows.
        """
        return sigmoid(self.logits(rows, histories))

    def logits(self, rows: RawRows, histories: RawHistories | None = None) -> Float64[np.ndarray, "rows"]:
        """Log odds of a click: `score` before the sigmoid."""
        return click_logits(self.model, self.loss, self.encode(rows, histories), batch_size=self.batch_size)

    def encode(self, rows: RawRows, histories: RawHistories | None = None) -> ClickColumns:
        """Rows in the layout of the schema, with labels of 0; what an exported model takes."""
        if self.history_length and histories is None:
            raise DataError("this model looks at histories; give those of the rows, empty lists for users without any")
        columns = self.encoder.encode(rows)
        return columns if histories is None else with_histories(columns, histories, self.schema, self.fitted)


def save_click_model(
    folder: Path | str,
    model: CTRModel,
    method: ClickMethodConfig,
    log: ClickLog,
    items: ItemTables | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a trained model with the encoders of its log as the artefact `folder`, whole or not at all."""
    saved = SavedClickModel(method=method, items=None if items is None else ItemSizes.of(items))
    save_model(folder, FORM, saved, model, log, overwrite=overwrite)


def load_click_model(folder: Path | str, *, device: torch.device | str = "cpu") -> ClickScorer:
    """The model saved in `folder`; `ArtifactError` when it is damaged or something else."""
    saved, schema, fitted, model = load_model(folder, FORM, SavedClickModel, _build)
    return ClickScorer(model.to(device), saved, schema, fitted)


def _build(saved: SavedClickModel, schema: Schema) -> CTRModel:
    return build_click_model(saved.method, schema, None if saved.items is None else saved.items.blank())
