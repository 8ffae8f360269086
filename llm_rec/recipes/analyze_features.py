"""``llm-rec analyze features``: what the fields of a run's click log say about its label and each other, with plots."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.analysis.feature_correlation import (
    FeatureCorrelation,
    FeatureCorrelationConfig,
    FieldInformation,
    feature_correlation,
)
from llm_rec.artifacts import write_bytes, write_json
from llm_rec.codec import Plain, plain_numbers
from llm_rec.data.log_spec import Part
from llm_rec.recipes.click_runs import open_click_material, read_click_settings
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.features import features_page

FIGURES, PAGE = "features.json", "features.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeFeaturesJob:
    """Diagnose the fields of the click log that a run was trained on."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "dcn_v2"
    """Which run."""
    part: Part = "test"
    """Rows that held-out information is measured on; values are counted in train rows."""
    analysis: FeatureCorrelationConfig = field(default_factory=FeatureCorrelationConfig)
    """Label, pairs of fields, and how many rows are read."""


def run(job: AnalyzeFeaturesJob) -> FeatureCorrelation:
    """Write ``features.json`` and the page ``features.html`` into the run's folder, and print fields by information."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    log = open_click_material(place, read_click_settings(folder)).log
    found = feature_correlation(log, job.part, job.analysis)
    write_json(folder / FIGURES, plain_figures(found))
    page = folder / PAGE
    write_bytes(page, features_page(f"Feature correlation, {job.name}", found).encode())
    for record in (*found.fields, *found.pairs):
        say(f"{' x '.join(record.fields)}: {record.held_out:.4f} held out, {record.corrected:.4f} in sample, corrected")
    say(f"page: {page}")
    return found


def plain_figures(found: FeatureCorrelation) -> dict[str, Plain]:
    """Everything of `found` as JSON."""
    return {
        "label": found.label,
        "part": found.part,
        "rows": found.rows,
        "label_entropy": found.label_entropy,
        "fields": [_record(record) for record in found.fields],
        "pairs": [_record(record) for record in found.pairs],
        "names": list(found.names),
        "nmi": plain_numbers(found.nmi),
        "nmi_chance": plain_numbers(found.nmi_chance),
        "skipped": list(found.skipped),
    }


def _record(record: FieldInformation) -> Plain:
    plain: dict[str, Plain] = {
        "fields": list(record.fields),
        "values": record.values,
        "plug_in": record.plug_in,
        "corrected": record.corrected,
        "held_out": record.held_out,
    }
    return plain if record.gain is None else {**plain, "gain": record.gain}


RECIPE = Recipe(
    verb="analyze features",
    description="Mutual information of the fields of a click log with the label, and of fields with each other.",
    job=AnalyzeFeaturesJob,
    presets={"default": AnalyzeFeaturesJob()},
    run=run,
)
