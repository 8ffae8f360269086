"""``llm-rec analyze sequence``: what a sequence model attends to, finds and separates, with plots."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.analysis.attention_gradients import GradientReport
from llm_rec.analysis.search_quality import SearchQuality
from llm_rec.analysis.sequence_analysis import SequenceAnalysis, SequenceAnalysisConfig, analyse_sequence
from llm_rec.artifacts import write_bytes, write_json
from llm_rec.codec import Plain, plain_number, plain_numbers, to_plain
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError
from llm_rec.recipes.click_runs import MODEL, open_click_material, read_click_settings
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.sequence_runs import SequenceRun, sequence_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.sequence import sequence_page
from llm_rec.serving.clicks import KIND, load_click_model

FIGURES, PAGE = "sequence.json", "sequence.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeSequenceJob:
    """Diagnose a trained click model that reads behaviour sequences."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "dare"
    """Which run."""
    part: Part = "test"
    """Rows that measure the search and the clusters; categories are counted in train rows."""
    gradient_steps: int = 0
    """Steps of a fresh model with tied tables that show domination and conflict of the gradients; 0 leaves it out."""
    batch_size: int = 2048
    """Rows looked at together."""
    analysis: SequenceAnalysisConfig = field(default_factory=SequenceAnalysisConfig)
    """Sizes of maps, limits of the search's NDCG, clusters."""

    def __post_init__(self) -> None:
        if self.gradient_steps < 0:
            raise ConfigError(f"gradient_steps must not be negative, got {self.gradient_steps}")
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {self.batch_size}")


def run(job: AnalyzeSequenceJob) -> SequenceAnalysis:
    """Write the figures and the page into the run's folder, and print the means."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    settings = read_click_settings(folder)
    place.need(folder / MODEL, KIND, f"llm-rec train ctr --name {job.name}")
    found = sequence_run(
        load_click_model(folder / MODEL).model,
        settings.method,
        open_click_material(place, settings),
        job.analysis.category,
        batch_size=job.batch_size,
        seed=settings.seed,
    )
    return analyse_run(job, found, folder)


def analyse_run(job: AnalyzeSequenceJob, run: SequenceRun, folder: Path) -> SequenceAnalysis:
    """Write ``sequence.json`` and the page ``sequence.html`` into `folder`, and print the figures."""
    gradients = None
    if job.gradient_steps:
        if run.trial is None:
            raise ConfigError(
                f"run {job.name} has no two roles to tell apart; leave --gradient-steps out, or take a run with "
                "attention and representation"
            )
        gradients = run.trial(job.gradient_steps).report()
    found = analyse_sequence(run.view, run.material, job.analysis, part=job.part, gradients=gradients)
    write_json(folder / FIGURES, plain_figures(found))
    page = folder / PAGE
    write_bytes(page, sequence_page(f"Behaviour sequences, {job.name}", [(job.name, found)]).encode())
    if not found.search:
        say("search: the model ranks no events, or no row is counted well enough (analysis.min_target, .min_cell)")
    for name, value in found.means().items():
        say(f"{name}: {value:.4f}")
    say(f"page: {page}")
    return found


def plain_figures(found: SequenceAnalysis) -> dict[str, Plain]:
    """Everything of `found` as JSON; an empty text where there is no value (JSON has no NaN)."""
    own, one = found.maps, found.correlation
    return {
        "means": {name: plain_number(value) for name, value in found.means().items()},
        "own_category": {
            "categories": [found.names[place] for place in own.targets.tolist()],
            "information": plain_numbers(own.information),
            "attention": plain_numbers(own.learned),
        },
        "target_correlation": {
            "target": found.names[one.target],
            "categories": [found.names[place] for place in one.behaviours.tolist()],
            "information": plain_numbers(one.information),
            "phi": plain_numbers(one.phi),
            "learned": plain_numbers(one.learned),
        },
        "search": {name: _search(quality) for name, quality in found.search.items()},
        "planted": found.planted,
        "denominator": found.denominator,
        "clusters": [to_plain(record) for record in found.clusters],
        "gradients": None if found.gradients is None else _gradients(found.gradients),
    }


def _search(quality: SearchQuality) -> Plain:
    return {
        "rows": quality.rows,
        "ndcg": plain_numbers(quality.ndcg),
        "overlap": plain_numbers(quality.overlap),
        "standard_error": plain_number(quality.standard_error),
    }


def _gradients(report: GradientReport) -> Plain:
    return {
        "attention_norm": plain_numbers(report.attention_norm),
        "representation_norm": plain_numbers(report.representation_norm),
        "cosine": plain_numbers(report.cosine),
        "pairs": plain_numbers(report.pairs),
        "negative_pairs": plain_numbers(report.negative_pairs),
        "row_shares": plain_numbers(report.row_shares),
    }


RECIPE = Recipe(
    verb="analyze sequence",
    description="Attention against mutual information, search quality, gradients and clusters of a sequence model.",
    job=AnalyzeSequenceJob,
    presets={"default": AnalyzeSequenceJob()},
    run=run,
)
