"""Artefacts: folders that are whole or absent, each with a ``manifest.json``: what it is, from what.

Everything is written under a temporary name beside its destination, flushed to the disk, then renamed, so that
no reader ever sees half an artefact, whenever the run was killed. Loading executes nothing: JSON, parquet, safetensors.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import llm_rec
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What an artefact is: its kind, its own fingerprint, the fingerprints of its inputs, and free details (JSON)."""

    kind: str
    fingerprint: str
    inputs: dict[str, str] = field(default_factory=dict)
    details: dict[str, Plain] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    library_version: str = llm_rec.__version__
    created: str = ""

    def require_input(self, name: str, fingerprint: str, *, where: Path) -> None:
        """Raise `ArtifactError` naming both sides unless this artefact was made from input `name` = `fingerprint`."""
        made_from = self.inputs.get(name)
        if made_from != fingerprint:
            raise ArtifactError(
                f"{where} was made from {name} {made_from}, but the {name} given here is {fingerprint}; "
                f"use the same {name}, or build this {self.kind} again"
            )


def fingerprint(*parts: bytes | str | Mapping[str, object] | None) -> str:
    """Short, stable name of a content: 16 hex digits of the SHA-256 over the parts with their lengths.

    >>> fingerprint("a", "bc") != fingerprint("ab", "c")
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            raw = part
        else:
            raw = part.encode() if isinstance(part, str) else canonical_json(part)
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:16]


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    compact = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return compact.encode()


@contextmanager
def write_artifact(
    path: Path,
    *,
    kind: str,
    fingerprint: str,
    inputs: Mapping[str, str] | None = None,
    details: Mapping[str, Plain] | None = None,
    overwrite: bool = False,
) -> Iterator[Path]:
    """Yield an empty temporary folder; when the block ends without an error it becomes the artefact at `path`.

    Raises `ArtifactError` when `path` exists and `overwrite` is off, before any work is done.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} already exists; remove it, choose another folder, or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    partial.mkdir()
    try:
        yield partial
        manifest = Manifest(
            kind=kind,
            fingerprint=fingerprint,
            inputs=dict(inputs or {}),
            details=dict(details or {}),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(partial / MANIFEST, to_plain(manifest))
        _flush_tree(partial)
        _replace_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder that fills up step by step (embedding stores, runs)."""
    write_json(path / MANIFEST, to_plain(manifest))


def read_manifest(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of the artefact at `path`; `ArtifactError` when there is none, or it is not of `kind`."""
    path = Path(path)
    if not (path / MANIFEST).is_file():
        what = f"no {kind}" if kind else "no artefact"
        why = "it has no manifest.json" if path.exists() else "the folder does not exist"
        raise ArtifactError(f"{path}: {what} here ({why})")
    try:
        manifest = from_plain(Manifest, read_json(path / MANIFEST))
    except ConfigError as error:
        raise ArtifactError(f"{path / MANIFEST}: {error}") from error
    if manifest.format_version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {manifest.format_version}, this library reads up to {FORMAT_VERSION}; "
            "upgrade llm-rec"
        )
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{path} holds a {manifest.kind}, not a {kind}")
    return manifest


def read_json(path: Path) -> Plain:
    """The JSON value in `path`; `ArtifactError` when the file is not JSON."""
    try:
        value: Plain = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path}: not JSON ({error}); the file is damaged") from error
    return value


def write_json(path: Path, value: object, *, indent: Literal[2] | None = 2) -> None:
    """Write a JSON value atomically."""
    write_bytes(path, json.dumps(to_plain(value), indent=indent, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary name, flush, rename."""
    with replacing(Path(path)) as partial:
        partial.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name; when the block ends without an error the file is flushed and renamed to `path`."""
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _replace_folder(partial: Path, path: Path) -> None:
    """Rename over `path`. An older folder steps aside first, so a kill in between leaves one of the two whole."""
    old = path.parent / f".{path.name}.old-{uuid.uuid4().hex[:8]}"
    if path.exists():
        path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    _flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _flush_tree(folder: Path) -> None:
    for item in sorted(folder.rglob("*")):
        _flush(item)
    _flush(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
