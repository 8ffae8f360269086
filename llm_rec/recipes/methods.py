"""Methods: everything that turns material into a trained recommender, as one value and one function.

A method holds the model and how it is trained. The seed and the folder are arguments, so that a table can train one
method many times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

from llm_rec.codec import Plain, to_plain
from llm_rec.errors import ConfigError, LlmRecError
from llm_rec.generative.model import GenerativeModel
from llm_rec.metrics.ranking import Retriever, per_target, rank_split
from llm_rec.pad.model import PADConfig, PADModel, pad_negatives
from llm_rec.pad.phases import PADTraining, pad_phases
from llm_rec.recipes.generative import GenerativeMethodConfig, generative_phase, search_device
from llm_rec.recipes.material import Material
from llm_rec.sequential.batches import BatchConfig, SequenceBatch, SequenceBatches
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.negatives import NegativesConfig
from llm_rec.sequential.task import LossConfig, NextItemTask, SampledSoftmaxConfig, usual_negatives
from llm_rec.training.phases import Phase, run_phases
from llm_rec.training.task import Task
from llm_rec.training.trainer import BatchT, TrainerConfig, TrainResult


def _trainer() -> TrainerConfig:
    return TrainerConfig(epochs=100, learning_rate=1e-3, patience=10)


@dataclass(frozen=True, kw_only=True, slots=True)
class SequentialMethodConfig:
    """One next-item model trained in one phase. `negatives` None takes the usual ones of the loss."""

    model: SequentialConfig = field(default_factory=SequentialConfig)
    loss: LossConfig = field(default_factory=SampledSoftmaxConfig)
    negatives: NegativesConfig | None = None
    batches: BatchConfig = field(default_factory=BatchConfig)
    trainer: TrainerConfig = field(default_factory=_trainer)

    def __post_init__(self) -> None:
        _check_length(self.batches, self.model.max_length)


@dataclass(frozen=True, kw_only=True, slots=True)
class PADMethodConfig:
    """PAD in its three phases. `negatives` None takes `pad_negatives` of the model."""

    model: PADConfig = field(default_factory=PADConfig)
    negatives: NegativesConfig | None = None
    batches: BatchConfig = field(default_factory=BatchConfig)
    training: PADTraining = field(default_factory=lambda: PADTraining.same(_trainer()))

    def __post_init__(self) -> None:
        _check_length(self.batches, self.model.max_length)


MethodConfig = SequentialMethodConfig | PADMethodConfig | GenerativeMethodConfig
Model = SequentialModel | PADModel | GenerativeModel


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained recommender, and what each of its phases came to."""

    model: Model
    results: dict[str, TrainResult]


def train_method(
    method: MethodConfig,
    material: Material,
    *,
    seed: int,
    folder: Path | None = None,
    until: str | None = None,
    shared: Path | None = None,
) -> Trained:
    """Train `method` with every random choice taken from `seed`; with a folder it resumes what was stopped there.

    `until` stops after the phase of that name: PAD until "pretrain" is the SASRec it starts from. `shared` keeps
    phases for other runs, so that methods which begin alike train their first phases once.
    """
    match method:
        case SequentialMethodConfig():
            return _trained([_sequential_phase(method, material, seed)], folder, until, shared)
        case PADMethodConfig():
            return _trained(_pad_phases(method, material, seed), folder, until, shared)
        case GenerativeMethodConfig():
            trained = _trained([generative_phase(method, material, seed)], folder, until, shared)
            trained.model.to(search_device(method.trainer))
            return trained
        case _:
            assert_never(method)


def _trained(phases: Sequence[Phase[BatchT]], folder: Path | None, until: str | None, shared: Path | None) -> Trained:
    finished = run_phases([_readable(phase) for phase in phases], folder, until=until, shared=shared)
    module = finished[-1].task.module
    if not isinstance(module, SequentialModel | PADModel | GenerativeModel):
        raise TypeError(f"the last phase trained a {type(module).__name__}, not a recommender")
    return Trained(module.eval(), {phase.name: phase.result for phase in finished})


def _readable(phase: Phase[BatchT]) -> Phase[BatchT]:
    """The phase; what its settings make impossible to build is a `ConfigError`, as every wrong setting is."""

    def build(previous: Task[BatchT] | None) -> Task[BatchT]:
        try:
            return phase.build(previous)
        except LlmRecError:
            raise
        except ValueError as error:
            raise ConfigError(f"method.model: {error}") from error

    return replace(phase, build=build)


def validation_metrics(retriever: Retriever, material: Material) -> Mapping[str, float]:
    """Means over the validation targets, by full ranking: what early stopping watches."""
    ranks = rank_split(retriever, material.split, "validation")
    return {name: float(values.mean()) for name, values in per_target(ranks, (5, 10, 20)).items()}


def _sequential_phase(method: SequentialMethodConfig, material: Material, seed: int) -> Phase[SequenceBatch]:
    def build(previous: Task[SequenceBatch] | None) -> Task[SequenceBatch]:
        return NextItemTask(SequentialModel(method.model, material.sources()), method.loss)

    def validate(task: Task[SequenceBatch]) -> Mapping[str, float]:
        return validation_metrics(_retriever(task), material)

    negatives = method.negatives or usual_negatives(method.loss)
    batches = SequenceBatches(material.split, method.batches, negatives, seed)
    return Phase(
        name="train",
        build=build,
        source=lambda task: batches,
        trainer=replace(method.trainer, seed=seed),
        validate=validate if len(material.split.validation) else None,
        config={
            "model": to_plain(method.model),
            "loss": to_plain(method.loss, tagged=True),
            **_data(method.batches, negatives),
        },
        inputs=material.inputs,
    )


def _pad_phases(method: PADMethodConfig, material: Material, seed: int) -> list[Phase[SequenceBatch]]:
    training = PADTraining(
        pretrain=replace(method.training.pretrain, seed=seed),
        align=replace(method.training.align, seed=seed),
        disentangle=replace(method.training.disentangle, seed=seed),
    )
    negatives = method.negatives or pad_negatives(method.model)
    phases = pad_phases(
        method.model,
        material.sources(),
        SequenceBatches(material.split, method.batches, negatives, seed),
        training,
        validate=(lambda model: validation_metrics(model, material)) if len(material.split.validation) else None,
        inputs=material.inputs,
    )
    return [replace(phase, config={**phase.config, **_data(method.batches, negatives)}) for phase in phases]


def _data(batches: BatchConfig, negatives: NegativesConfig | None) -> dict[str, Plain]:
    return {"batches": to_plain(batches), "negatives": to_plain(negatives, tagged=True)}


def _retriever(task: Task[SequenceBatch]) -> SequentialModel:
    if not isinstance(task, NextItemTask):
        raise TypeError(f"expected a next-item task, got {type(task).__name__}")
    return task.model


def _check_length(batches: BatchConfig, max_length: int) -> None:
    if batches.max_length != max_length:
        raise ConfigError(
            f"batches.max_length is {batches.max_length} but model.max_length is {max_length}; set both to one value"
        )
