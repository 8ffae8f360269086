"""Click methods: everything that turns a click log into a trained model, as one value and one function."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import LinearTerm, NormalInit, TableInit, schema_vectors
from ctr_models.interactions.presets import dcn_v2
from ctr_models.losses import BCEConfig, ClickLossConfig, num_outputs
from ctr_models.model import CTRModel, CTRModelConfig, build_ctr_model, draw_weights
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema
from ctr_models.sequences.events import EventsConfig, EventTables
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.item_fields import ItemFieldsConfig, ItemTables, item_event_sources, with_item_fields
from llm_rec.ctr.pattern_phase import check_pretrained, finetuned, finetuned_groups, pattern_phase
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig, inherit
from llm_rec.ctr.penalties import PenaltyConfig
from llm_rec.ctr.task import ClickTask, click_groups
from llm_rec.data.columns import ClickLog
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import click_metrics
from llm_rec.training.groups import OptimizerKind, ParameterGroup
from llm_rec.training.phases import Phase, run_phases
from llm_rec.training.task import Task
from llm_rec.training.trainer import TrainerConfig, TrainResult


def _trainer() -> TrainerConfig:
    return TrainerConfig(
        epochs=100, learning_rate=1e-3, optimizer="adam", monitor="auc", patience=2, schedule="plateau"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClickMethodConfig:
    """A CTR model, its loss, and how it is trained; the outputs of the model are those the loss needs.

    `tables` "dense" trains tables as all other weights: with Adam every row moves in every step, and `embedding_l2`
    pulls every row. "rowwise_adagrad" and "lazy_adam" touch the rows of the batch alone, and `embedding_l2` with them:
    another algorithm, whose step does not get slower with the vocabulary. `embedding_l2` is the coefficient of the
    gradient (lambda of lambda / 2 |w|^2); other weights have the trainer's `weight_decay`, which is the same kind of
    term when its optimiser is "adam"; `decay_biases` False leaves biases out of it.

    `pattern_pretraining`: a phase before the click phase, for models with patterns (DPN).

    `init` is that of tables. `weight_init`: the standard deviation of all other weights that are no biases, scales of
    normalisations among them, in place of each layer's own start (the released DARE: 0.01 for both).
    `auxiliary_weight`: of the loss of a sequence model's auxiliary head. With a sequence, `item_fields` are parts of
    candidates and past events alike. The trainer's defaults are those of public CTR benchmarks: Adam, early stopping
    by validation AUC with patience 2, a tenth of the learning rate after each epoch without a gain.
    """

    model: CTRModelConfig = field(default_factory=dcn_v2)
    loss: ClickLossConfig = field(default_factory=BCEConfig)
    grouped_loss: bool = False
    penalty: PenaltyConfig | None = None
    item_fields: ItemFieldsConfig | None = None
    init: TableInit = field(default_factory=NormalInit)
    weight_init: float | None = None
    tables: OptimizerKind = "dense"
    embedding_l2: float = 0.0
    decay_biases: bool = True
    auxiliary_weight: float = 1.0
    pattern_pretraining: PatternPretrainingConfig | None = None
    batches: ClickBatchConfig = field(default_factory=ClickBatchConfig)
    trainer: TrainerConfig = field(default_factory=_trainer)

    def __post_init__(self) -> None:
        if self.embedding_l2 < 0:
            raise ConfigError(f"embedding_l2 must not be negative, got {self.embedding_l2}")
        if self.weight_init is not None and self.weight_init <= 0:
            raise ConfigError(f"weight_init must be above 0, got {self.weight_init}")
        if self.auxiliary_weight < 0:
            raise ConfigError(f"auxiliary_weight must not be negative, got {self.auxiliary_weight}")
        if self.pattern_pretraining is not None:
            check_pretrained(self.model)


@dataclass(frozen=True, eq=False)
class TrainedClicks:
    """A trained click model and how its training went."""

    model: CTRModel
    result: TrainResult


def build_click_model(method: ClickMethodConfig, schema: Schema, items: ItemTables | None = None) -> CTRModel:
    """The untrained model of `method` over rows of `schema`, from torch's global generator.

    `items` holds what `method.item_fields` reads; `ConfigError` when it is not there.
    """
    sparse, wanted, init = method.tables != "dense", method.item_fields, method.init
    if wanted is not None and items is None:
        raise ConfigError("item_fields needs the tables of a catalog; pass items, or leave item_fields out")

    def sources(given: Schema, dim: int, num_tables: int) -> FieldSource:
        own = schema_vectors(given, dim, num_tables, init=init, sparse=sparse)
        if wanted is None or items is None or method.model.sequence is not None:
            return own
        return with_item_fields(own, given, wanted, items, dim, num_tables, init=init)

    def linear(given: Schema, outputs: int) -> LinearTerm:
        return LinearTerm(given, outputs, init=init, sparse=sparse)

    def events(config: EventsConfig, given: Schema, dim: int, num_tables: int) -> EventTables:
        further = None
        if wanted is not None and items is not None:
            further = item_event_sources(given, wanted, items, num_tables, init=init)
        return EventTables(config, given, dim, num_tables, init=init, sparse=sparse, sources=further)

    try:
        config = replace(method.model, num_outputs=num_outputs(method.loss))
        model = build_ctr_model(config, schema, build_sources=sources, build_linear=linear, build_events=events)
    except ValueError as error:
        raise ConfigError(f"method.model: {error}") from error
    if method.weight_init is not None:
        draw_weights(model, method.weight_init)
    return model


def train_clicks(
    method: ClickMethodConfig,
    log: ClickLog,
    *,
    seed: int,
    folder: Path | None = None,
    items: ItemTables | None = None,
    inputs: Mapping[str, str] | None = None,
) -> TrainedClicks:
    """Train `method` on the train rows of `log`, early stopping on its validation rows where it has some.

    Every random choice comes from `seed`. With a folder a stopped run goes on there, and a finished one is loaded.
    `inputs` are fingerprints of what `items` was made from.
    """
    phases = [_phase(method, log, seed, items, inputs or {})]
    if method.pattern_pretraining is not None:
        phases.insert(0, _pretraining(method.pattern_pretraining, method, log, seed, items, inputs or {}))
    finished = run_phases(phases, folder)[-1]
    return TrainedClicks(_model(finished.task.module).eval(), finished.result)


def _phase(
    method: ClickMethodConfig, log: ClickLog, seed: int, items: ItemTables | None, inputs: Mapping[str, str]
) -> Phase[FeatureBatch]:
    def build(previous: Task[FeatureBatch] | None) -> Task[FeatureBatch]:
        model = build_click_model(method, log.schema, items)
        if method.pattern_pretraining is not None:
            inherit(model, previous)
        return ClickTask(
            model,
            method.loss,
            grouped=method.grouped_loss,
            penalty=method.penalty,
            auxiliary_weight=method.auxiliary_weight,
        )

    def validate(task: Task[FeatureBatch]) -> Mapping[str, float]:
        return validation_metrics(_model(task.module), method, log)

    def groups(module: nn.Module) -> Sequence[ParameterGroup]:
        return finetuned_groups(method.pattern_pretraining, _groups(method, module), module)

    batches = ClickBatches(log, "train", method.batches, seed, history_length=method.model.history_length)
    settings = to_plain(replace(method, trainer=TrainerConfig(epochs=1)), tagged=True)
    return Phase(
        name="train",
        build=build,
        source=lambda task: batches,
        trainer=replace(method.trainer, seed=seed),
        validate=validate if "validation" in log.rows else None,
        trainable=finetuned(method.pattern_pretraining),
        groups=groups,
        config=settings if isinstance(settings, dict) else {},
        inputs={"log": log.fingerprint, **inputs},
    )


def _pretraining(
    config: PatternPretrainingConfig,
    method: ClickMethodConfig,
    log: ClickLog,
    seed: int,
    items: ItemTables | None,
    inputs: Mapping[str, str],
) -> Phase[FeatureBatch]:
    def build() -> CTRModel:
        return build_click_model(method, log.schema, items)

    def groups(module: nn.Module) -> Sequence[ParameterGroup]:
        return _groups(method, module)

    plain = to_plain(replace(method, trainer=TrainerConfig(epochs=1), pattern_pretraining=None), tagged=True)
    marks = {"log": log.fingerprint, "method": fingerprint({"method": plain}), **inputs}
    return pattern_phase(config, build, groups, log, seed=seed, inputs=marks)


def _groups(method: ClickMethodConfig, module: nn.Module) -> Sequence[ParameterGroup]:
    return click_groups(
        _model(module),
        embedding_l2=method.embedding_l2,
        dense_l2=method.trainer.weight_decay,
        tables=method.tables,
        decay_biases=method.decay_biases,
    )


def validation_metrics(model: CTRModel, method: ClickMethodConfig, log: ClickLog) -> dict[str, float]:
    """AUC, log loss (negated: the higher, the better) and, where rows are grouped, GAUC of the validation rows."""
    columns = log.part("validation")
    found = click_metrics(click_logits(model, method.loss, columns), columns.labels[:, 0], groups=columns.groups)
    gauc = None if found.gauc is None else found.gauc.value
    metrics = {"auc": found.auc, "-log_loss": -found.log_loss, "gauc": gauc}
    return {name: value for name, value in metrics.items() if value is not None}


def _model(module: nn.Module) -> CTRModel:
    if not isinstance(module, CTRModel):
        raise TypeError(f"expected a click model, got {type(module).__name__}")
    return module
