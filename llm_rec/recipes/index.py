"""``llm-rec index``: embeddings -> semantic IDs, with health figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ConfigError
from llm_rec.progress import progress
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.material import CODES_FILE, CODES_KIND, open_store
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import resolve_by_sinkhorn
from semantic_ids.health import CodeHealth, health
from semantic_ids.quantizers import (
    GroupedRQConfig,
    LibraryRQConfig,
    MixtureOfCodesConfig,
    OPQConfig,
    PQConfig,
    Quantizer,
    QuantizerConfig,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    build_quantizer,
)

HEALTH_FILE = "health.json"
Collisions = Literal["share", "digit", "sinkhorn", "sinkhorn+digit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexJob:
    """Learn a quantiser on the embeddings of a workspace and write every item's codes."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    embeddings: str = "text"
    """Which embeddings of the workspace."""
    name: str = "rqvae"
    """Name of the codes below workspace/codes."""
    quantizer: QuantizerConfig = field(default_factory=RQVAEConfig)
    """How vectors become codes; --preset chooses the kind."""
    collisions: Collisions = "share"
    """Items with equal codes: share them (ranking features), or tell them apart: by an extra digit (TIGER), by Sinkhorn
    on the last level (LC-Rec; some may remain), or both."""
    seed: int = 0
    overwrite: bool = False
    """Replace the codes of that name."""

    def __post_init__(self) -> None:
        if isinstance(self.quantizer, RandomConfig) and "sinkhorn" in self.collisions:
            raise ConfigError("random codes have no distances for sinkhorn to choose by; set collisions share or digit")


def run(job: IndexJob) -> tuple[CodeTable, CodeHealth]:
    """Write ``workspace/codes/<name>`` and print its health; codes of the same settings that are there are kept."""
    place = Workspace(job.workspace)
    catalog = place.load_catalog()
    store = open_store(place.embeddings(job.embeddings), catalog)
    path = place.codes(job.name)
    settings: dict[str, Plain] = {
        "quantizer": to_plain(job.quantizer, tagged=True),
        "collisions": job.collisions,
        "seed": job.seed,
    }
    mark = fingerprint(CODES_KIND, settings, store.fingerprint)
    inputs = {"catalog": catalog.fingerprint, "embeddings": store.fingerprint}
    if not _is_there(path, mark):
        with write_artifact(
            path, kind=CODES_KIND, fingerprint=mark, inputs=inputs, details=settings, overwrite=job.overwrite
        ) as folder:
            _fill(
                folder, job, store, {**settings, "inputs": to_plain(inputs)}, checkpoint=path.with_name(f".{mark}.fit")
            )
        path.with_name(f".{mark}.fit").unlink(missing_ok=True)
    figures = from_plain(CodeHealth, read_json(path / HEALTH_FILE))
    say(facts(f"{path}", _shown(figures)))
    return CodeTable.load(path / CODES_FILE), figures


def _is_there(path: Path, mark: str) -> bool:
    return path.exists() and read_manifest(path, CODES_KIND).fingerprint == mark


def _fill(
    folder: Path, job: IndexJob, store: EmbeddingStore, details: Mapping[str, Plain], *, checkpoint: Path
) -> None:
    """Fit, encode, resolve collisions, measure, and write all of it into `folder`."""
    quantizer = build_quantizer(job.quantizer, store.dim)
    vectors = store.all()[1:]
    fit_quantizer(quantizer, vectors, seed=job.seed, checkpoint=checkpoint)
    semantic = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    table = resolve(semantic, quantizer, vectors, job.collisions)
    codes = table.items[:, : semantic.num_books].astype(np.int64)
    figures = health(table, vectors=vectors, reconstructed=quantizer.decode(codes))
    table.with_details(details).save(folder / CODES_FILE)
    quantizer.save(folder / "quantizer.safetensors")
    write_json(folder / HEALTH_FILE, figures.to_plain())


def fit_quantizer(quantizer: Quantizer, vectors: np.ndarray, *, seed: int, checkpoint: Path | None) -> None:
    """Fit behind a progress bar; with `checkpoint` a killed fit goes on."""
    with progress("fit codebooks", None) as advance:
        done = 0

        def tell(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal done
            advance(step - done)
            done = step

        try:
            quantizer.fit(vectors, seed=seed, checkpoint=checkpoint, progress=tell)
        except ValueError as error:
            raise ConfigError(f"quantizer: {error}") from error


def resolve(table: CodeTable, quantizer: Quantizer, vectors: np.ndarray, how: Collisions) -> CodeTable:
    """`table` with its collisions treated as `how` says."""
    match how:
        case "share":
            return table
        case "digit":
            return table.with_digit()
        case "sinkhorn" | "sinkhorn+digit":
            codes = table.items.astype(np.int64)

            def costs(rows: Int64[np.ndarray, "colliding"]) -> Float[Tensor, "colliding last_codes"]:
                return quantizer.last_costs(vectors[rows - 1], codes[rows - 1])  # item row r is the r-1-th vector

            spread = resolve_by_sinkhorn(table, costs).table
            return spread.with_digit() if how == "sinkhorn+digit" else spread
        case _:
            assert_never(how)


def _shown(figures: CodeHealth) -> dict[str, object]:
    plain = asdict(figures)
    books = len(figures.nmi)
    pairs = [figures.nmi[a][b] for a in range(books) for b in range(a)]
    return {
        **{k: v for k, v in plain.items() if not k.startswith("nmi")},
        "largest nmi between books": max(pairs, default=None),
    }


RECIPE = Recipe(
    verb="index",
    description="Turn embeddings into semantic IDs, with health figures over the whole catalog.",
    job=IndexJob,
    presets={
        "rqvae": IndexJob(),
        "moc": IndexJob(name="moc", quantizer=MixtureOfCodesConfig()),
        "rqkmeans": IndexJob(name="rqkmeans", quantizer=RQKMeansConfig()),
        "rqkmeans-balanced": IndexJob(name="rqkmeans-balanced", quantizer=RQKMeansConfig(balanced=True)),
        "pq": IndexJob(name="pq", quantizer=PQConfig()),
        "opq": IndexJob(name="opq", quantizer=OPQConfig()),
        "grouped-rq": IndexJob(name="grouped-rq", quantizer=GroupedRQConfig()),
        "library-rq": IndexJob(name="library-rq", quantizer=LibraryRQConfig()),
        "random": IndexJob(name="random", quantizer=RandomConfig()),
    },
    run=run,
)
