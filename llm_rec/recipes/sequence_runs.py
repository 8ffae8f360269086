"""What the analysis of sequences needs of a run: its model as a view, its rows, and a trial of its two roles."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice

import torch
from torch import Tensor, nn, optim

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import EmbeddingTable
from ctr_models.encoders import Vocabulary
from ctr_models.model import CTRModel
from ctr_models.sequences.encoder import reads_attention
from ctr_models.sequences.source import SequenceConfig
from llm_rec.analysis.attention_gradients import (
    GradientProbe,
    GradientReport,
    TiedTables,
    Watched,
    paired_parameters,
    probe_gradients,
)
from llm_rec.analysis.sequence_analysis import SequenceMaterial, SequenceView, category_field
from llm_rec.analysis.sequence_view import ModelView
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.task import ClickTask
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import DataError
from llm_rec.recipes.click_runs import ClickMaterial


@dataclass(frozen=True, eq=False)
class TiedTrial:
    """A fresh model whose two roles have tables of their own, to be trained as one with a single table for both.

    `pairs` (attention, representation) are all tables that such a model shares; `rows` are the category's in the first
    pair. `losses` of batch after batch are computed as they are asked for.
    """

    pairs: tuple[tuple[nn.Parameter, nn.Parameter], ...]
    rows: slice
    optimizer: optim.Optimizer
    losses: Iterator[Tensor]

    def report(self) -> GradientReport:
        """Train to the end of `losses`."""
        probe = GradientProbe(self.rows.stop - self.rows.start)
        return probe_gradients(TiedTables(self.pairs, Watched(probe, self.rows)), self.optimizer, self.losses)


@dataclass(frozen=True, eq=False)
class SequenceRun:
    """What the analysis needs of a run: the model seen, its rows, and a trial of so many steps where it has one."""

    view: SequenceView
    material: SequenceMaterial
    trial: Callable[[int], TiedTrial] | None = None


def sequence_run(
    model: CTRModel,
    method: ClickMethodConfig,
    material: ClickMaterial,
    category: str | None,
    *,
    batch_size: int,
    seed: int,
) -> SequenceRun:
    """The trained `model` of `method` with its log. `DataError` when it reads no sequence, or has no such category."""
    log, sequence = material.log, method.model.sequence
    if sequence is None:
        raise DataError("this run's model reads no behaviour sequence; choose a run of a model with one")
    batches = ClickBatchConfig(batch_size=batch_size, shuffle="none")
    field = category_field(log.schema, category)

    def rows(part: Part) -> Iterable[FeatureBatch]:
        return ClickBatches(log, part, batches, history_length=sequence.max_length).epoch(0)

    def trial(steps: int) -> TiedTrial:
        return tied_trial(method, sequence, material, field, steps=steps, seed=seed)

    return SequenceRun(
        view=ModelView(model, log.schema, field),
        material=SequenceMaterial(log.schema, rows, id_names(log, field)),
        trial=trial if reads_attention(sequence.encoder) else None,
    )


def tied_trial(
    method: ClickMethodConfig,
    sequence: SequenceConfig,
    material: ClickMaterial,
    category: str,
    *,
    steps: int,
    seed: int,
) -> TiedTrial:
    """The model of `method` afresh, its tables doubled for two roles of one width, and Adam at its learning rate."""
    doubled = replace(sequence, events=replace(sequence.events, decouple="dare", attention_dims=()))
    config = replace(method, model=replace(method.model, sequence=doubled), tables="dense")
    torch.manual_seed(seed)
    model = build_click_model(config, material.log.schema, material.items)
    task = ClickTask(model, method.loss, grouped=method.grouped_loss, auxiliary_weight=method.auxiliary_weight)
    source = ClickBatches(material.log, "train", method.batches, seed, history_length=sequence.max_length)
    if model.sequence is None or model.sequence.events.attention is None:
        raise DataError("this run's model has no tables of two roles; choose one with attention")
    roles = model.sequence.events.attention, model.sequence.events.representation

    def losses() -> Iterator[Tensor]:
        batches = (batch for epoch in count() for batch in source.epoch(epoch))
        for batch in islice(batches, steps):
            yield task.loss(batch).total

    optimizer = optim.Adam(model.parameters(), method.trainer.learning_rate)
    return TiedTrial(paired_parameters(*roles), _category_rows(roles[1], category), optimizer, losses())


def _category_rows(role: nn.Module, category: str) -> slice:
    """Rows of the field in the table of all fields, which comes first among a role's parameters."""
    for module in role.modules():
        if isinstance(module, EmbeddingTable) and category in module.rows:
            return module.rows[category]
    raise DataError(f"no table of past events has the field {category!r}; name one of the history's fields")


def id_names(log: ClickLog, name: str) -> tuple[str, ...]:
    """A name for each id of a field: the values of its vocabulary, numbers where it has none."""
    size = next((field.size for field in log.schema.id_fields if field.name == name), 0)
    for column in log.columns:
        if column.spec.name == name and isinstance(column.encoder, Vocabulary) and column.encoder.size == size:
            return ("padding", "unknown", *(str(value) for value in column.encoder.values))
    return tuple(str(number) for number in range(size))
