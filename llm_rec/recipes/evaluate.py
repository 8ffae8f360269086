"""``llm-rec evaluate``: rank the catalog again for a trained run, or score the rows of a click log again, with other
cuts, slices or another part."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from llm_rec.artifacts import read_manifest
from llm_rec.codec import Plain, to_plain
from llm_rec.data.columns import ClickLog
from llm_rec.metrics.click_intervals import METRICS
from llm_rec.metrics.ranking import Part
from llm_rec.metrics.summary import SliceSummary
from llm_rec.recipes.click_runs import (
    LOGITS,
    MODEL,
    ClickRunEvaluationConfig,
    ScoredRows,
    read_click_settings,
    save_logits,
    score_part,
)
from llm_rec.recipes.console import say
from llm_rec.recipes.domain_runs import DomainRunEvaluationConfig, read_domain_settings, score_domains
from llm_rec.recipes.evaluation import EvaluationConfig, evaluate
from llm_rec.recipes.material import open_material
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.runs import TARGETS, load_run_model, read_settings_of, run_task, save_targets
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report
from llm_rec.serving.clicks import KIND as CLICK_KIND
from llm_rec.serving.clicks import load_click_model
from llm_rec.serving.domains import FORM as DOMAIN_FORM
from llm_rec.serving.domains import load_domain_model


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateJob:
    """Evaluate a trained run of a workspace."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "sasrec"
    """Which run."""
    part: Part = "test"
    """Events or rows of a split to evaluate."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """For recommenders."""
    clicks: ClickRunEvaluationConfig = field(default_factory=ClickRunEvaluationConfig)
    """For click models; the slice field is that of the run unless it is set here."""
    domains: DomainRunEvaluationConfig = field(default_factory=DomainRunEvaluationConfig)
    """For models of domains or tasks."""


def run(job: EvaluateJob) -> Report:
    """Print the metrics and write them to ``evaluation-<part>/report.json`` of the run; its own report stays."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    kind = run_task(folder)
    if kind == "clicks":
        return _clicks(place, folder, job)
    if kind == "domains":
        return _domains(place, folder, job)
    settings = read_settings_of(folder)
    model = load_run_model(place, job.name)
    material = open_material(place, settings.material)
    found = evaluate(model, material, job.part, job.evaluation)
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


def _clicks(place: Workspace, folder: Path, job: EvaluateJob) -> Report:
    settings = read_click_settings(folder)
    place.need(folder / MODEL, CLICK_KIND, f"llm-rec train ctr --name {job.name}")
    log = ClickLog.load(place.clicks(settings.log))
    read_manifest(folder / MODEL).require_input("log", log.fingerprint, where=folder / MODEL)
    scorer = load_click_model(folder / MODEL)
    config = replace(job.clicks, slice_field=job.clicks.slice_field or settings.evaluation.slice_field)
    rows = score_part(scorer.model, settings.method.loss, log, job.part, config)
    return _scored(folder, job, log, rows, rows.summary(config), to_plain(config), settings.seed)


def _domains(place: Workspace, folder: Path, job: EvaluateJob) -> Report:
    settings = read_domain_settings(folder)
    place.need(folder / MODEL, DOMAIN_FORM.kind, f"llm-rec train domains --name {job.name}")
    log = ClickLog.load(place.clicks(settings.log))
    read_manifest(folder / MODEL).require_input("log", log.fingerprint, where=folder / MODEL)
    scorer = load_domain_model(folder / MODEL)
    rows = score_domains(scorer.model, settings.method.model.by, log, job.part, job.domains)
    return _scored(folder, job, log, rows, rows.summary(job.domains), to_plain(job.domains), settings.seed)


def _scored(
    folder: Path,
    job: EvaluateJob,
    log: ClickLog,
    rows: ScoredRows,
    summary: Mapping[str, SliceSummary],
    config: Plain,
    seed: int,
) -> Report:
    """Write and print what scored rows came to."""
    report = Report.of(
        job.name,
        {job.part: summary},
        config={"evaluation": config},
        fingerprints={"log": log.fingerprint},
        seeds={"seed": seed},
        task="clicks",
    )
    out = folder / f"evaluation-{job.part}"
    report.save(out)
    save_logits(out / LOGITS, rows)
    say(report.table(METRICS, part=job.part))
    return report


RECIPE = Recipe(
    verb="evaluate",
    description="Rank the full catalog for a run's targets, or score the rows of a click run; warm and cold apart.",
    job=EvaluateJob,
    presets={"default": EvaluateJob()},
    run=run,
)
