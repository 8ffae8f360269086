"""Codes of a workspace: what to make, and making it. `llm_rec.recipes.index` is the verb."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.data import Catalog, LeaveOneOutConfig, SplitConfig
from llm_rec.errors import ConfigError
from llm_rec.progress import progress
from llm_rec.recipes.code_versions import (
    QUANTIZER_FILE,
    CodeVersion,
    inputs_of,
    read_version,
    write_comparison,
    write_slots,
)
from llm_rec.recipes.console import say
from llm_rec.recipes.index_growth import HEALTH_FILE, Departed, grow_codes
from llm_rec.recipes.material import CODES_FILE, CODES_KIND, open_store
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.balanced import resolve_balanced
from semantic_ids.code_table import CodeTable
from semantic_ids.collisions import LastCosts, resolve_by_sinkhorn
from semantic_ids.growth import CodeSlots
from semantic_ids.health import CodeHealth, health
from semantic_ids.quantizers import (
    FitLog,
    LETTERConfig,
    Quantizer,
    QuantizerConfig,
    RandomConfig,
    RQVAEConfig,
    build_quantizer,
)

FIT_FILE = "fit.json"
Collisions = Literal["share", "digit", "grid-digit", "sinkhorn", "sinkhorn+digit", "balanced", "balanced+digit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitTime:
    """What a fit took: the seconds of its last process."""

    steps: int
    seconds: float


class IndexedCodes(NamedTuple):
    """Codes of a catalog, their health, and the seconds of their fit (None: made by a version that kept no time)."""

    table: CodeTable
    figures: CodeHealth
    fit_seconds: float | None


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
    collaborative: str = "collaborative"
    """Which embeddings of the workspace letter aligns its codes with, as wide as its latent vectors: item vectors of a
    trained run (llm-rec encode --preset run). No other kind reads them."""
    collisions: Collisions = "share"
    """Items with equal codes: share them (ranking features), or tell them apart: by an extra digit (TIGER; GRID counts
    from 1), by Sinkhorn on the last level (LC-Rec; some may remain), by moving all but the nearest to free codes of the
    last level (balanced; some may remain), or on the last level first and by a digit then."""
    grow: str | None = None
    """Name of older codes: their items keep their codes, new items get codes by the same quantiser and rules. Name the
    newest version: an older one does not know which codes were given after it."""
    departed: Departed = "refuse"
    """With grow, what happens when the catalog lost items: an error, or they leave and their codes stay reserved."""
    migrate_from: str | None = None
    """Name of older codes that these, learned anew, take the place of: a table from old to new codes is written."""
    seed: int = 0
    overwrite: bool = False
    """Replace the codes of that name."""
    compare: bool = False
    """Instead of writing codes of that name, fit every kind with the books and codes of --quantizer and print one
    table. Finished kinds are kept below workspace/codes and are not fitted again."""
    kinds: tuple[str, ...] = ()
    """With --compare: only these kinds (default: all)."""
    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    """With --compare: whose train events say which items are taken together."""

    def __post_init__(self) -> None:
        if self.compare and self.collisions != "share":
            raise ConfigError(
                f"compare measures codes as they are fitted; leave collisions at share, got {self.collisions}"
            )
        if self.compare and (self.grow is not None or self.migrate_from is not None):
            raise ConfigError("compare fits every kind anew; grow and migrate_from belong to codes of one name")
        if self.kinds and not self.compare:
            raise ConfigError("kinds belong to --compare")
        way = self.collisions.removesuffix("+digit")
        if isinstance(self.quantizer, RandomConfig) and way in ("sinkhorn", "balanced"):
            raise ConfigError(f"random codes have no distances for {way} to choose by; set collisions share or digit")
        if self.grow is not None and self.migrate_from is not None:
            raise ConfigError("grow keeps the codes that are there, migrate_from learns new ones; set one of them")
        if self.grow is not None and (self.quantizer, self.collisions, self.seed) != (RQVAEConfig(), "share", 0):
            raise ConfigError(
                "grow takes quantizer, collisions and seed from the codes it grows; leave them and --preset out"
            )
        if self.grow is None and self.departed != "refuse":
            raise ConfigError("departed belongs to grow: name the codes to grow, or leave it out")


def write_codes(job: IndexJob) -> IndexedCodes:
    """Write ``workspace/codes/<name>``; codes of the same settings that are there are kept."""
    place = Workspace(job.workspace)
    catalog = place.load_catalog()
    store = open_store(place.embeddings(job.embeddings), catalog)
    path = place.codes(job.name)
    if job.grow is not None:
        grow_codes(place, catalog, store, older=job.grow, name=job.name, departed=job.departed, overwrite=job.overwrite)
    else:
        older = None if job.migrate_from is None else read_version(place, job.migrate_from, catalog)
        _learn(job, path, catalog, store, older)
    figures = from_plain(CodeHealth, read_json(path / HEALTH_FILE))
    return IndexedCodes(CodeTable.load(path / CODES_FILE), figures, _seconds(path))


def _learn(job: IndexJob, path: Path, catalog: Catalog, store: EmbeddingStore, older: CodeVersion | None) -> None:
    """Write codes of a quantiser that is learned here, unless they are there; with what changed since `older`."""
    collaborative = _collaborative(job, catalog)
    settings: dict[str, Plain] = {
        "quantizer": to_plain(job.quantizer, tagged=True),
        "collisions": job.collisions,
        "seed": job.seed,
    }
    history: dict[str, Plain] = {"version": 1, "lineage": []}
    if older is not None:
        older.require_some(older.slots_of(catalog))
        settings["migrated_from"] = older.manifest.fingerprint
        history = {"version": older.slots.version + 1, "lineage": older.lineage("learned anew")}
    inputs, learned_on = inputs_of(catalog, store), [store.fingerprint]
    if collaborative is not None:
        inputs["collaborative"] = collaborative.fingerprint
        learned_on.append(collaborative.fingerprint)
    mark = fingerprint(CODES_KIND, settings, *learned_on)
    if _is_there(path, mark):
        return
    checkpoint = path.with_name(f".{mark}.fit")
    with write_artifact(
        path,
        kind=CODES_KIND,
        fingerprint=mark,
        inputs=inputs,
        details={**settings, **history},
        overwrite=job.overwrite,
    ) as folder:
        details = {**settings, "inputs": to_plain(inputs)}
        table = _fill(folder, job, store, collaborative, details, checkpoint=checkpoint)
        write_slots(folder, CodeSlots.first(table, 1 if older is None else older.slots.version + 1), catalog.item_ids)
        if older is not None:
            write_comparison(folder, older, table, catalog)
    checkpoint.unlink(missing_ok=True)


def _seconds(path: Path) -> float | None:
    if not (path / FIT_FILE).is_file():
        return None
    return from_plain(FitTime, read_json(path / FIT_FILE)).seconds


def _is_there(path: Path, mark: str) -> bool:
    return path.exists() and read_manifest(path, CODES_KIND).fingerprint == mark


def _collaborative(job: IndexJob, catalog: Catalog) -> EmbeddingStore | None:
    """What letter needs beside the embeddings."""
    if not isinstance(job.quantizer, LETTERConfig) or job.quantizer.collaborative_weight == 0:
        return None
    path = Workspace(job.workspace).embeddings(job.collaborative)
    if not path.exists():
        raise ConfigError(
            f"letter needs collaborative vectors, but {path} is not there; make them from a trained run by "
            f"`llm-rec encode --preset run --run RUN --name {job.collaborative}`"
        )
    return open_store(path, catalog)


def _fill(
    folder: Path,
    job: IndexJob,
    store: EmbeddingStore,
    collaborative: EmbeddingStore | None,
    details: Mapping[str, Plain],
    *,
    checkpoint: Path,
) -> CodeTable:
    """Fit, encode, resolve collisions, measure, and write all of it into `folder`."""
    given = None if collaborative is None else collaborative.all()[1:]
    try:
        quantizer = build_quantizer(job.quantizer, store.dim, collaborative=given)
    except ValueError as error:
        raise ConfigError(f"quantizer: {error}") from error
    vectors = store.all()[1:]
    log = fit_quantizer(quantizer, vectors, seed=job.seed, checkpoint=checkpoint)
    write_json(folder / FIT_FILE, {"steps": log.steps, "seconds": log.seconds})
    semantic = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)
    table = resolve(semantic, quantizer, vectors, job.collisions)
    codes = table.items[:, : semantic.num_books].astype(np.int64)
    figures = health(table, vectors=vectors, reconstructed=quantizer.decode(codes))
    table.with_details(details).save(folder / CODES_FILE)
    quantizer.save(folder / QUANTIZER_FILE)
    write_json(folder / HEALTH_FILE, figures.to_plain())
    return table


def fit_quantizer(quantizer: Quantizer, vectors: np.ndarray, *, seed: int, checkpoint: Path | None) -> FitLog:
    """Fit behind a progress bar; with `checkpoint` a killed fit goes on."""
    with progress("fit codebooks", None) as advance:
        done = 0

        def tell(step: int, total: int, figures: Mapping[str, float]) -> None:
            nonlocal done
            advance(step - done)
            done = step

        try:
            return quantizer.fit(vectors, seed=seed, checkpoint=checkpoint, progress=tell)
        except ValueError as error:
            raise ConfigError(f"quantizer: {error}") from error


def resolve(table: CodeTable, quantizer: Quantizer, vectors: np.ndarray, how: Collisions) -> CodeTable:
    """`table` with its collisions treated as `how` says."""
    match how:
        case "share":
            return table
        case "digit":
            return table.with_digit()
        case "grid-digit":
            return table.with_digit("grid")
        case "sinkhorn" | "sinkhorn+digit":
            spread = resolve_by_sinkhorn(table, last_costs(table, quantizer, vectors)).table
            return spread.with_digit() if how == "sinkhorn+digit" else spread
        case "balanced" | "balanced+digit":
            placed = resolve_balanced(table, last_costs(table, quantizer, vectors))
            say(
                f"{len(placed.moved):,} items moved to free codes, {len(placed.unplaced):,} found none and share theirs"
            )
            return placed.table.with_digit() if how == "balanced+digit" else placed.table
        case _:
            assert_never(how)


def last_costs(table: CodeTable, quantizer: Quantizer, vectors: np.ndarray) -> LastCosts:
    """How far each item is from every code of the last level, given its codes before in `table`."""
    codes = table.items.astype(np.int64)

    def costs(rows: Int64[np.ndarray, "colliding"]) -> Float[Tensor, "colliding last_codes"]:
        return quantizer.last_costs(vectors[rows - 1], codes[rows - 1])  # item row r is the r-1-th vector

    return costs
