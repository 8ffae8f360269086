"""Methods of several domains or tasks: what is trained and how, as one value (`domain_training` trains it)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from ctr_models.domains.model import DomainModel, DomainModelConfig, build_domain_model
from ctr_models.domains.presets import shared_bottom
from ctr_models.embeddings import NormalInit, TableInit, schema_vectors
from ctr_models.model import ParameterSplit
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.d_train import DTrainConfig
from llm_rec.ctr.domain_evaluation import score_units, validation_figures
from llm_rec.ctr.domain_task import Weighting
from llm_rec.ctr.task import parameter_groups
from llm_rec.data.columns import ClickLog
from llm_rec.errors import ConfigError
from llm_rec.training.groups import OptimizerKind, ParameterGroup
from llm_rec.training.trainer import TrainerConfig


def _trainer() -> TrainerConfig:
    return TrainerConfig(epochs=100, learning_rate=1e-3, optimizer="adam", monitor="macro_auc", patience=3)


@dataclass(frozen=True, kw_only=True, slots=True)
class DomainMethodConfig:
    """A model of domains or tasks, its loss, and how it is trained.

    `weighting` (by domain): see `llm_rec.ctr.domain_task.row_loss`; `task_weights` (by task): of the labels in order,
    1 each by default. Tables, their initialisation and decay are those of `ClickMethodConfig`. `d_train`: phases, in
    place of one joint training. The trainer's defaults: Adam at 1e-3, early stopping by the mean AUC over domains or
    tasks with patience 3.
    """

    model: DomainModelConfig = field(default_factory=shared_bottom)
    weighting: Weighting = "sample"
    task_weights: tuple[float, ...] = ()
    init: TableInit = field(default_factory=NormalInit)
    tables: OptimizerKind = "dense"
    embedding_l2: float = 0.0
    decay_biases: bool = True
    d_train: DTrainConfig | None = None
    batches: ClickBatchConfig = field(default_factory=ClickBatchConfig)
    trainer: TrainerConfig = field(default_factory=_trainer)

    def __post_init__(self) -> None:
        if self.embedding_l2 < 0:
            raise ConfigError(f"embedding_l2 must not be negative, got {self.embedding_l2}")
        if self.model.heads == "root" and self.d_train is not None:
            raise ConfigError("d_train makes a root head and splits it; set model.heads to 'own'")
        if self.model.by == "task" and (self.d_train is not None or self.weighting != "sample"):
            raise ConfigError("d_train and weighting are for domains; leave them out for tasks")
        if self.model.by == "domain" and self.task_weights:
            raise ConfigError("task_weights are for tasks; set model.by to 'task', or leave them out")


def build_domain_click_model(method: DomainMethodConfig, schema: Schema, *, root: bool = False) -> DomainModel:
    """The untrained model of `method` over rows of `schema`, from torch's global generator; with `root` one head.

    `ConfigError` for a model by domain of a log without domains, and for task weights that are not one a label.
    """
    sparse, init = method.tables != "dense", method.init

    def sources(given: Schema, dim: int, num_tables: int) -> FieldSource:
        return schema_vectors(given, dim, num_tables, init=init, sparse=sparse)

    wanted, labels = len(method.task_weights), len(schema.labels)
    if wanted and wanted != labels:
        raise ConfigError(f"task_weights has {wanted} numbers, but the log has {labels} labels; give each label one")
    if method.model.by == "domain" and schema.domain is None:
        raise ConfigError("the log has no domain; encode it with one, or set method.model.by to 'task'")
    config = replace(method.model, heads="root") if root else method.model
    try:
        return build_domain_model(config, schema, build_sources=sources)
    except ValueError as error:
        raise ConfigError(f"method.model: {error}") from error


def domain_groups(method: DomainMethodConfig, module: nn.Module) -> Sequence[ParameterGroup]:
    """Tables of field vectors, those of gates among them, and all other weights (`llm_rec.ctr.task`)."""
    model = domain_model(module)
    tables = model.table_parameters()
    taken = {id(parameter) for parameter in tables}
    dense = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    return parameter_groups(
        model,
        ParameterSplit(tables, dense, []),
        embedding_l2=method.embedding_l2,
        dense_l2=method.trainer.weight_decay,
        tables=method.tables,
        decay_biases=method.decay_biases,
    )


def domain_validation(model: nn.Module, method: DomainMethodConfig, log: ClickLog) -> Mapping[str, float]:
    """`validation_figures` of the validation rows."""
    unit = method.model.by
    return validation_figures(score_units(model, log, log.part("validation"), unit).metrics(), unit)


def domain_model(module: nn.Module) -> DomainModel:
    """The module as what it is; `TypeError` for another."""
    if not isinstance(module, DomainModel):
        raise TypeError(f"expected a model of domains, got {type(module).__name__}")
    return module
