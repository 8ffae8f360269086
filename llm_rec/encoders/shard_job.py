"""The steps of an encode job: which texts a shard owns, its vectors, copies of duplicates, the manifest at the end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int64

from llm_rec.data.catalog import Catalog
from llm_rec.encoders.duplicates import Duplicates
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.tokens import TokenRows, token_batches
from llm_rec.errors import DataError
from llm_rec.store import (
    ShardLayout,
    ShardReader,
    draft_path,
    gather,
    read_facts,
    read_shard,
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
class ShardJob:
    """A catalog on its way into the store in `folder`."""

    catalog: Catalog
    folder: Path
    config: EncodeConfig
    layout: ShardLayout
    duplicates: Duplicates

    @classmethod
    def of(cls, catalog: Catalog, folder: Path, config: EncodeConfig) -> "ShardJob":
        layout = ShardLayout(num_items=len(catalog), shard_rows=config.shard_rows)
        return cls(catalog, folder, config, layout, Duplicates(catalog.texts))

    def missing(self, shards: range) -> list[int]:
        """Those of `shards` of which there is neither a shard nor a draft yet."""
        return [s for s in shards if not (shard_path(self.folder, s).is_file() or draft_path(self.folder, s).is_file())]

    def rows(self, shards: Sequence[int]) -> int:
        """Items in `shards`."""
        return sum(stop - start for start, stop in map(self.layout.bounds, shards))


@dataclass(frozen=True, eq=False)
class ShardTexts:
    """One shard before it is encoded: where each vector comes from, and the tokens of the texts that the shard owns."""

    shard: int
    sources: Int64[np.ndarray, "rows"]
    empty: Bool[np.ndarray, "rows"]
    own: Int64[np.ndarray, "own"]
    tokens: TokenRows


def batch_tokens(encoder: TextEncoder, config: EncodeConfig) -> int:
    """Tokens of a batch: those of the config, else what suits the encoder."""
    return config.tokens_per_batch or encoder.tokens_per_batch


def read_texts(job: ShardJob, encoder: TextEncoder, shard: int) -> ShardTexts:
    """The texts that `shard` owns, tokenised."""
    start, stop = job.layout.bounds(shard)
    texts = job.catalog.texts[start:stop]
    sources = job.duplicates.sources(start, stop)
    empty = _blank(texts)
    own = np.flatnonzero((sources == np.arange(start, stop)) & ~empty)
    tokens = encoder.tokenize([texts[position] for position in own.tolist()])
    return ShardTexts(shard=shard, sources=sources, empty=empty, own=own, tokens=tokens)


def _blank(texts: Sequence[str]) -> Bool[np.ndarray, "rows"]:
    return np.fromiter((not text.strip() for text in texts), dtype=bool, count=len(texts))


def encode_shard(
    job: ShardJob, encoder: TextEncoder, texts: ShardTexts, advance: Callable[[int], None] = lambda rows: None
) -> None:
    """Write the shard, or its draft where it waits for texts of others; `advance` is told of items as they are done."""
    start, stop = job.layout.bounds(texts.shard)
    vectors = np.zeros((stop - start, encoder.dim), dtype=np.float32)
    batches = token_batches(texts.tokens.lengths, batch_tokens(encoder, job.config), job.config.texts_per_batch)
    vectors[texts.own] = encoder.encode_tokens(texts.tokens, _counted(batches, advance))
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


def _handle_non_finite(job: ShardJob, vectors: Float32[np.ndarray, "rows dim"], start: int) -> int:
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


def copy_duplicates(job: ShardJob, shards: range) -> None:
    """Drafts among `shards` become shards."""
    reader = ShardReader(job.folder)
    for shard in shards:
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
