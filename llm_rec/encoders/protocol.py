"""What the rest of the toolkit knows of a text encoder."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from llm_rec.codec import Plain
from llm_rec.encoders.tokens import TokenRows


@runtime_checkable
class TextEncoder(Protocol):
    """Texts in, one float32 vector each out. Deterministic: equal batches of equal texts give equal bytes.

    Work is cut in two, so that the first half of the next texts can overlap the second half of these: `tokenize`
    touches no device and may run in another thread, `encode_tokens` computes. `encode` is both, in one batch.
    """

    @property
    def dim(self) -> int: ...

    @property
    def tokens_per_batch(self) -> int:
        """The token budget of a batch that suits this encoder on its device, when the caller names none."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the vectors would: weights, tokens, pooling, prefix, precision, normalisation."""
        ...

    def environment(self) -> Mapping[str, Plain]:
        """What else the last bits of the vectors depend on: library version, threads, device."""
        ...

    def tokenize(self, texts: Sequence[str]) -> TokenRows:
        """The units this encoder reads; their number is the cost of a text, for batches by token budget."""
        ...

    def encode_tokens(
        self, tokens: TokenRows, batches: Iterable[Int64[np.ndarray, "batch"]]
    ) -> Float32[np.ndarray, "texts dim"]:
        """Vectors of tokenised texts, one forward pass for each batch of row numbers; together they hold every row."""
        ...

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Vectors of a few texts, computed as one batch in the given order."""
        ...
