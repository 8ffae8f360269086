"""A trained click model with its schema and encoders as one artefact, and probabilities for raw rows.

```
<folder>/manifest.json  click_model.json  schema.json  encoders.json  model.safetensors
```

Nothing of the training data is needed to load or to score; nothing that is loaded is executed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float64
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctr_models.encoders import DenseVector
from ctr_models.losses import ClickLossConfig
from ctr_models.model import CTRModel
from ctr_models.schema import Schema
from ctr_models.values import RawColumn, list_column, raw_column
from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.item_fields import ItemTables
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.data.columns import ClickColumns, ClickLog, FittedColumn, read_encoders, write_encoders
from llm_rec.data.log_encoding import lay_out
from llm_rec.errors import ArtifactError, ConfigError, DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.serving.click_histories import RawHistories, with_histories
from semantic_ids.code_table import CodeTable

if TYPE_CHECKING:
    import pandas as pd

KIND = "click-model"
_MODEL, _SCHEMA, _ENCODERS, _WEIGHTS = "click_model.json", "schema.json", "encoders.json", "model.safetensors"
RawRows: TypeAlias = "Mapping[str, Sequence[object] | np.ndarray] | pd.DataFrame"


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
        self.batch_size = batch_size

    @property
    def history_length(self) -> int:
        """How many past events of `histories` the model looks at: 0 for a model that looks at none."""
        return self.model.config.history_length

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that a row needs, each once."""
        return tuple(dict.fromkeys(column.spec.source for column in self.fitted))

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
        raws = {name: self._raw(rows, name) for name in self.columns}
        sizes = {name: len(raw) for name, raw in raws.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"columns have different numbers of rows: {sizes}; give every row every column")
        encoded = []
        for column in self.fitted:
            try:
                encoded.append(column.encoder.transform(raws[column.spec.source]))
            except ValueError as error:
                raise DataError(f"column {column.spec.source!r}: {error}") from error
        labels = np.zeros((next(iter(sizes.values())), len(self.schema.labels)), dtype=np.float32)
        groups = None if self.schema.group is None else np.zeros(len(labels), dtype=np.int64)
        columns = lay_out(self.fitted, encoded, labels, groups)
        return columns if histories is None else with_histories(columns, histories, self.schema, self.fitted)

    @property
    def _dense(self) -> set[str]:
        return {column.spec.source for column in self.fitted if isinstance(column.encoder, DenseVector)}

    def _raw(self, rows: RawRows, name: str) -> RawColumn:
        if name not in rows:
            raise DataError(f"the rows have no column {name!r}; a model of this log needs {', '.join(self.columns)}")
        values = rows[name]
        array = values.to_numpy(dtype=object) if not isinstance(values, np.ndarray | Sequence) else values
        lists = isinstance(array[0], list | tuple | np.ndarray) if len(array) else name in self._dense
        if lists:
            return list_column(cast(Sequence[Sequence[object]], list(array)))
        return raw_column(array if isinstance(array, np.ndarray) else np.array(array, dtype=object))


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
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = (part for name, value in sorted(state.items()) for part in (name, value.numpy().tobytes()))
    digest = fingerprint(KIND, {"saved": to_plain(saved), "log": log.fingerprint}, *weights)
    inputs = {"log": log.fingerprint}
    with write_artifact(Path(folder), kind=KIND, fingerprint=digest, inputs=inputs, overwrite=overwrite) as partial:
        write_json(partial / _MODEL, saved)
        write_json(partial / _SCHEMA, log.schema)
        write_encoders(partial / _ENCODERS, log.columns)
        save_file(state, partial / _WEIGHTS)


def load_click_model(folder: Path | str, *, device: torch.device | str = "cpu") -> ClickScorer:
    """The model saved in `folder`; `ArtifactError` when it is damaged or something else."""
    folder = Path(folder)
    read_manifest(folder, KIND)
    try:
        saved = from_plain(SavedClickModel, read_json(folder / _MODEL))
        schema = from_plain(Schema, read_json(folder / _SCHEMA))
        model = build_click_model(saved.method, schema, None if saved.items is None else saved.items.blank())
    except (OSError, ConfigError) as error:
        raise ArtifactError(f"{folder}: not a saved click model ({error}); train it again") from error
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder / _WEIGHTS}: not the weights of this model ({error}); train it again") from error
    return ClickScorer(model.to(device).eval(), saved, schema, read_encoders(folder / _ENCODERS))
