"""``llm-rec analyze domains``: whether experts differ, gates mix, tails collapsed and interests entangle (a page)."""

from dataclasses import dataclass
from pathlib import Path

from llm_rec.analysis.domain_experts import (
    DomainAnalysis,
    InterestEntanglement,
    analyse_domains,
    interest_entanglement,
)
from llm_rec.artifacts import read_manifest, write_bytes, write_json
from llm_rec.codec import Plain, plain_numbers
from llm_rec.ctr.domain_training import RoutedDomains
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError
from llm_rec.recipes.click_runs import MODEL
from llm_rec.recipes.console import say
from llm_rec.recipes.domain_runs import open_domain_log, read_domain_settings
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.domains import domains_page
from llm_rec.serving.domains import FORM, load_domain_model

FIGURES, PAGE = "domains.json", "domains.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzeDomainsJob:
    """Diagnose a trained model of domains or tasks."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "mmoe"
    """Which run."""
    min_count: int = 2
    """Values with fewer train rows in a domain take no part in its abundance: they are near their initialisation."""
    max_rows: int = 8192
    """So many test rows are looked at."""
    user: str | None = None
    """With item: fields whose vectors are compared across two tasks (interest entanglement)."""
    item: str | None = None
    """See user."""

    def __post_init__(self) -> None:
        if self.min_count < 1 or self.max_rows < 2:
            raise ConfigError(
                f"min_count must be at least 1 and max_rows at least 2, got {self.min_count} and {self.max_rows}"
            )
        if (self.user is None) != (self.item is None):
            raise ConfigError("user and item go together: set both, or neither")


def run(job: AnalyzeDomainsJob) -> DomainAnalysis:
    """Write ``domains.json`` and the page ``domains.html`` into the run's folder, and print the means."""
    place = Workspace(job.workspace)
    folder = place.run(job.name)
    settings = read_domain_settings(folder)
    place.need(folder / MODEL, FORM.kind, f"llm-rec train domains --name {job.name}")
    log = open_domain_log(place, settings.log)
    read_manifest(folder / MODEL).require_input("log", log.fingerprint, where=folder / MODEL)
    model = load_domain_model(folder / MODEL).model
    if isinstance(model, RoutedDomains):
        raise ConfigError(f"{folder} holds a model for each domain, which share nothing; analyse a shared one")
    part: Part = "test" if "test" in log.rows else "validation"
    found = analyse_domains(model, log, part=part, max_rows=job.max_rows, min_count=job.min_count)
    tangled = None
    if job.user is not None and job.item is not None:
        tangled = interest_entanglement(model, log, user=job.user, item=job.item, part=part)
    write_json(folder / FIGURES, plain_figures(found, tangled))
    page = folder / PAGE
    write_bytes(page, domains_page(f"Domains and tasks, {job.name}", found, tangled).encode())
    for name, value in found.means().items():
        say(f"{name.replace('_', ' ')}: {value:.4f}")
    if tangled is not None:
        say(f"{tangled.tasks[0]} nearer than {tangled.tasks[1]}, by table: {[round(v, 3) for v in tangled.order]}")
    say(f"page: {page}")
    return found


def plain_figures(found: DomainAnalysis, tangled: InterestEntanglement | None) -> dict[str, Plain]:
    """Everything as JSON; an empty text where there is no figure (JSON has no NaN)."""
    plain: dict[str, Plain] = {
        "means": dict(found.means()),
        "names": list(found.names),
        "domains": list(found.domains),
        "abundance": plain_numbers(found.abundance),
        "abundance_over_initial": plain_numbers(found.abundance_over_initial),
    }
    if found.gates is not None:
        plain["gates"] = plain_numbers(found.gates)
    if found.effective_experts is not None:
        plain["effective_experts"] = plain_numbers(found.effective_experts)
    if found.experts is not None:
        experts = found.experts
        plain["experts"] = {
            "correlation": plain_numbers(experts.correlation),
            "similarity": plain_numbers(experts.similarity),
            "deviation": plain_numbers(experts.deviation),
            "dead": plain_numbers(experts.dead),
        }
    if tangled is not None:
        plain["entanglement"] = {
            "tasks": list(tangled.tasks),
            "distances": plain_numbers(tangled.distances),
            "order": plain_numbers(tangled.order),
        }
    return plain


RECIPE = Recipe(
    verb="analyze domains",
    description="Whether experts differ and gates mix, whether a tail's embeddings collapsed, whether tasks entangle.",
    job=AnalyzeDomainsJob,
    presets={"default": AnalyzeDomainsJob()},
    run=run,
)
