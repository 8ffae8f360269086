"""``llm-rec index``: embeddings -> semantic IDs, with health figures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, assert_never

import numpy as np

from llm_rec.artifacts import fingerprint, write_artifact, write_json
from llm_rec.codec import to_plain
from llm_rec.progress import progress
from llm_rec.recipes.console import facts, say
from llm_rec.recipes.material import CODES_FILE, CODES_KIND, open_store
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.workspace import Workspace
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import resolve_by_sinkhorn
from semantic_ids.health import CodeHealth, health
from semantic_ids.quantizers import (
    LibraryRQConfig,
    MixtureOfCodesConfig,
    PQConfig,
    Quantizer,
    QuantizerConfig,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    build_quantizer,
)

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


def run(job: IndexJob) -> tuple[CodeTable, CodeHealth]:
    """Write ``workspace/codes/<name>`` and print its health."""
    place = Workspace(job.workspace)
    catalog = place.load_catalog()
    store = open_store(place.embeddings(job.embeddings), catalog)
    vectors = store.all()[1:]
    quantizer = build_quantizer(job.quantizer, store.dim)
    recipe = to_plain(job.quantizer, tagged=True)
    mark = fingerprint(
        CODES_KIND, {"quantizer": recipe, "collisions": job.collisions, "seed": job.seed}, store.fingerprint
    )
    inputs = {"catalog": catalog.fingerprint, "embeddings": store.fingerprint}
    with write_artifact(
        place.codes(job.name),
        kind=CODES_KIND,
        fingerprint=mark,
        inputs=inputs,
        details={"quantizer": recipe, "collisions": job.collisions, "seed": job.seed},
        overwrite=job.overwrite,
    ) as folder:
        checkpoint = place.codes(job.name).with_name(f".{job.name}.fit.safetensors")
        fit_quantizer(quantizer, vectors, seed=job.seed, checkpoint=checkpoint)
        semantic = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
        table = resolve(semantic, quantizer, vectors, job.collisions)
        figures = health(table, vectors=vectors, reconstructed=quantizer.decode(semantic.items.astype("int64")))
        table.with_details({"quantizer": recipe, "inputs": to_plain(inputs)}).save(folder / CODES_FILE)
        quantizer.save(folder / "quantizer.safetensors")
        write_json(folder / "health.json", figures.to_plain())
    checkpoint.unlink(missing_ok=True)
    say(facts(f"{place.codes(job.name)}", _shown(figures)))
    return table, figures


def fit_quantizer(quantizer: Quantizer, vectors: np.ndarray, *, seed: int, checkpoint: Path | None) -> None:
    """Fit behind a progress bar; with `checkpoint` a killed fit goes on."""
    with progress("fit codebooks", None) as advance:
        done = 0

        def tell(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal done
            advance(step - done)
            done = step

        quantizer.fit(vectors, seed=seed, checkpoint=checkpoint, progress=tell)


def resolve(table: CodeTable, quantizer: Quantizer, vectors: np.ndarray, how: Collisions) -> CodeTable:
    """`table` with its collisions treated as `how` says."""
    match how:
        case "share":
            return table
        case "digit":
            return table.with_digit()
        case "sinkhorn" | "sinkhorn+digit":
            codes = table.items.astype(np.int64)
            spread = resolve_by_sinkhorn(table, lambda rows: quantizer.last_costs(vectors[rows], codes[rows])).table
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
        "pq": IndexJob(name="pq", quantizer=PQConfig()),
        "library-rq": IndexJob(name="library-rq", quantizer=LibraryRQConfig()),
        "random": IndexJob(name="random", quantizer=RandomConfig()),
    },
    run=run,
)
