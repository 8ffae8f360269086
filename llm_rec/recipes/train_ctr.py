"""``llm-rec train ctr``: a click log -> a trained, evaluated, servable click model."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.metrics.click_intervals import METRICS
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.click_presets import CLICK_METHODS, NEEDS_CODES, NEEDS_TEXT
from llm_rec.recipes.click_runs import (
    ClickRunEvaluationConfig,
    ClickRunSettings,
    open_click_material,
    train_click_run,
)
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainCtrJob:
    """Train one click model and evaluate it. Run it again after a kill: it goes on where it was."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str | None = None
    """Name of the run below workspace/runs; the preset's name by default."""
    log: str = "clicks"
    """Name of the click log below workspace/clicks."""
    method: ClickMethodConfig = field(default_factory=ClickMethodConfig)
    """The model, its loss and how it is trained; --preset chooses one."""
    codes: str | None = None
    """Semantic codes of the workspace that method.item_fields reads."""
    embeddings: str | None = None
    """Text embeddings of the workspace that method.item_fields reads."""
    evaluation: ClickRunEvaluationConfig = field(default_factory=ClickRunEvaluationConfig)
    """How the trained model is evaluated."""
    seed: int = 0
    overwrite: bool = False
    """Throw away the run of that name and start again."""


def run(job: TrainCtrJob) -> Report:
    """Write ``workspace/runs/<name>`` and print the figures by slice."""
    place = Workspace(job.workspace)
    name = job.name or "dcn_v2"
    folder = place.run(name)
    settings = ClickRunSettings(
        log=job.log,
        method=job.method,
        evaluation=job.evaluation,
        codes=job.codes,
        embeddings=job.embeddings,
        seed=job.seed,
    )
    material = open_click_material(place, settings)
    if job.overwrite:
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)
        wait_for_all()
    report = train_click_run(name, settings, material, folder)
    say(report.table(METRICS, part="test" if "test" in report.metrics else "validation"))
    return report


def _preset(name: str, method: ClickMethodConfig) -> TrainCtrJob:
    return TrainCtrJob(
        name=name,
        method=method,
        codes="moc" if name in NEEDS_CODES else None,
        embeddings="text" if name in NEEDS_TEXT else None,
    )


RECIPE = Recipe(
    verb="train ctr",
    description="Train a click model on a click log, evaluate it by slice, and save it ready to serve.",
    job=TrainCtrJob,
    presets={name: _preset(name, method) for name, method in CLICK_METHODS.items()},
    run=run,
)
