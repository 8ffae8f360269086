"""Interrupted fits go on bit-exactly: state on disk, and nothing random that is not a function of (seed, step)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from semantic_ids.files import Plain, read_tensors, write_tensors
from semantic_ids.vectors import Vectors, fingerprint

_KIND = "fit_checkpoint"
Begun: TypeAlias = tuple[dict[str, Tensor], dict[str, Plain]]
"""Tensors and notes of a fit that was interrupted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitCheckpoint:
    """The state of one fit (config, seed, data) in one file; with `path` None nothing is kept."""

    path: Path | None
    identity: dict[str, Plain]

    @classmethod
    def of(
        cls, path: Path | None, config: Mapping[str, Plain], vectors: Vectors, seed: int, device: str
    ) -> "FitCheckpoint":
        identity: dict[str, Plain] = {"config": dict(config), "seed": seed, "device": device}
        return cls(path=path, identity={**identity, "vectors": fingerprint(vectors)} if path is not None else identity)

    def load(self) -> Begun | None:
        """Tensors and notes of an earlier process, or None; `ValueError` when they belong to another fit."""
        if self.path is None or not Path(self.path).is_file():
            return None
        tensors, header = read_tensors(self.path, _KIND)
        notes = header.pop("notes")
        other = [name for name, value in self.identity.items() if header.get(name) != value]
        if other or not isinstance(notes, dict):
            name = other[0] if other else "notes"
            raise ValueError(
                f"{self.path} belongs to a fit with another {name} ({header.get(name)}, now "
                f"{self.identity.get(name)}); "
                "remove the file or name another checkpoint"
            )
        return tensors, notes

    def save(self, tensors: Mapping[str, Tensor], notes: Mapping[str, Plain]) -> None:
        if self.path is not None:
            write_tensors(Path(self.path), _KIND, tensors, {**self.identity, "notes": dict(notes)})
