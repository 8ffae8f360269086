"""What every quantiser can do, whatever is behind it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.vectors import Vectors

Progress: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
"""Called with (steps done, steps in all, figures so far)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitLog:
    """What a fit did: its steps, and the figures noted on the way (each with its ``step``).

    A fit that was interrupted and went on gives the same log as one that was not; `seconds` counts the last process
    only.
    """

    steps: int
    history: tuple[dict[str, float], ...] = ()
    seconds: float = field(default=0.0, compare=False)


@runtime_checkable
class Quantizer(Protocol):
    """Vectors -> codes -> vectors. `encode`, `decode` and `save` need a fit (or a loaded file) first."""

    @property
    def input_dim(self) -> int: ...

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each book (or residual level)."""
        ...

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        """Learn the codebooks from all rows. With `checkpoint`, a killed fit goes on from that file bit-exactly.

        The file stays after the last step, so that a rerun ends at once; it belongs to one config, seed and data, and
        anything else is a `ValueError`.
        """
        ...

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        """Codes 0..size-1 of each row; deterministic, in evaluation mode, a chunk at a time."""
        ...

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        """The vectors that codes stand for, in the space of the input."""
        ...

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        """Squared distance of each row to every code of the last book, given its `codes` before (collision
        resolution).
        """
        ...

    def save(self, path: Path) -> None:
        """Write config and weights to one safetensors file; `load_quantizer` reads it."""
        ...
