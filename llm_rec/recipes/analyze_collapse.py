"""``llm-rec analyze collapse``: information abundance of a trained click model's embeddings, with plots."""

from dataclasses import dataclass
from pathlib import Path

from llm_rec.analysis.click_collapse import ClickCollapse, analyse_collapse
from llm_rec.analysis.collapse import CollapseReport
from llm_rec.artifacts import write_bytes, write_json
from llm_rec.codec import Plain, plain_numbers
from llm_rec.errors import ConfigError
from llm_rec.recipes.click_runs import MODEL, open_click_material, read_click_settings
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.collapse import collapse_page
from llm_rec.serving.clicks import KIND, load_click_model

FIGURES, PAGE = "collapse.json", "collapse.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeCollapseJob:
    """Diagnose the embeddings of a trained click model."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "dcn_v2"
    """Which run."""
    min_count: int = 10
    """Values with fewer train rows are left out of the filtered figures: they are near their initialisation."""

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ConfigError(f"min_count must be at least 1, got {self.min_count}")


def run(job: AnalyzeCollapseJob) -> ClickCollapse:
    """Write ``collapse.json`` and the page ``collapse.html`` into the run's folder, and print the means."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    settings = read_click_settings(folder)
    place.need(folder / MODEL, KIND, f"llm-rec train ctr --name {job.name}")
    log = open_click_material(place, settings).log
    found = analyse_collapse(load_click_model(folder / MODEL).model, log, min_count=job.min_count)
    write_json(folder / FIGURES, plain_figures(found))
    page = folder / PAGE
    write_bytes(page, collapse_page(f"Embedding collapse, {job.name}", [(job.name, found)]).encode())
    for name, value in found.means().items():
        say(f"{name}: {value:.3f}")
    say(f"page: {page}")
    return found


def plain_figures(found: ClickCollapse) -> dict[str, Plain]:
    """Everything of `found` as JSON; an empty text where a field keeps no value (JSON has no NaN)."""
    heat_maps = {"projected": found.projected, "norms": found.norms}
    return {
        "means": dict(found.means()),
        "min_count": found.min_count,
        "fields": list(found.seen.fields),
        "seen": _report(found.seen),
        "frequent": _report(found.frequent),
        "spectra": plain_numbers(found.spectra),
        **{name: plain_numbers(values) for name, values in heat_maps.items() if values is not None},
    }


def _report(report: CollapseReport) -> Plain:
    return {
        "rows": plain_numbers(report.rows),
        "abundance": plain_numbers(report.abundance),
        "relative_to_dim": plain_numbers(report.relative_to_dim),
        "relative_to_initial": plain_numbers(report.relative_to_initial),
    }


RECIPE = Recipe(
    verb="analyze collapse",
    description="Information abundance, spectra and heat maps of a click model's embeddings, by field and set.",
    job=AnalyzeCollapseJob,
    presets={"default": AnalyzeCollapseJob()},
    run=run,
)
