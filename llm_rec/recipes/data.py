"""``llm-rec data``: a catalog and a log, checked and written as artefacts."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from llm_rec.artifacts import read_manifest
from llm_rec.data import (
    Catalog,
    Interactions,
    LeaveOneOutConfig,
    SplitConfig,
    k_core,
    make_split,
)
from llm_rec.data.sources import (
    AmazonConfig,
    FolderConfig,
    FramesConfig,
    MINDConfig,
    MovieLensConfig,
    SourceConfig,
    load_source,
)
from llm_rec.data.sources.amazon import RELEASES
from llm_rec.errors import ConfigError
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class DataJob:
    """Read, check, and write a catalog and a log."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    source: SourceConfig = field(default_factory=MovieLensConfig)
    """Where the rows come from; --preset chooses the kind."""
    core_users: int = 0
    """Drop users with fewer events, together with core_items, to a fixed point (0 = keep all)."""
    core_items: int = 0
    """Drop events of items with fewer events (0 = keep all); the catalog keeps every item."""
    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    """The split whose figures are printed; training names its own."""
    overwrite: bool = False
    """Replace the catalog and log that the workspace holds."""

    def __post_init__(self) -> None:
        if min(self.core_users, self.core_items) < 0:
            raise ConfigError("core_users and core_items must not be negative")


def run(job: DataJob) -> tuple[Catalog, Interactions]:
    """Write ``workspace/catalog`` and ``workspace/interactions`` and print what is in them.

    The same catalog and log that are there already are kept; other ones need `overwrite`.
    """
    place = Workspace(job.workspace)
    catalog, log = load_source(job.source)
    if job.core_users or job.core_items:
        log = k_core(log, users=job.core_users, items=job.core_items).log
    same = _holds(place.catalog, "catalog", catalog.fingerprint)
    if job.overwrite or not same or Catalog.load(place.catalog).columns != catalog.columns:
        catalog.save(place.catalog, overwrite=job.overwrite)
    if job.overwrite or not _holds(place.interactions, "interactions", log.fingerprint):
        log.save(place.interactions, overwrite=job.overwrite)
    split = make_split(log, job.split)
    say(facts(f"{place.root}: catalog and interactions", asdict(split.describe())))
    return catalog, log


def _holds(path: Path, kind: str, fingerprint: str) -> bool:
    return path.exists() and read_manifest(path, kind).fingerprint == fingerprint


RECIPE = Recipe(
    verb="data",
    description="Read a catalog and a log, check them, and write them as artefacts of a workspace.",
    job=DataJob,
    presets={
        "movielens": DataJob(),
        **{
            f"amazon{release}": DataJob(
                source=AmazonConfig(release=release, reviews=Path("reviews.json.gz"), metadata=Path("meta.json.gz"))
            )
            for release in RELEASES
        },
        "mind": DataJob(source=MINDConfig(paths=(Path("MINDsmall_train"), Path("MINDsmall_dev")))),
        "folder": DataJob(source=FolderConfig(path=Path("data"))),
        "files": DataJob(
            source=FramesConfig(items=Path("items.csv"), interactions=Path("interactions.csv"), text="title")
        ),
    },
    run=run,
)
