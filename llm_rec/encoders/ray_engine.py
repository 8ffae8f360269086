"""Encode a catalog with Ray Data: one actor for each GPU of a cluster, or several on CPUs, into the same store.

Work is the same as in `llm_rec.encoders.catalog`, and so are the files: shards are rows of a Ray dataset, actors hold
the encoder and the catalog, which they read from its parquet file, and write finished shards into the store's folder.
The plan's facts about the encoder come from an actor's machine, so the driver needs neither a GPU nor the model. A job
that was killed goes on by either engine where encoder, torch, threads and device are equal.

The catalog and the store's folder must be paths that all machines of the cluster see, and llm-rec and the model must be
there. The driver copies duplicates and writes the manifest.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

from llm_rec.artifacts import MANIFEST
from llm_rec.data.catalog import Catalog
from llm_rec.encoders.build import EncoderConfig, build_encoder
from llm_rec.encoders.encode_plan import EncoderFacts, encode_plan, prepare_folder, require_plan, seal_store
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.shard_job import EncodeConfig, ShardJob, copy_duplicates, encode_shard, read_texts
from llm_rec.errors import ArtifactError, ConfigError, DataError, LlmRecError
from llm_rec.progress import progress
from llm_rec.store import EmbeddingStore

_ERRORS: dict[str, type[LlmRecError]] = {kind.__name__: kind for kind in (ArtifactError, ConfigError, DataError)}
_SHARD, _ROWS, _KIND, _ERROR = "shard", "rows", "kind", "error"


@dataclass(frozen=True, kw_only=True, slots=True)
class RayConfig:
    """`workers` None: one for each GPU of the cluster, or without GPUs one for every `threads` CPUs. `threads` is how
    many a worker computes with. `address` is that of a running cluster; None starts Ray on this machine alone.
    """

    workers: int | None = None
    threads: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")


class Pool(NamedTuple):
    """So many workers, with or without a GPU each."""

    workers: int
    gpus: int


def encode_catalog_on_ray(
    catalog: Path,
    encoder: EncoderConfig,
    path: Path | str,
    config: EncodeConfig | None = None,
    ray_config: RayConfig | None = None,
    *,
    overwrite: bool = False,
) -> EmbeddingStore:
    """`encode_catalog` of the saved catalog in the folder `catalog`, by the workers of a Ray cluster.

    Raises what that raises, and `ConfigError` where Ray is not installed, where a cluster lacks the workers asked for,
    and under torchrun.
    """
    config, ray_config = config or EncodeConfig(), ray_config or RayConfig()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("engine ray starts its own workers; start it as one process, without torchrun")
    ray = _ray()
    catalog, folder, items = catalog.resolve(), Path(path).resolve(), Catalog.load(catalog)
    if not len(items):
        raise DataError("the catalog has no items, so there is nothing to encode")
    with _cluster(ray, ray_config):
        pool = worker_pool(ray.cluster_resources(), ray_config)
        task = ray.remote(num_cpus=ray_config.threads, num_gpus=pool.gpus)(_describe)
        facts = ray.get(task.remote(encoder, config, ray_config.threads, pool.gpus))
        if isinstance(facts, tuple):
            raise _ERRORS[facts[0]](facts[1])
        plan = encode_plan(items, facts, config)
        prepare_folder(folder, plan, overwrite=overwrite)
        if (folder / MANIFEST).is_file():
            return EmbeddingStore.open(folder)
        require_plan(folder, plan)
        job = ShardJob.of(items, folder, config)
        _encode_shards(ray, job, ShardWorker(catalog, encoder, folder, config, ray_config.threads, pool.gpus), pool)
    copy_duplicates(job, range(job.layout.num_shards))
    seal_store(folder, items, facts, config)
    return EmbeddingStore.open(folder)


def worker_pool(resources: dict[str, float], config: RayConfig) -> Pool:
    """Workers that a cluster of `resources` has room for.

    >>> worker_pool({"CPU": 16.0, "GPU": 2.0}, RayConfig()), worker_pool({"CPU": 16.0}, RayConfig(threads=4))
    (Pool(workers=2, gpus=1), Pool(workers=4, gpus=0))
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    room = min(gpus, cpus // config.threads) if gpus else cpus // config.threads
    workers = config.workers or room
    if not 1 <= workers <= room:
        raise ConfigError(
            f"{config.workers or 1} workers of {config.threads} threads{' and a GPU' if gpus else ''} are asked for, "
            f"but the cluster has {cpus} CPUs and {gpus} GPUs, room for {room}; ask for fewer"
        )
    return Pool(workers, 1 if gpus else 0)


def _encode_shards(ray: ModuleType, job: ShardJob, worker: "ShardWorker", pool: Pool) -> None:
    """Every missing shard by one of the workers; the first error that one of them met is raised here."""
    missing = job.missing(range(job.layout.num_shards))
    if not missing:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    workers = min(pool.workers, len(missing))
    rows = ray.data.from_items([{_SHARD: shard} for shard in missing], override_num_blocks=len(missing))
    done = rows.map_batches(
        ShardActor,
        fn_constructor_args=(worker,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=worker.threads,
        num_gpus=pool.gpus,
    )
    with progress("encoding texts", job.rows(missing)) as advance:
        for row in done.iter_rows():
            if row[_ERROR]:
                raise _ERRORS[row[_KIND]](row[_ERROR])
            advance(int(row[_ROWS]))


@dataclass(frozen=True)
class ShardWorker:
    """What an actor encodes shards with; catalog and encoder are opened where they are first used.

    Errors that a user can repair come back as values, as Ray would wrap them in its own.
    """

    catalog: Path
    encoder: EncoderConfig
    folder: Path
    config: EncodeConfig
    threads: int
    gpus: int

    def encode(self, opened: "_Opened", shard: int) -> int:
        """The shard's file, and its number of items."""
        encode_shard(opened.job, opened.encoder, read_texts(opened.job, opened.encoder, shard))
        return opened.job.rows([shard])


class _Opened(NamedTuple):
    job: ShardJob
    encoder: TextEncoder


class ShardActor:
    """A `ShardWorker` as Ray Data calls it: a batch of one shard in, a row of what came of it out."""

    def __init__(self, worker: ShardWorker) -> None:
        self.worker = worker

    @cached_property
    def opened(self) -> _Opened:
        """The job as this process sees it; `ArtifactError` on a machine whose encoder is not that of the plan."""
        worker = self.worker
        encoder = _encoder(worker.encoder, worker.threads, worker.gpus)
        catalog = Catalog.load(worker.catalog)
        require_plan(worker.folder, encode_plan(catalog, EncoderFacts.of(encoder, worker.config), worker.config))
        return _Opened(ShardJob.of(catalog, worker.folder, worker.config), encoder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[int] | list[str]]:
        shard = int(batch[_SHARD][0])
        try:
            rows, kind, error = self.worker.encode(self.opened, shard), "", ""
        except (ArtifactError, ConfigError, DataError) as found:
            rows, kind, error = 0, type(found).__name__, str(found)
        return {_SHARD: [shard], _ROWS: [rows], _KIND: [kind], _ERROR: [error]}


def _describe(
    encoder: EncoderConfig, config: EncodeConfig, threads: int, gpus: int
) -> "EncoderFacts | tuple[str, str]":
    """The facts of an encoder, on a worker; or kind and text of the error that building it met."""
    try:
        return EncoderFacts.of(_encoder(encoder, threads, gpus), config)
    except (ArtifactError, ConfigError, DataError) as error:
        return type(error).__name__, str(error)


def _encoder(config: EncoderConfig, threads: int, gpus: int) -> TextEncoder:
    torch.set_num_threads(threads)
    return build_encoder(config, "cuda" if gpus else "cpu")


def _ray() -> ModuleType:
    try:
        import_module("ray.data")
        return import_module("ray")
    except ImportError as error:
        raise ConfigError("engine ray needs Ray Data; pip install 'llm-rec[ray]'") from error


@contextmanager
def _cluster(ray: ModuleType, config: RayConfig) -> Iterator[None]:
    """A cluster that this process has joined already is used and left as it is."""
    if ray.is_initialized():
        yield
        return
    local = {} if config.address else {"num_cpus": _local_cpus(config), "include_dashboard": False}
    ray.init(address=config.address or "local", log_to_driver=False, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _local_cpus(config: RayConfig) -> int:
    """CPUs that Ray counts with on this machine: enough for what is asked, as threads may be more than cores."""
    return max(os.cpu_count() or 1, (config.workers or 1) * config.threads)
