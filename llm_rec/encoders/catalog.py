"""Encode a catalog into an `EmbeddingStore`: each distinct text once, shard by shard, resumable, by several processes.

The job has three steps, each a pure function of the catalog, the encoder and the config, so that any number of
processes, killed at any moments and started again, write the same bytes:

1. **Encode.** A shard's own texts (those that occur in no earlier position of the whole catalog) are tokenised, sorted
   by length, cut into batches by token budget and encoded. Batches never cross a shard. Process p of P takes shards
   p, p + P, ... A shard whose every vector is now known is written as ``shard-*``, one that waits for texts owned by
   other shards as ``draft-*``.
2. **Copy**, after a barrier: vectors of duplicates are copied into the drafts from the shards that own them.
3. **Seal**, after another barrier: the first process writes the manifest and removes drafts and plan.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from llm_rec.artifacts import MANIFEST, Manifest, read_json, read_manifest, write_json
from llm_rec.codec import Plain
from llm_rec.data.catalog import Catalog
from llm_rec.encoders.duplicates import Duplicates
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.tokens import TokenRows, token_batches
from llm_rec.encoders.workers import Workers, joined_workers
from llm_rec.errors import ArtifactError, DataError
from llm_rec.progress import progress
from llm_rec.store import (
    KIND,
    PLAN,
    EmbeddingStore,
    ShardLayout,
    ShardReader,
    draft_path,
    gather,
    read_facts,
    read_shard,
    seal,
    shard_path,
    write_shard,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """`shard_rows` items are encoded, held in memory and lost by a kill at most.

    A batch holds at most `tokens_per_batch` tokens, padding included (None: what suits the encoder's device), and
    `texts_per_batch` texts. `non_finite` says what a NaN or infinite vector does: stop with an error that names the
    items, or become zero and be counted in the store's report.
    """

    shard_rows: int = 8192
    tokens_per_batch: int | None = None
    texts_per_batch: int = 512
    non_finite: Literal["error", "zero"] = "error"

    def __post_init__(self) -> None:
        for name in ("shard_rows", "tokens_per_batch", "texts_per_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, eq=False)
class _Job:
    catalog: Catalog
    encoder: TextEncoder
    folder: Path
    config: EncodeConfig
    layout: ShardLayout
    duplicates: Duplicates


@dataclass(frozen=True, eq=False)
class _Texts:
    """One shard before it is encoded: where each vector comes from, and the tokens of the texts that the shard owns."""

    shard: int
    sources: Int64[np.ndarray, "rows"]
    empty: Bool[np.ndarray, "rows"]
    own: Int64[np.ndarray, "own"]
    tokens: TokenRows


def encode_catalog(
    catalog: Catalog,
    encoder: TextEncoder,
    path: Path | str,
    config: EncodeConfig | None = None,
    *,
    overwrite: bool = False,
) -> EmbeddingStore:
    """Encode every item's text into the store at `path`, going on where an earlier call was stopped.

    A finished store made from the same catalog, encoder and config is opened and nothing is computed. Items without
    text (empty or blank) get zero vectors. Start it under ``torchrun --nproc_per_node P`` to share the shards among P
    processes; every one of them gets the finished store.

    Raises `ArtifactError` when the folder holds something else, or a half-finished store begun with another catalog,
    encoder, config, torch version or number of threads (then the bytes would differ): `overwrite` starts from nothing.
    Raises `DataError` for vectors that are not finite; shards finished before stay.
    """
    config = config or EncodeConfig()
    folder = Path(path)
    if not len(catalog):
        raise DataError("the catalog has no items, so there is nothing to encode")
    with joined_workers() as workers:
        if workers.rank == 0:
            _prepare_folder(folder, _plan(catalog, encoder, config), overwrite=overwrite)
        workers.barrier()
        if (folder / MANIFEST).is_file():
            return EmbeddingStore.open(folder)
        _require_plan(folder, _plan(catalog, encoder, config))
        layout = ShardLayout(num_items=len(catalog), shard_rows=config.shard_rows)
        job = _Job(catalog, encoder, folder, config, layout, Duplicates(catalog.texts))
        _encode_shards(job, workers)
        workers.barrier()
        _copy_duplicates(job, workers)
        workers.barrier()
        if workers.rank == 0:
            _seal(job)
        workers.barrier()
        return EmbeddingStore.open(folder)


def _plan(catalog: Catalog, encoder: TextEncoder, config: EncodeConfig) -> dict[str, Plain]:
    """Everything the bytes of the store depend on."""
    return {
        "layout": {"num_items": len(catalog), "shard_rows": config.shard_rows},
        "inputs": {"catalog": catalog.fingerprint, "encoder": encoder.fingerprint()},
        "batches": {"tokens_per_batch": _budget(encoder, config), "texts_per_batch": config.texts_per_batch},
        "environment": dict(encoder.environment()),
    }


def _budget(encoder: TextEncoder, config: EncodeConfig) -> int:
    return config.tokens_per_batch or encoder.tokens_per_batch


def _prepare_folder(folder: Path, plan: dict[str, Plain], *, overwrite: bool) -> None:
    """Leave a finished store of this plan, or a folder with this plan and no stray files of a killed run."""
    if (folder / MANIFEST).is_file():
        differences = _differences(_plan_of(read_manifest(folder, KIND)), plan, skip="environment")
        if not differences and not overwrite:
            _remove([*folder.glob("draft-*"), *_strays(folder)], folder / PLAN)
            return
        if not overwrite:
            raise ArtifactError(
                f"{folder} holds a finished store made otherwise ({'; '.join(differences)}); "
                "choose another folder, or pass --overwrite"
            )
    ours = (folder / PLAN).is_file() or (folder / MANIFEST).is_file()
    if folder.exists() and not ours and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty and holds no embedding store; choose another folder")
    if overwrite and folder.exists():
        if (folder / MANIFEST).is_file():
            read_manifest(folder, KIND)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove(_strays(folder))
    if not (folder / PLAN).is_file():
        write_json(folder / PLAN, plan)


def _require_plan(folder: Path, plan: dict[str, Plain]) -> None:
    begun = read_json(folder / PLAN)
    if not isinstance(begun, dict):
        raise ArtifactError(f"{folder / PLAN} is damaged; encode again with --overwrite")
    differences = _differences(begun, plan)
    if differences:
        raise ArtifactError(
            f"{folder} is half finished and was begun otherwise, so going on would mix vectors: "
            f"{'; '.join(differences)}. Use the same settings, or pass --overwrite to encode from the start"
        )


def _plan_of(manifest: Manifest) -> dict[str, Plain]:
    """The plan that a finished store was made by."""
    details = manifest.details
    layout: dict[str, Plain] = {"num_items": details.get("num_items"), "shard_rows": details.get("shard_rows")}
    inputs: dict[str, Plain] = dict(manifest.inputs)
    return {"layout": layout, "inputs": inputs, "batches": details.get("batches")}


def _differences(there: dict[str, Plain], here: dict[str, Plain], *, skip: str = "") -> list[str]:
    """``threads: 1 there, 2 here`` for each setting that differs."""
    found = []
    for part, value in here.items():
        other = there.get(part)
        old = other if isinstance(other, dict) else {}
        new = value if isinstance(value, dict) else {}
        names = [] if part == skip else list(dict.fromkeys([*new, *old]))
        found += [f"{n}: {old.get(n)} there, {new.get(n)} here" for n in names if old.get(n) != new.get(n)]
    return found


def _encode_shards(job: _Job, workers: Workers) -> None:
    """Step 1. The next shard is tokenised in a thread while this one is computed."""
    mine = range(workers.rank, job.layout.num_shards, workers.size)
    missing = [s for s in mine if not (shard_path(job.folder, s).is_file() or draft_path(job.folder, s).is_file())]
    rows = sum(stop - start for start, stop in map(job.layout.bounds, missing))
    with progress("encoding texts", rows) as advance, ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(_read, job, missing[0]) if missing else None
        for following in [*missing[1:], None]:
            if ahead is None:
                break
            texts = ahead.result()
            ahead = None if following is None else pool.submit(_read, job, following)
            _encode_shard(job, texts, advance)


def _read(job: _Job, shard: int) -> _Texts:
    start, stop = job.layout.bounds(shard)
    texts = job.catalog.texts[start:stop]
    sources = job.duplicates.sources(start, stop)
    empty = _blank(texts)
    own = np.flatnonzero((sources == np.arange(start, stop)) & ~empty)
    tokens = job.encoder.tokenize([texts[position] for position in own.tolist()])
    return _Texts(shard=shard, sources=sources, empty=empty, own=own, tokens=tokens)


def _blank(texts: Sequence[str]) -> Bool[np.ndarray, "rows"]:
    return np.fromiter((not text.strip() for text in texts), dtype=bool, count=len(texts))


def _encode_shard(job: _Job, texts: _Texts, advance: Callable[[int], None]) -> None:
    start, stop = job.layout.bounds(texts.shard)
    vectors = np.zeros((stop - start, job.encoder.dim), dtype=np.float32)
    batches = token_batches(texts.tokens.lengths, _budget(job.encoder, job.config), job.config.texts_per_batch)
    vectors[texts.own] = job.encoder.encode_tokens(texts.tokens, _counted(batches, advance))
    bad = _handle_non_finite(job, vectors, start)
    copied = ~texts.empty & (texts.sources != np.arange(start, stop))
    inside = copied & (texts.sources >= start)
    vectors[inside] = vectors[texts.sources[inside] - start]
    final = bool((inside == copied).all())
    write_shard(
        shard_path(job.folder, texts.shard) if final else draft_path(job.folder, texts.shard),
        vectors,
        encoded=len(texts.own),
        duplicates=int(copied.sum()),
        empty_texts=int(texts.empty.sum()),
        non_finite=bad,
    )
    advance(stop - start - len(texts.own))


def _counted(batches: Sequence[np.ndarray], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    for batch in batches:
        yield batch
        advance(len(batch))


def _handle_non_finite(job: _Job, vectors: Float32[np.ndarray, "rows dim"], start: int) -> int:
    """How many vectors were not finite, now zero; or the error that names them."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad) and job.config.non_finite == "error":
        shown = [f"row {1 + start + b}: {job.catalog.texts[start + b][:60]!r}" for b in bad[:3].tolist()]
        raise DataError(
            f"the encoder gave vectors that are not finite for {len(bad)} texts ({', '.join(shown)}"
            f"{', ...' if len(bad) > 3 else ''}); finished shards are kept. Encode with dtype float32, mend the texts, "
            "or set non_finite to 'zero' and run again to go on with zero vectors for them"
        )
    vectors[bad] = 0.0
    return len(bad)


def _copy_duplicates(job: _Job, workers: Workers) -> None:
    """Step 2: the drafts of this process become shards."""
    reader = ShardReader(job.folder)
    for shard in range(workers.rank, job.layout.num_shards, workers.size):
        if shard_path(job.folder, shard).is_file():
            continue
        start, stop = job.layout.bounds(shard)
        sources = job.duplicates.sources(start, stop)
        vectors = np.array(read_shard(draft_path(job.folder, shard)))
        empty = _blank(job.catalog.texts[start:stop])
        copied = np.flatnonzero((sources != np.arange(start, stop)) & ~empty)
        gather(vectors, copied, sources[copied], job.layout, reader)
        facts = read_facts(draft_path(job.folder, shard))
        write_shard(
            shard_path(job.folder, shard),
            vectors,
            encoded=facts.encoded,
            duplicates=len(copied),
            empty_texts=facts.empty_texts,
            non_finite=facts.non_finite,
        )


def _seal(job: _Job) -> None:
    plan = _plan(job.catalog, job.encoder, job.config)
    inputs = {"catalog": job.catalog.fingerprint, "encoder": job.encoder.fingerprint()}
    details: dict[str, Plain] = {"batches": plan["batches"], "environment": plan["environment"]}
    seal(job.folder, job.layout, job.encoder.dim, inputs=inputs, details=details)
    _remove(job.folder.glob("draft-*"), job.folder / PLAN)


def _strays(folder: Path) -> list[Path]:
    """Half-written files of a killed run: ours, and those that safetensors writes and renames itself."""
    return [*folder.glob(".*.partial-*"), *folder.glob(".tmp*")]


def _remove(files: Iterable[Path], *more: Path) -> None:
    for file in [*files, *more]:
        file.unlink(missing_ok=True)
