"""``llm-rec encode``: item texts -> embeddings, resumable at any moment."""

from dataclasses import dataclass, field, replace
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
from llm_rec.encoders.ray_engine import RayConfig, encode_catalog_on_ray
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
    adapter: str | None = None
    """Name of an adapter below workspace/adapters, made by `llm-rec tune-encoder` from this model."""
    run: str | None = None
    """Instead of encoding texts: the item vectors of this trained run, zero for items without train events. What letter
    reads as collaborative vectors (its latent width must be that of the run)."""
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    engine: Literal["local", "ray"] = "local"
    """Who computes: this process (or those of torchrun), or workers of Ray, which write the same store."""
    ray: RayConfig = field(default_factory=RayConfig)
    """Workers of engine ray."""
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
        if self.run is not None and self.adapter is not None:
            raise ConfigError("adapter belongs to a language model, and run names vectors of a run; set one of them")
        if (self.width is not None) != (self.transform in ("pca", "whiten")):
            raise ConfigError(f"width belongs to transform pca or whiten: set both or neither, got {self.transform}")
        if self.engine == "local" and self.ray != RayConfig():
            raise ConfigError("ray settings belong to engine ray; pass --engine ray, or leave them out")


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
    steps = transform_steps(job)
    store = _encoded(job, place, place.embeddings(f"{job.name}-raw" if steps else job.name))
    return fit_transform(store, steps, place.embeddings(job.name), overwrite=job.overwrite) if steps else store


def _encoded(job: EncodeJob, place: Workspace, path: Path) -> EmbeddingStore:
    """The store before any transform, by the engine of the job."""
    catalog, encoder = place.load_catalog(), encoder_of(job, place)
    match job.engine:
        case "local":
            return encode_catalog(catalog, build_encoder(encoder), path, job.encode, overwrite=job.overwrite)
        case "ray":
            return encode_catalog_on_ray(place.catalog, encoder, path, job.encode, job.ray, overwrite=job.overwrite)
        case _:
            assert_never(job.engine)


def encoder_of(job: EncodeJob, place: Workspace) -> EncoderConfig:
    """The encoder with the adapter that the job names."""
    if job.adapter is None:
        return job.encoder
    if isinstance(job.encoder, HashingEncoderConfig):
        raise ConfigError("adapter belongs to a language model, and hashing is none; choose another --preset")
    if job.encoder.adapter is not None:
        raise ConfigError(f"adapter {job.adapter!r} and encoder.adapter {job.encoder.adapter} are both set; set one")
    return replace(job.encoder, adapter=place.adapter(job.adapter))


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
    description="Encode the item texts of a workspace with a language model. Resumable; parallel by torchrun or Ray.",
    job=EncodeJob,
    presets={
        "sentence": EncodeJob(),
        "causal": EncodeJob(encoder=CausalEncoderConfig(model="Qwen/Qwen3-Embedding-0.6B"), transform="centre"),
        "hashing": EncodeJob(encoder=HashingEncoderConfig()),
        "run": EncodeJob(name="collaborative", run="sasrec"),
    },
    run=run,
)
