"""``llm-rec train domains``: a click log -> a trained, evaluated, servable model of several domains or tasks."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.metrics.click_intervals import METRICS
from llm_rec.processes import is_first, wait_for_all
from llm_rec.recipes.console import say
from llm_rec.recipes.domain_presets import DOMAIN_METHODS
from llm_rec.recipes.domain_runs import (
    DomainRunEvaluationConfig,
    DomainRunSettings,
    open_domain_log,
    train_domain_run,
)
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainDomainsJob:
    """Train one model of domains or tasks and evaluate it. Run it again after a kill: it goes on where it was."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str | None = None
    """Name of the run below workspace/runs; the preset's name by default."""
    log: str = "domains"
    """Name of the click log below workspace/clicks."""
    method: DomainMethodConfig = field(default_factory=DomainMethodConfig)
    """The model, its loss and how it is trained; --preset chooses one. By task: --method.model.by task."""
    evaluation: DomainRunEvaluationConfig = field(default_factory=DomainRunEvaluationConfig)
    """How the trained model is evaluated."""
    seed: int = 0
    overwrite: bool = False
    """Throw away the run of that name and start again."""


def run(job: TrainDomainsJob) -> Report:
    """Write ``workspace/runs/<name>`` and print the figures by domain or task, their means, and the worst."""
    place = Workspace(job.workspace)
    name = job.name or next(iter(DOMAIN_METHODS))
    folder = place.run(name)
    settings = DomainRunSettings(log=job.log, method=job.method, evaluation=job.evaluation, seed=job.seed)
    log = open_domain_log(place, job.log)
    if job.overwrite:
        if is_first():
            shutil.rmtree(folder, ignore_errors=True)
        wait_for_all()
    report = train_domain_run(name, settings, log, folder)
    say(report.table(METRICS, part="test" if "test" in report.metrics else "validation"))
    return report


RECIPE = Recipe(
    verb="train domains",
    description="Train a model of several domains or tasks on a click log, jointly or by D-Train, ready to serve.",
    job=TrainDomainsJob,
    presets={name: TrainDomainsJob(name=name, method=method) for name, method in DOMAIN_METHODS.items()},
    run=run,
)
