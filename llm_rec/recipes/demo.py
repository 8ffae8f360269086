"""``llm-rec demo``: the whole way on MovieLens-100k, in minutes on two cores."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_rec.data.sources import MovieLensConfig, SourceConfig
from llm_rec.encoders import EncoderConfig, SentenceEncoderConfig
from llm_rec.recipes import data, encode, index, train
from llm_rec.recipes.console import say
from llm_rec.recipes.generative import GenerativeMethodConfig
from llm_rec.recipes.material import MaterialConfig
from llm_rec.recipes.methods import MethodConfig, PADMethodConfig, SequentialMethodConfig
from llm_rec.recipes.presets import METHODS
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.report import compare_runs
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Comparison
from llm_rec.sequential.negatives import SharedNegativesConfig
from llm_rec.training.trainer import TrainerConfig
from semantic_ids.quantizers import MixtureOfCodesConfig, QuantizerConfig, RQVAEConfig

# 1,682 items allow about 64 codes a book: ten or more items each.
CODES: dict[str, QuantizerConfig] = {
    "moc": MixtureOfCodesConfig(num_codebooks=4, codebook_size=64),
    "rqvae": RQVAEConfig(num_codebooks=3, codebook_size=64),
}
RUNS = {"SASRec (id)": "sasrec", "SASRec (text)": "sasrec-text", "SASRec (id + codes)": "sasrec-codes", "PAD": "pad"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoJob:
    """Encode, index by Mixture-of-Codes and RQ-VAE, train four recommenders, compare. A second run reuses the first."""

    workspace: Path = Path(".demo")
    """Where everything is kept."""
    source: SourceConfig = field(default_factory=MovieLensConfig)
    """The log; MovieLens-100k from GroupLens, or from the recbole package where that cannot be reached."""
    encoder: EncoderConfig = field(default_factory=SentenceEncoderConfig)
    """The language model: all-MiniLM-L6-v2."""
    epochs: int = 60
    """At most so many epochs a phase; training stops early on validation NDCG@10."""
    negatives: int = 512
    """At most so many shared negatives a step: a third of this catalog."""
    seed: int = 0


def run(job: DemoJob) -> Comparison:
    """Print one table (overall, unseen, cold, warm) and write ``report/report.html``."""
    place = Workspace(job.workspace)
    if not place.interactions.exists():
        say("1/4 data")
        data.run(data.DataJob(workspace=place.root, source=job.source, overwrite=True))
    say("2/4 encode the catalog")
    encode.run(encode.EncodeJob(workspace=place.root, encoder=job.encoder))
    say("3/4 semantic IDs")
    for name, quantizer in CODES.items():
        index.run(index.IndexJob(workspace=place.root, name=name, quantizer=quantizer, seed=job.seed))
    say("4/4 train and evaluate")
    for name, preset in RUNS.items():
        method = _small(METHODS[preset], job)
        material = MaterialConfig(codes="moc" if preset == "sasrec-codes" else None)
        train.run(train.TrainJob(workspace=place.root, name=name, method=method, material=material, seed=job.seed))
    return compare_runs(place, tuple(RUNS), next(iter(RUNS)), place.root / "report")


def _small(method: MethodConfig, job: DemoJob) -> MethodConfig:
    """The method with at most `job.epochs` epochs a phase, and negatives that suit a small catalog."""

    def short(trainer: TrainerConfig) -> TrainerConfig:
        return replace(trainer, epochs=min(trainer.epochs, job.epochs))

    if isinstance(method, GenerativeMethodConfig):
        return replace(method, trainer=short(method.trainer))
    negatives = method.negatives
    if isinstance(negatives, SharedNegativesConfig):
        negatives = replace(negatives, number=min(negatives.number, job.negatives))
    match method:
        case SequentialMethodConfig():
            return replace(method, negatives=negatives, trainer=short(method.trainer))
        case PADMethodConfig():
            phases = method.training
            training = replace(
                phases,
                pretrain=short(phases.pretrain),
                align=short(phases.align),
                disentangle=short(phases.disentangle),
            )
            return replace(method, negatives=negatives, training=training)


RECIPE = Recipe(
    verb="demo",
    description="The whole way on MovieLens-100k: data, embeddings, semantic IDs, four recommenders, one report.",
    job=DemoJob,
    presets={"default": DemoJob()},
    run=run,
)
