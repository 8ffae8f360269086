"""The control: codes that carry no meaning, with exactly as many parameters downstream as codes that do."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.quantizers.protocol import FitLog, Progress
from semantic_ids.quantizers.saving import (
    QuantizerState,
    check_codes,
    check_sizes,
    encode_in_chunks,
    require_fitted,
    save_quantizer,
)
from semantic_ids.vectors import Vectors, check_vectors, chunks


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomConfig:
    """Each book is an independent hash of the vector's bits: equal vectors agree, close ones do not.

    Whatever a model gains from these codes is capacity, not semantics. They need no fit beyond the seed, do not
    depend on row order or batch, and new items never change old codes. `decode` gives the catalog mean: the codes
    know nothing more.
    """

    num_codebooks: int = 3
    codebook_size: int = 256

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)


class RandomHash:
    """Multiply-add hash of the float32 bits with seeded odd multipliers, finished by splitmix64."""

    def __init__(self, config: RandomConfig, input_dim: int, *, device: str = "cpu") -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._state: dict[str, Tensor] | None = None

    @property
    def input_dim(self) -> int:
        return self._input_dim

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_codebooks

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        """One pass for the mean; there is nothing worth a checkpoint."""
        check_vectors(vectors, self.input_dim)
        cpu = torch.device("cpu")
        mean = torch.stack([piece.double().sum(0) for piece in chunks(vectors, cpu)]).sum(0) / len(vectors)
        shape = (self.config.num_codebooks, self.input_dim)
        multipliers = np.random.default_rng(seed).integers(0, 2**63, shape, dtype=np.int64) | 1
        self._state = {"multipliers": torch.from_numpy(multipliers), "mean": mean.float()}
        if progress is not None:
            progress(1, 1, {})
        return FitLog(steps=1)

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        multipliers = require_fitted(self._state, self.config)["multipliers"].numpy().astype(np.uint64)

        def codes(piece: Tensor) -> Tensor:
            bits = (piece + 0.0).numpy().view(np.uint32).astype(np.uint64)  # + 0.0: both zeros are one value
            hashed = np.stack([(bits * row).sum(1, dtype=np.uint64) for row in multipliers], 1)
            return torch.from_numpy((_splitmix(hashed) % np.uint64(self.config.codebook_size)).astype(np.int64))

        return encode_in_chunks(vectors, self.input_dim, codes, torch.device("cpu"))

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        mean = require_fitted(self._state, self.config)["mean"]
        check_codes(codes, self.codebook_sizes)
        return np.tile(mean.numpy(), (len(codes), 1))

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        raise ValueError("random codes have no distances to choose by; tell colliding items apart with an extra digit")

    def save(self, path: Path) -> None:
        save_quantizer(path, self.config, self.input_dim, require_fitted(self._state, self.config))

    def restore(self, state: QuantizerState) -> None:
        """Take over a saved hash."""
        self._state = dict(state)


def _splitmix(values: np.ndarray) -> np.ndarray:
    """Finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    finished: np.ndarray = mixed ^ (mixed >> np.uint64(31))
    return finished
