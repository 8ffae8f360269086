"""``llm-rec recommend``: from a saved recommender, for a user of its log or for a raw history."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from llm_rec.errors import ConfigError
from llm_rec.recipes.console import say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.serving.recommender import KIND, Recommendation, Recommender


@dataclass(frozen=True, kw_only=True, slots=True)
class RecommendJob:
    """Recommend with a trained run; needs neither the text encoder nor the training data."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "sasrec"
    """Which run of the workspace."""
    model: Path | None = None
    """A saved recommender anywhere else, instead of a run."""
    user: str | None = None
    """A user of the log that was saved with the recommender."""
    history: tuple[str, ...] = ()
    """Item ids, oldest first, instead of a user."""
    k: int = 10
    exclude_seen: bool = True
    """Leave out what the history holds."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be at least 1, got {self.k}")


def run(job: RecommendJob) -> list[Recommendation]:
    """Print the `k` best items."""
    if (job.user is None) == (not job.history):
        raise ConfigError("name a --user, or give a --history of item ids (one of the two)")
    path = job.model
    if path is None:
        path = Workspace(job.workspace).run(job.name) / "recommender"
        Workspace.need(path, KIND, f"llm-rec train --name {job.name}")
    recommender = Recommender.load(path)
    found = recommender.recommend(job.history or None, user=job.user, k=job.k, exclude_seen=job.exclude_seen)
    table = Table("", "item", "text", "score")
    for place, item in enumerate(found, start=1):
        table.add_row(str(place), item.item, item.text, f"{item.score:.3f}")
    say(table)
    return found


RECIPE = Recipe(
    verb="recommend",
    description="Recommend for a user of the log, or after a raw history of item ids.",
    job=RecommendJob,
    presets={"default": RecommendJob()},
    run=run,
)
