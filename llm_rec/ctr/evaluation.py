"""Scores of a click model on the rows of a log, and their figures by how often training saw the item."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from ctr_models import losses
from ctr_models.batch import FeatureBatch
from ctr_models.losses import ClickLossConfig
from ctr_models.model import CTRModel
from ctr_models.schema import UNKNOWN
from llm_rec.ctr.batches import to_batch
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import ClickMetrics, metrics_by_slice
from llm_rec.metrics.slices import target_slices
from llm_rec.progress import track


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickEvaluationConfig:
    """`slice_field`: the field (an item) whose ids' train rows define the slices; without it there is one slice, "all".
    `slice_label`: count only train rows with this label, so that sampled negatives make no item warm.

    ECE is over `num_buckets` buckets of equally many rows. Groups of rows (users) weigh by their rows.
    """

    slice_field: str | None = None
    slice_label: str | None = None
    num_buckets: int = 45
    batch_size: int = 16384

    def __post_init__(self) -> None:
        if min(self.num_buckets, self.batch_size) < 1:
            raise ConfigError("num_buckets and batch_size must be at least 1")


@dataclass(frozen=True, eq=False)
class ClickEvaluation:
    """Logits of all rows of a part, and their figures by slice."""

    logits: Float64[np.ndarray, "rows"]
    metrics: dict[str, ClickMetrics]


def click_logits(
    model: CTRModel, loss: ClickLossConfig, columns: ClickColumns, *, batch_size: int = 16384
) -> Float64[np.ndarray, "rows"]:
    """One logit a row (the log odds of a click), in the rows' order; the model's mode is as it was afterwards."""

    def score(batch: FeatureBatch) -> Tensor:
        return losses.click_logits(loss, model(batch))

    found = in_batches(model, score, columns, history_length=model.config.history_length, batch_size=batch_size)
    return np.zeros(0) if found is None else found.double().cpu().numpy()


@torch.no_grad()
def in_batches(
    model: nn.Module,
    score: Callable[[FeatureBatch], Tensor],
    columns: ClickColumns,
    *,
    history_length: int = 0,
    batch_size: int = 16384,
) -> Tensor | None:
    """What `score` gives for all rows, in their order, with `model` in evaluation mode and on its device; its mode is
    as it was afterwards. None without rows.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    parts = []
    for start in track(range(0, len(columns), batch_size), "score rows"):
        rows = columns.select(slice(start, start + batch_size))
        parts.append(score(to_batch(rows, history_length).to(device)))
    model.train(training)
    return torch.cat(parts) if parts else None


def evaluate_clicks(
    model: CTRModel, loss: ClickLossConfig, log: ClickLog, part: Part, config: ClickEvaluationConfig
) -> ClickEvaluation:
    """Figures of every slice of `part` that has rows."""
    columns = log.part(part)
    logits = click_logits(model, loss, columns, batch_size=config.batch_size)
    slices = row_slices(log, columns, config.slice_field, label=config.slice_label)
    metrics = metrics_by_slice(
        logits, columns.labels[:, 0], slices, groups=columns.groups, num_buckets=config.num_buckets
    )
    return ClickEvaluation(logits, metrics)


def row_slices(
    log: ClickLog, columns: ClickColumns, field: str | None, *, label: str | None = None
) -> dict[str, Bool[np.ndarray, "rows"]]:
    """`frequency_slices` of `field`; without a field one slice, "all"."""
    if field is None:
        return {"all": np.ones(len(columns), dtype=bool)}
    return frequency_slices(log, columns, field, label=label)


def frequency_slices(
    log: ClickLog, columns: ClickColumns, field: str, *, label: str | None = None
) -> dict[str, Bool[np.ndarray, "rows"]]:
    """Rows by how many train rows hold their id of `field`; ids that training did not know count as unseen.

    With `label` only train rows that have it count: where negatives are sampled, cold items are in rows too.
    """
    counts = log.train_counts(field, label=label)
    place = log.schema.id_columns[field]
    if place.stop - place.start != 1:
        raise ConfigError(f"slice_field {field!r} has several ids a row; name a field with one")
    ids = columns.ids[:, place.start].astype(np.int64)
    counts[UNKNOWN] = 0
    return target_slices(ids, counts)
