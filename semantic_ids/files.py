"""One artefact, one file: safetensors with a JSON header, written atomically. Loading executes nothing."""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Plain: TypeAlias = bool | int | float | str | Sequence[object] | Mapping[str, object] | None
"""What JSON holds."""

FORMAT_VERSION = 1
_HEADER = "semantic_ids"


def write_tensors(
    path: Path, kind: str, tensors: Mapping[str, Tensor | np.ndarray], header: Mapping[str, Plain]
) -> None:
    """Write `tensors` and `header` to the file `path`: temporary name, flush, rename.

    Equal contents give equal bytes, so a file's hash names what is in it.
    """
    text = json.dumps({"kind": kind, "format_version": FORMAT_VERSION, **header}, sort_keys=True, allow_nan=False)
    dense = {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # save_file writes for the owner alone, whatever the umask says
        save_file(dense, partial, metadata={_HEADER: text})
        partial.chmod(mode)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """Tensors and header of the file `path`; `ValueError` when it is not a `kind` that this library can read.

    Tensors are private maps of the file: its pages are read as they are used, and no change reaches the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no {kind} here (the file does not exist)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error}); the file is damaged or something else") from error
    if _HEADER not in metadata:
        raise ValueError(f"{path}: a safetensors file, but not one of this library (no {_HEADER!r} header)")
    header: dict[str, Plain] = json.loads(metadata[_HEADER])
    found, version = header.pop("kind"), header.pop("format_version")
    if found != kind:
        raise ValueError(f"{path} holds a {found}, not a {kind}")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version}, this library reads up to {FORMAT_VERSION}; upgrade it")
    return tensors, header
