"""``llm-rec tune-encoder``: catalog and train events -> a LoRA adapter of a language model, resumable at any moment."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.data import LeaveOneOutConfig, SplitConfig, make_split
from llm_rec.encoders import CausalEncoderConfig, EncoderConfig, SentenceEncoderConfig
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.tuning import PairsConfig, TuningConfig, TuningOutcome, ViewsConfig, tune_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class TuneEncoderJob:
    """Tune an encoder on a workspace. Run it again after a kill: it goes on, on one CPU thread to the same bytes."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "tuned"
    """Name of the adapter below workspace/adapters."""
    encoder: EncoderConfig = field(default_factory=SentenceEncoderConfig)
    """The language model to tune: a sentence or a causal encoder."""
    tuning: TuningConfig = field(default_factory=TuningConfig)
    """Pairs, loss, adapter and training; --preset chooses where pairs come from."""
    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    """Pairs come from its train part, early stopping from its validation part: use the split you train with."""
    overwrite: bool = False
    """Throw away the adapter of that name and start again."""


def run(job: TuneEncoderJob) -> TuningOutcome:
    """Write ``workspace/adapters/<name>``; print what tuning did to the neighbours of items."""
    place = Workspace(job.workspace)
    catalog = place.load_catalog()
    split = make_split(place.load_interactions(catalog), job.split)
    folder = place.adapter(job.name)
    outcome = tune_encoder(job.encoder, catalog, split, folder, job.tuning, overwrite=job.overwrite)
    result, monitor = outcome.result, job.tuning.trainer.monitor
    say(
        facts(
            f"{folder}",
            {
                "epochs": len(result.history),
                "best epoch": result.best_epoch,
                f"validation {monitor} before": outcome.before.get(monitor),
                f"validation {monitor} after": result.best_value,
                "next": f"llm-rec encode --adapter {job.name} --name {job.name}",
            },
        )
    )
    return outcome


RECIPE = Recipe(
    verb="tune-encoder",
    description="Tune a language model on the catalog and train events of a workspace. Resumable.",
    job=TuneEncoderJob,
    presets={
        "co-interaction": TuneEncoderJob(),
        "views": TuneEncoderJob(tuning=TuningConfig(pairs=PairsConfig(co_interaction=None, views=ViewsConfig()))),
        "both": TuneEncoderJob(tuning=TuningConfig(pairs=PairsConfig(views=ViewsConfig()))),
        "causal": TuneEncoderJob(encoder=CausalEncoderConfig(model="Qwen/Qwen3-Embedding-0.6B")),
    },
    run=run,
)
