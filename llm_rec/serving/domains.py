"""A trained model of domains or tasks as one artefact, and probabilities for raw rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from ctr_models.domains.model import DomainModel
from ctr_models.schema import UNKNOWN, Schema
from llm_rec.ctr.domain_method import DomainMethodConfig, build_domain_click_model
from llm_rec.ctr.domain_training import RoutedDomains
from llm_rec.ctr.evaluation import in_batches
from llm_rec.data.columns import ClickColumns, ClickLog, FittedColumn
from llm_rec.errors import DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.serving.model_files import Form, load_model, save_model
from llm_rec.serving.raw_rows import RawRows, RowEncoder

FORM = Form(kind="domain-model", words="model of domains", settings="domain_model.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedDomainModel:
    """What ``domain_model.json`` holds: how the modules are built; `routed` is one whole model for each domain."""

    method: DomainMethodConfig
    routed: bool = False


class DomainScorer:
    """Probabilities of raw rows, by the encoders that training fitted. `outputs` names the columns of its results:
    one label by domain, all labels by task.
    """

    def __init__(
        self,
        model: DomainModel | RoutedDomains,
        saved: SavedDomainModel,
        schema: Schema,
        fitted: Sequence[FittedColumn],
        *,
        batch_size: int = 16384,
    ) -> None:
        self.model, self.saved, self.schema = model.eval(), saved, schema
        self.encoder, self.batch_size = RowEncoder(schema, fitted), batch_size

    @property
    def columns(self) -> tuple[str, ...]:
        """Raw columns that a row needs, each once; that of the domain is among them by domain."""
        return self.encoder.columns

    @property
    def outputs(self) -> tuple[str, ...]:
        labels = self.schema.labels
        return labels if self.saved.method.model.by == "task" else labels[:1]

    def score(self, rows: RawRows) -> Float64[np.ndarray, "rows outputs"]:
        """One row of probabilities a row, in order. `DataError` as `RowEncoder.encode` says, and for a row of a domain
        that training did not know: no head is its own.
        """
        return sigmoid(self.logits(rows))

    def logits(self, rows: RawRows) -> Float64[np.ndarray, "rows outputs"]:
        """Log odds: `score` before the sigmoid."""
        columns = self.encoder.encode(rows)
        self._check_domains(columns, rows)
        model: nn.Module = self.model
        found = in_batches(model, model, columns, batch_size=self.batch_size)
        return np.zeros((0, len(self.outputs))) if found is None else found.double().cpu().numpy()

    def _check_domains(self, columns: ClickColumns, rows: RawRows) -> None:
        domain = self.schema.domain
        if domain is None or self.saved.method.model.by == "task":
            return
        ids = columns.ids[:, self.schema.id_columns[domain].start]
        bad = np.flatnonzero(ids <= UNKNOWN)
        if len(bad):
            source = next(column.spec.source for column in self.encoder.fitted if column.spec.name == domain)
            value = list(rows[source])[int(bad[0])]
            raise DataError(f"row {bad[0]}: {value!r} in column {source!r} is no domain that training knew")


def save_domain_model(
    folder: Path | str,
    model: DomainModel | RoutedDomains,
    method: DomainMethodConfig,
    log: ClickLog,
    *,
    overwrite: bool = False,
) -> None:
    """Write a trained model with the encoders of its log as the artefact `folder`, whole or not at all."""
    saved = SavedDomainModel(method=method, routed=isinstance(model, RoutedDomains))
    save_model(folder, FORM, saved, model, log, overwrite=overwrite)


def load_domain_model(folder: Path | str, *, device: torch.device | str = "cpu") -> DomainScorer:
    """The model saved in `folder`; `ArtifactError` when it is damaged or something else."""
    saved, schema, fitted, model = load_model(folder, FORM, SavedDomainModel, _build)
    return DomainScorer(model.to(device), saved, schema, fitted)


def _build(saved: SavedDomainModel, schema: Schema) -> DomainModel | RoutedDomains:
    models = [build_domain_click_model(saved.method, schema) for _ in range(schema.num_domains if saved.routed else 1)]
    return RoutedDomains(models) if saved.routed else models[0]
