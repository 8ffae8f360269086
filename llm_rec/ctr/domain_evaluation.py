"""Scores of a model of domains or tasks on the rows of a log, and their figures by domain or task.

The scores of several tasks are laid flat, a row once for each task, so that whatever compares scored rows compares them
too; a task is then a slice, as a domain is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from torch import nn

from ctr_models.encoders import Vocabulary
from ctr_models.schema import RESERVED, Schema
from llm_rec.ctr.evaluation import in_batches
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.errors import ConfigError
from llm_rec.metrics.domains import POOLED, DomainMetrics, Unit, domain_metrics, domain_slices


@dataclass(frozen=True, eq=False)
class UnitRows:
    """Scored rows with the number (from 0) of the domain or task each belongs to, and the names of those."""

    logits: Float64[np.ndarray, "rows"]
    labels: Float32[np.ndarray, "rows"]
    units: Int64[np.ndarray, "rows"]
    names: tuple[str, ...]
    groups: Int64[np.ndarray, "rows"] | None

    def slices(self, unit: Unit) -> dict[str, Bool[np.ndarray, "rows"]]:
        """A mask for each domain or task with rows; by domain, one of all rows before them."""
        whole = {POOLED: np.ones(len(self.labels), dtype=bool)} if unit == "domain" else {}
        found = domain_slices(self.units, self.names, unit)
        return {**whole, **{name: mask for name, mask in found.items() if mask.any()}}

    def metrics(self, *, num_buckets: int = 45) -> DomainMetrics:
        """See `llm_rec.metrics.domains`."""
        return domain_metrics(
            self.logits, self.labels, self.units, self.names, groups=self.groups, num_buckets=num_buckets
        )


def score_units(
    model: nn.Module, log: ClickLog, columns: ClickColumns, by: Unit, *, label: int = 0, batch_size: int = 16384
) -> UnitRows:
    """Scores of all rows: by domain those of one `label`, by task those of every label."""
    found = in_batches(model, model, columns, batch_size=batch_size)
    outputs = np.zeros((0, 1)) if found is None else found.double().cpu().numpy()
    return unit_rows(outputs, log, columns, by, label=label)


def unit_rows(
    outputs: Float64[np.ndarray, "rows outputs"], log: ClickLog, columns: ClickColumns, by: Unit, *, label: int = 0
) -> UnitRows:
    """Model outputs beside what is known of their rows."""
    groups = None if columns.groups is None else np.asarray(columns.groups)
    if by == "domain":
        labels = np.asarray(columns.labels[:, label])
        return UnitRows(outputs[:, 0], labels, domain_numbers(log.schema, columns), domain_names(log), groups)
    tasks = log.schema.labels
    units = np.tile(np.arange(len(tasks)), len(columns))
    labels = np.asarray(columns.labels).reshape(-1)
    return UnitRows(outputs.reshape(-1), labels, units, tasks, None if groups is None else groups.repeat(len(tasks)))


def domain_numbers(schema: Schema, columns: ClickColumns) -> Int64[np.ndarray, "rows"]:
    """The domain of every row, from 0: the order of the vocabulary, by train rows."""
    if schema.domain is None:
        return np.zeros(len(columns), dtype=np.int64)
    return columns.ids[:, schema.id_columns[schema.domain].start].astype(np.int64) - RESERVED


def domain_names(log: ClickLog) -> tuple[str, ...]:
    """The values of the domain field by their numbers; ("all",) in a log without domains."""
    if log.schema.domain is None:
        return ("all",)
    encoder = next(column.encoder for column in log.columns if column.spec.name == log.schema.domain)
    if not isinstance(encoder, Vocabulary):
        raise ConfigError(f"{log.path}: the domain {log.schema.domain!r} has no vocabulary; encode the log again")
    return tuple(value or "" for value in encoder.values)


def validation_figures(found: DomainMetrics, unit: Unit) -> dict[str, float]:
    """What training monitors, the higher the better: AUC and GAUC as mean over domains (or tasks), mean by rows and
    worst, log loss negated, pooled AUC, and the AUC of each.
    """
    means = {"macro": found.macro, "weighted": found.weighted, "worst": found.worst}
    figures = {f"{kind}_{name}": values[name] for kind, values in means.items() for name in _RANKED if name in values}
    figures |= {f"-{kind}_log_loss": -values["log_loss"] for kind, values in means.items() if "log_loss" in values}
    if found.pooled.auc is not None and unit == "domain":
        figures["pooled_auc"] = found.pooled.auc
    by_unit = {f"auc/{name}": metrics.auc for name, metrics in found.by_domain.items()}
    return {**figures, **{name: value for name, value in by_unit.items() if value is not None}}


_RANKED: Sequence[str] = ("auc", "gauc")
