"""PAD's three phases as phases of the one training engine: pretrain, align, disentangle (arXiv 2412.04107).

Each runs alone (`run_phases(..., only="align")`), resumes, and ends in its own folder. The ablations are configs:
without pre-training the first phase is left out, without the aligned expert the second. A phase knows only the settings
it depends on, so ablations share what came before: copy ``01-pretrain`` (and ``02-align``, where the alignment is the
same) into the folder of another run, and it goes on from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from llm_rec.codec import Plain, to_plain
from llm_rec.frequency_gate import UniformGateConfig
from llm_rec.pad.config import PADConfig
from llm_rec.pad.model import ExpertRetriever, PADModel
from llm_rec.pad.task import AlignTask, DisentangleTask, pad_groups
from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialModel
from llm_rec.sequential.task import NextItemTask
from llm_rec.training.phases import Phase
from llm_rec.training.task import BatchSource, Task
from llm_rec.training.trainer import TrainerConfig

PADRetriever = SequentialModel | ExpertRetriever | PADModel  # what is validated in phases 1, 2 and 3
ValidatePAD = Callable[[PADRetriever], Mapping[str, float]]

# `mask_unseen_ids` decides which items are negatives (`pad_negatives`), so it matters before any id is masked.
PRETRAIN_SETTINGS = ("dim", "max_length", "id_items", "backbone", "loss", "mask_unseen_ids")
ALIGN_SETTINGS = (
    *PRETRAIN_SETTINGS,
    *("pretrain", "projector", "alignment", "alignment_rows", "max_alignment_rows", "anchor", "id_dropout"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PADTraining:
    """How each phase is trained. The phases may differ in all but the data."""

    pretrain: TrainerConfig
    align: TrainerConfig
    disentangle: TrainerConfig

    @classmethod
    def same(cls, trainer: TrainerConfig) -> "PADTraining":
        """One setting for all three phases."""
        return cls(pretrain=trainer, align=trainer, disentangle=trainer)


def faithful_training(*, epochs: int = 400, patience: int = 20, seed: int = 12345) -> PADTraining:
    """The released settings on Prime Pantry: AdamW, weight decay .1, learning rates 1e-5, 1e-5, 1e-4, hit rate watched.

    Batches there are 16 users on each of 8 GPUs; mixed precision (fp16) is left to the caller.
    """

    def phase(learning_rate: float) -> TrainerConfig:
        return TrainerConfig(
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=0.1,
            patience=patience,
            monitor="hit@10",
            seed=seed,
        )

    return PADTraining(pretrain=phase(1e-5), align=phase(1e-5), disentangle=phase(1e-4))


def pad_phases(
    config: PADConfig,
    sources: ItemSources,
    batches: BatchSource[SequenceBatch],
    training: PADTraining,
    *,
    validate: ValidatePAD | None = None,
    inputs: Mapping[str, str] | None = None,
) -> list[Phase[SequenceBatch]]:
    """The phases of one PAD run, for `llm_rec.training.phases.run_phases`; the last task's module is a `PADModel`.

    `batches` must hold the negatives that `config.loss` needs. `inputs` are fingerprints of the data and the text
    vectors. `validate` gets the recommender a phase trains: its id-only model, its aligned expert, its mixture.
    """

    def phase(
        name: str,
        build: Callable[[Task[SequenceBatch] | None], Task[SequenceBatch]],
        trainer: TrainerConfig,
        trainable: Callable[[str], bool],
        settings: Sequence[str],
    ) -> Phase[SequenceBatch]:
        return Phase(
            name=name,
            build=build,
            source=lambda task: batches,
            trainer=trainer,
            validate=None if validate is None else lambda task: validate(retriever_of(task)),
            trainable=trainable,
            groups=pad_groups,
            config=_settings(config, settings),
            inputs=inputs or {},
        )

    def pretrain(previous: Task[SequenceBatch] | None) -> Task[SequenceBatch]:
        return NextItemTask(SequentialModel(config.pretrained, sources), config.loss)

    def align(previous: Task[SequenceBatch] | None) -> Task[SequenceBatch]:
        return AlignTask(_start(_without_mixture(config), sources, previous))

    def disentangle(previous: Task[SequenceBatch] | None) -> Task[SequenceBatch]:
        return DisentangleTask(_start(config, sources, previous))

    phases = []
    if config.pretrain and config.experts != ("text",):
        phases.append(phase("pretrain", pretrain, training.pretrain, lambda name: True, PRETRAIN_SETTINGS))
    if "aligned" in config.experts:
        aligned = "experts.aligned."
        phases.append(phase("align", align, training.align, lambda name: name.startswith(aligned), ALIGN_SETTINGS))
    everything = [field.name for field in fields(config)]
    phases.append(phase("disentangle", disentangle, training.disentangle, lambda name: True, everything))
    return phases


def retriever_of(task: Task[SequenceBatch]) -> PADRetriever:
    """What a phase's task recommends with; `TypeError` for the task of another system."""
    match task:
        case NextItemTask():
            return task.model
        case AlignTask():
            return ExpertRetriever(task.model, "aligned")
        case DisentangleTask():
            return task.model
        case _:
            raise TypeError(f"{type(task).__name__} is not a task of PAD's phases")


def _start(config: PADConfig, sources: ItemSources, previous: Task[SequenceBatch] | None) -> PADModel:
    """A model that starts from copies of what the phase before learned, whose own tensors stay."""
    model = PADModel(config, sources)
    match previous:
        case AlignTask():
            model.copy_towers(previous.model)
        case NextItemTask():
            model.copy_pretrained(previous.model)
        case _:
            pass
    return model


def _without_mixture(config: PADConfig) -> PADConfig:
    """The towers phase 2 needs: the one it trains and the one it hands on. No text tower, and nothing to weigh them."""
    return replace(config, experts=("collaborative", "aligned"), gate=UniformGateConfig())


def _settings(config: PADConfig, names: Sequence[str]) -> Mapping[str, Plain]:
    plain = to_plain(config)
    return {name: plain[name] for name in names} if isinstance(plain, dict) else {}
