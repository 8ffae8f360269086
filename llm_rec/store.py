"""Embedding stores: one float32 vector per catalog item, in shards of fixed row ranges, read through memory maps.

A store is a folder: ``shard-00000.safetensors`` holds items 1..shard_rows, the next shard the next range, and
``manifest.json`` is written last, so a folder without it is a store that is still being filled. Row 0 is padding and is
in no file.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from llm_rec.artifacts import Manifest, fingerprint, read_json, read_manifest, replacing, write_manifest
from llm_rec.codec import Plain, from_plain
from llm_rec.errors import ArtifactError

KIND = "embeddings"
PLAN = "plan.json"
TENSOR = "vectors"
FACTS = "facts"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardLayout:
    """How N items lie in shards: shard s holds items `1 + s * shard_rows` and on, the last shard the rest."""

    num_items: int
    shard_rows: int

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise ValueError(f"shard_rows must be at least 1, got {self.shard_rows}")

    @property
    def num_shards(self) -> int:
        return -(-self.num_items // self.shard_rows)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Zero-based range of catalog positions (item row - 1) of a shard: first, one past the last.

        >>> ShardLayout(num_items=10, shard_rows=4).bounds(2)
        (8, 10)
        """
        return shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.num_items)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFacts:
    """What was counted while a shard was made; it stands in the shard's own header."""

    encoded: int
    duplicates: int
    empty_texts: int
    zero_norm: int
    non_finite: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreReport:
    """What is in a store. Every item is in exactly one of the first three counts.

    encoded: texts that went through the encoder (each distinct text once); duplicates: items that share the vector of
    an earlier item with the same text; empty_texts: items without text, whose vector is zero. zero_norm: items with a
    text and yet a zero vector; non_finite: encoded texts whose vector was NaN or infinite and was set to zero.
    """

    encoded: int
    duplicates: int
    empty_texts: int
    zero_norm: int
    non_finite: int


def shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard-{shard:05d}.safetensors"


def draft_path(folder: Path, shard: int) -> Path:
    """A shard in which the vectors copied from other shards are still zero."""
    return folder / f"draft-{shard:05d}.safetensors"


def write_shard(
    path: Path,
    vectors: Float32[np.ndarray, "rows dim"],
    *,
    encoded: int = 0,
    duplicates: int = 0,
    empty_texts: int = 0,
    non_finite: int = 0,
) -> None:
    """Write one shard atomically, items without text (`empty_texts`) being zero rows.

    Equal arguments give equal bytes: safetensors shuffles metadata, so the header has a single key.
    """
    from safetensors.numpy import save_file

    vectors = np.ascontiguousarray(vectors)
    facts: dict[str, Plain] = {
        "encoded": encoded,
        "duplicates": duplicates,
        "empty_texts": empty_texts,
        "zero_norm": len(vectors) - int(vectors.any(axis=1).sum()) - empty_texts,
        "non_finite": non_finite,
        "sha256": hashlib.sha256(vectors.data).hexdigest(),
    }
    with replacing(path) as partial:
        save_file({TENSOR: vectors}, partial, metadata={FACTS: json.dumps(facts, sort_keys=True)})


def read_shard(path: Path) -> Float32[np.ndarray, "rows dim"]:
    """The vectors of one shard, memory-mapped and read-only."""
    header, start = _header(path)
    entry = header.get(TENSOR)
    if not isinstance(entry, dict) or entry.get("dtype") != "F32":
        raise ArtifactError(f"{path} holds no float32 tensor named {TENSOR!r}; it is not a shard of an embedding store")
    rows, dim = entry["shape"]
    first, last = entry["data_offsets"]
    if path.stat().st_size < start + last:
        raise ArtifactError(f"{path} is shorter than its header says; the file is damaged, encode again")
    if first == last:
        return np.zeros((rows, dim), dtype=np.float32)
    return np.memmap(path, dtype="<f4", mode="r", offset=start + first, shape=(rows, dim))


def read_facts(path: Path) -> ShardFacts:
    """The counts in a shard's header."""
    header, _ = _header(path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or FACTS not in metadata:
        raise ArtifactError(f"{path} has no {FACTS!r} in its header; it is not a shard of an embedding store")
    return from_plain(ShardFacts, json.loads(metadata[FACTS]))


def _header(path: Path) -> tuple[dict[str, object], int]:
    """The JSON header of a safetensors file and the offset of its data (8 bytes of length, JSON, data)."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                raise ArtifactError(f"{path} is not a safetensors file or is damaged; encode again")
            return json.loads(file.read(length)), 8 + length
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; the store is damaged, encode again with overwrite") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not a safetensors file or is damaged; encode again") from error


def seal(
    folder: Path, layout: ShardLayout, dim: int, *, inputs: Mapping[str, str], details: Mapping[str, Plain]
) -> None:
    """Write the manifest of a folder whose shards are all there. The store's fingerprint is that of its vectors."""
    manifest = manifest_of(folder, layout, dim, inputs=inputs, details=details)
    write_manifest(folder, manifest)


def manifest_of(
    folder: Path, layout: ShardLayout, dim: int, *, inputs: Mapping[str, str], details: Mapping[str, Plain]
) -> Manifest:
    """The manifest of the shards in `folder`: counts added up, fingerprint over every shard's SHA-256."""
    facts = [read_facts(shard_path(folder, shard)) for shard in range(layout.num_shards)]
    report: dict[str, Plain] = {
        "encoded": sum(f.encoded for f in facts),
        "duplicates": sum(f.duplicates for f in facts),
        "empty_texts": sum(f.empty_texts for f in facts),
        "zero_norm": sum(f.zero_norm for f in facts),
        "non_finite": sum(f.non_finite for f in facts),
    }
    shape: dict[str, Plain] = {"num_items": layout.num_items, "dim": dim, "shard_rows": layout.shard_rows}
    return Manifest(
        kind=KIND,
        fingerprint=fingerprint(KIND, shape, *(f.sha256 for f in facts)),
        inputs=dict(inputs),
        details={**shape, "report": report, **details},
    )


class EmbeddingStore:
    """A finished store, opened for reading: `rows`, `all` and `shards` give float32 vectors; row 0 is zero."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.layout = ShardLayout(num_items=self._number("num_items"), shard_rows=self._number("shard_rows"))

    @classmethod
    def open(cls, path: Path | str) -> "EmbeddingStore":
        """Open the store at `path`; `ArtifactError` when there is none, it is half finished, or a shard is missing."""
        path = Path(path)
        if (path / PLAN).is_file() and not (path / "manifest.json").is_file():
            raise ArtifactError(_unfinished(path))
        store = cls(path, read_manifest(path, KIND))
        for shard in range(store.layout.num_shards):
            if not shard_path(path, shard).is_file():
                raise ArtifactError(f"{shard_path(path, shard)} is missing; encode again with overwrite")
        return store

    def _number(self, name: str) -> int:
        value = self.manifest.details.get(name)
        if not isinstance(value, int):
            raise ArtifactError(f"{self.path}: the manifest says no {name}; encode again with overwrite")
        return value

    @property
    def dim(self) -> int:
        return self._number("dim")

    @property
    def num_items(self) -> int:
        return self.layout.num_items

    @property
    def fingerprint(self) -> str:
        """Changes with any byte of any vector."""
        return self.manifest.fingerprint

    @cached_property
    def report(self) -> StoreReport:
        return from_plain(StoreReport, self.manifest.details["report"])

    def shard(self, shard: int) -> Float32[np.ndarray, "rows dim"]:
        """Vectors of one shard, memory-mapped."""
        return read_shard(shard_path(self.path, shard))

    def shards(self) -> Iterator[Float32[np.ndarray, "rows dim"]]:
        """Vectors of items 1..N in order, one memory-mapped shard after the other: flat memory for any catalog."""
        return (self.shard(shard) for shard in range(self.layout.num_shards))

    def all(self) -> Float32[np.ndarray, "items_plus_one dim"]:
        """All vectors in memory, row 0 zero."""
        vectors = np.zeros((self.num_items + 1, self.dim), dtype=np.float32)
        for shard, part in enumerate(self.shards()):
            first, last = self.layout.bounds(shard)
            vectors[1 + first : 1 + last] = part
        return vectors

    def rows(self, rows: Int64[np.ndarray, "rows"]) -> Float32[np.ndarray, "rows dim"]:
        """Vectors of item rows (0..N) in the given order; only the pages that hold them are read."""
        wrong = rows[(rows < 0) | (rows > self.num_items)]
        if len(wrong):
            raise ArtifactError(f"item row {wrong[0]} is not in this store of {self.num_items} items (rows 0 to N)")
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        wanted = np.flatnonzero(rows)
        gather(vectors, wanted, rows[wanted] - 1, self.layout, self.shard)
        return vectors

    def verify(self) -> None:
        """Read everything and raise `ArtifactError` naming the shards whose vectors are not what was written."""
        damaged = [
            shard_path(self.path, shard).name
            for shard in range(self.layout.num_shards)
            if hashlib.sha256(self.shard(shard).tobytes()).hexdigest()
            != read_facts(shard_path(self.path, shard)).sha256
        ]
        if damaged:
            raise ArtifactError(f"{self.path}: damaged shards: {', '.join(damaged)}; encode again with overwrite")


class ShardReader:
    """Opens shards of a folder that is being filled; a draft stands in for a shard that is not finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, shard: int) -> Float32[np.ndarray, "rows dim"]:
        final = shard_path(self.folder, shard)
        return read_shard(final if final.is_file() else draft_path(self.folder, shard))


def gather(
    into: Float32[np.ndarray, "rows dim"],
    slots: Int64[np.ndarray, "wanted"],
    positions: Int64[np.ndarray, "wanted"],
    layout: ShardLayout,
    open_shard: Callable[[int], np.ndarray],
) -> None:
    """`into[slots[i]] = vector of catalog position positions[i]`, one visit to each shard that is needed."""
    if not len(positions):
        return
    order = np.argsort(positions, kind="stable")
    owners = positions[order] // layout.shard_rows
    shards, starts = np.unique(owners, return_index=True)
    for shard, part in zip(shards.tolist(), np.split(order, starts[1:]), strict=True):
        into[slots[part]] = open_shard(shard)[positions[part] - shard * layout.shard_rows]


def _unfinished(path: Path) -> str:
    plan = from_plain(ShardLayout, _layout_of(read_json(path / PLAN), path))
    here = sum(shard_path(path, shard).is_file() or draft_path(path, shard).is_file() for shard in _all(plan))
    return (
        f"{path} is half finished: {here} of {plan.num_shards} shards are there; "
        "run the same encode command again and it goes on from here"
    )


def _all(layout: ShardLayout) -> range:
    return range(layout.num_shards)


def _layout_of(plan: Plain, path: Path) -> Plain:
    if not isinstance(plan, dict) or "layout" not in plan:
        raise ArtifactError(f"{path / PLAN} is not the plan of an embedding store; encode again with overwrite")
    return plan["layout"]
