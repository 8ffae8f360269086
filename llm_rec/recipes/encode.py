"""``llm-rec encode``: item texts -> embeddings, resumable at any moment."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

from llm_rec.encoders import (
    CausalEncoderConfig,
    EncodeConfig,
    EncoderConfig,
    HashingEncoderConfig,
    SentenceEncoderConfig,
    build_encoder,
    encode_catalog,
)
from llm_rec.encoders.transforms import (
    CentreConfig,
    NormaliseConfig,
    PCAConfig,
    StandardiseConfig,
    TransformConfig,
    fit_transform,
)
from llm_rec.errors import ConfigError
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.run_vectors import encode_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeJob:
    """Encode the catalog of a workspace. Run it again after a kill: it goes on, and ends with the same bytes."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    name: str = "text"
    """Name of the embeddings below workspace/embeddings."""
    encoder: EncoderConfig = field(default_factory=SentenceEncoderConfig)
    """Which language model; --preset chooses the kind."""
    run: str | None = None
    """Instead of encoding texts: the item vectors of this trained run, zero for items without train events. What letter
    reads as collaborative vectors (its latent width must be that of the run)."""
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    transform: Literal["none", "centre", "standardise", "pca", "whiten"] = "none"
    """A step after encoding, fitted on this catalog. Pooled vectors of decoder LLMs need it: they are near parallel."""
    width: int | None = None
    """Width after pca or whiten."""
    normalise: bool = False
    """Make every vector of unit length at the end."""
    overwrite: bool = False
    """Start from nothing when the name is taken by other embeddings."""

    def __post_init__(self) -> None:
        if self.run is not None and (self.transform != "none" or self.normalise):
            raise ConfigError("vectors of a run are taken as they are; transform and normalise belong to texts")
        if (self.width is not None) != (self.transform in ("pca", "whiten")):
            raise ConfigError(f"width belongs to transform pca or whiten: set both or neither, got {self.transform}")


def run(job: EncodeJob) -> EmbeddingStore:
    """Write ``workspace/embeddings/<name>`` (and ``<name>-raw`` when there is a transform); print the report."""
    place = Workspace(job.workspace)
    if job.run is not None:
        store = encode_run(place, job.run, job.name, overwrite=job.overwrite)
    else:
        store = _encode_texts(place, job)
    report = store.report
    say(
        facts(
            f"{store.path}",
            {
                "items": store.num_items,
                "width": store.dim,
                "texts encoded once for several items": report.duplicates,
                "empty texts": report.empty_texts,
                "zero vectors": report.zero_norm,
                "not finite": report.non_finite,
            },
        )
    )
    return store


def _encode_texts(place: Workspace, job: EncodeJob) -> EmbeddingStore:
    catalog = place.load_catalog()
    steps = transform_steps(job)
    raw = place.embeddings(f"{job.name}-raw" if steps else job.name)
    store = encode_catalog(catalog, build_encoder(job.encoder), raw, job.encode, overwrite=job.overwrite)
    return fit_transform(store, steps, place.embeddings(job.name), overwrite=job.overwrite) if steps else store


def transform_steps(job: EncodeJob) -> tuple[TransformConfig, ...]:
    """The steps that `transform`, `width` and `normalise` name."""
    steps: tuple[TransformConfig, ...]
    match job.transform:
        case "none":
            steps = ()
        case "centre":
            steps = (CentreConfig(),)
        case "standardise":
            steps = (StandardiseConfig(),)
        case "pca" | "whiten":
            steps = (PCAConfig(dim=job.width or 1, whiten=job.transform == "whiten"),)
        case _:
            assert_never(job.transform)
    return (*steps, NormaliseConfig()) if job.normalise else steps


RECIPE = Recipe(
    verb="encode",
    description="Encode the item texts of a workspace with a language model. Resumable; several processes by torchrun.",
    job=EncodeJob,
    presets={
        "sentence": EncodeJob(),
        "causal": EncodeJob(encoder=CausalEncoderConfig(model="Qwen/Qwen3-Embedding-0.6B"), transform="centre"),
        "hashing": EncodeJob(encoder=HashingEncoderConfig()),
        "run": EncodeJob(name="collaborative", run="sasrec"),
    },
    run=run,
)
