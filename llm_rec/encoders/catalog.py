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

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llm_rec.artifacts import MANIFEST
from llm_rec.data.catalog import Catalog
from llm_rec.encoders.encode_plan import EncoderFacts, encode_plan, prepare_folder, require_plan, seal_store
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.shard_job import EncodeConfig, ShardJob, copy_duplicates, encode_shard, read_texts
from llm_rec.encoders.workers import joined_workers
from llm_rec.errors import DataError
from llm_rec.progress import progress
from llm_rec.store import EmbeddingStore


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
        facts = EncoderFacts.of(encoder, config)
        plan = encode_plan(catalog, facts, config)
        if workers.rank == 0:
            prepare_folder(folder, plan, overwrite=overwrite)
        workers.barrier()
        if (folder / MANIFEST).is_file():
            return EmbeddingStore.open(folder)
        require_plan(folder, plan)
        job = ShardJob.of(catalog, folder, config)
        mine = range(workers.rank, job.layout.num_shards, workers.size)
        _encode_shards(job, encoder, mine)
        workers.barrier()
        copy_duplicates(job, mine)
        workers.barrier()
        if workers.rank == 0:
            seal_store(folder, catalog, facts, config)
        workers.barrier()
        return EmbeddingStore.open(folder)


def _encode_shards(job: ShardJob, encoder: TextEncoder, mine: range) -> None:
    """Step 1. The next shard is tokenised in a thread while this one is computed."""
    missing = job.missing(mine)
    with progress("encoding texts", job.rows(missing)) as advance, ThreadPoolExecutor(max_workers=1) as pool:
        ahead = pool.submit(read_texts, job, encoder, missing[0]) if missing else None
        for following in [*missing[1:], None]:
            if ahead is None:
                break
            texts = ahead.result()
            ahead = None if following is None else pool.submit(read_texts, job, encoder, following)
            encode_shard(job, encoder, texts, advance)
