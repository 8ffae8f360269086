"""What the rest of the toolkit knows of a text encoder."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from jaxtyping import Float32


class TextEncoder(Protocol):
    """Texts in, one float32 vector each out. Deterministic: equal batches of equal texts give equal bytes."""

    @property
    def dim(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes whenever the vectors would: weights, pooling, prefix, precision."""
        ...

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Cost of each text (its tokens), for batches by token budget."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Vectors of one batch, computed in one forward pass in the given order."""
        ...
