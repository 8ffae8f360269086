"""``llm-rec evaluate``: rank the catalog again for a trained run, with other cuts, slices or another part."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.codec import to_plain
from llm_rec.metrics.ranking import Part
from llm_rec.recipes.console import say
from llm_rec.recipes.evaluation import EvaluationConfig, evaluate
from llm_rec.recipes.material import open_material
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.runs import TARGETS, read_settings_of, save_targets
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report
from llm_rec.serving.recommender import KIND, load_model


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJob:
    """Evaluate a trained run of a workspace."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "sasrec"
    """Which run."""
    part: Part = "test"
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def run(job: EvaluateJob) -> Report:
    """Print the metrics and write them to ``evaluation-<part>/report.json`` of the run; its own report stays."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    settings = read_settings_of(folder)
    place.need(folder / "recommender", KIND, f"llm-rec train --name {job.name}")
    material = open_material(place, settings.material)
    found = evaluate(load_model(folder / "recommender" / "model"), material, job.part, job.evaluation)
    report = Report.of(
        job.name,
        {job.part: found.summary},
        config={"evaluation": to_plain(job.evaluation)},
        fingerprints=material.inputs,
        seeds={"seed": settings.seed},
    )
    out = folder / f"evaluation-{job.part}"
    report.save(out)
    save_targets(out / TARGETS, found)
    metrics = [f"{name}@{k}" for k in job.evaluation.ks for name in ("recall", "ndcg")]
    say(report.table((*metrics, "mrr"), part=job.part))
    say(f"coverage@{max(job.evaluation.ks)}: {found.coverage:.4f} of the catalog")
    return report


RECIPE = Recipe(
    verb="evaluate",
    description="Rank the full catalog for the targets of a trained run, warm and cold items apart.",
    job=EvaluateJob,
    presets={"default": EvaluateJob()},
    run=run,
)
