"""``llm-rec train``: material of a workspace -> a trained, evaluated, servable run."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.processes import is_first
from llm_rec.recipes.console import say
from llm_rec.recipes.evaluation import EvaluationConfig
from llm_rec.recipes.material import MaterialConfig, open_material
from llm_rec.recipes.methods import MethodConfig
from llm_rec.recipes.presets import METHODS, NEEDS_CODES, NEEDS_TEXT, sasrec
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.runs import RunSettings, train_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Train one method and evaluate it. Run it again after a kill: it goes on where it was."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str | None = None
    """Name of the run below workspace/runs; the preset's name by default."""
    method: MethodConfig = field(default_factory=sasrec)
    """The model and how it is trained; --preset chooses one."""
    material: MaterialConfig = field(default_factory=MaterialConfig)
    """Split, embeddings and codes to use."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How the trained model is evaluated."""
    seed: int = 0
    overwrite: bool = False
    """Throw away the run of that name and start again."""


def run(job: TrainJob) -> Report:
    """Write ``workspace/runs/<name>`` and print the test metrics by slice."""
    place = Workspace(job.workspace)
    name = job.name or "sasrec"
    folder = place.run(name)
    if job.overwrite and is_first():
        shutil.rmtree(folder, ignore_errors=True)
    settings = RunSettings(method=job.method, material=job.material, evaluation=job.evaluation, seed=job.seed)
    report, _ = train_run(name, settings, open_material(place, job.material), folder)
    say(report.table())
    return report


def _preset(name: str, method: MethodConfig) -> TrainJob:
    material = MaterialConfig(
        embeddings="text" if name in NEEDS_TEXT else None, codes="rqvae" if name in NEEDS_CODES else None
    )
    return TrainJob(name=name, method=method, material=material)


RECIPE = Recipe(
    verb="train",
    description="Train a recommender on a workspace, evaluate it by full ranking, and save it ready to serve.",
    job=TrainJob,
    presets={name: _preset(name, method) for name, method in METHODS.items()},
    run=run,
)
