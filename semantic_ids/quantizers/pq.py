"""Product quantisation: the vector is cut into blocks, each with its own k-means."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.codebooks import gather_codewords
from semantic_ids.kmeans import Init, nearest, squared_distances
from semantic_ids.quantizers.blocks import Blocks
from semantic_ids.quantizers.checkpoint import FitCheckpoint
from semantic_ids.quantizers.kmeans_fit import KMeansFit, check_kmeans
from semantic_ids.quantizers.opq import OPQConfig, check_width, learned_rotation
from semantic_ids.quantizers.protocol import FitLog, Progress
from semantic_ids.quantizers.saving import (
    QuantizerState,
    check_codes,
    decode_in_chunks,
    encode_in_chunks,
    plain_config,
    require_fitted,
    save_quantizer,
)
from semantic_ids.vectors import Vectors, check_vectors, sample, seeded, take

_SAMPLE = 301


@dataclass(frozen=True, kw_only=True, slots=True)
class PQConfig:
    """Product quantisation (Jegou et al., 2011): `num_codebooks` blocks of near equal width, one codebook each.

    Books are unordered and, unlike those of Mixture-of-Codes, see different parts of the vector. `rotate` applies a
    random rotation first, which spreads the variance over the blocks (`OPQConfig` learns the rotation).
    """

    num_codebooks: int = 4
    codebook_size: int = 256
    rotate: bool = False
    init: Init = "k-means++"
    iterations: int = 25
    sample_size: int = 262_144

    def __post_init__(self) -> None:
        check_kmeans(self)


class ProductQuantizer:
    """`tables` (books codes width) of the blocks of a rotated vector."""

    def __init__(self, config: PQConfig | OPQConfig, input_dim: int, *, device: str = "cpu") -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._state: dict[str, Tensor] | None = None
        self._cut = Blocks(input_dim, config.num_codebooks, self._device)
        if isinstance(config, OPQConfig):
            check_width(config, input_dim)

    @property
    def input_dim(self) -> int:
        return self._input_dim

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_codebooks

    @property
    def tables(self) -> Tensor:
        """Codewords of each block (books codes width)."""
        return require_fitted(self._state, self.config)["tables"]

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        """A checkpoint is kept after every block."""
        started = time.monotonic()
        check_vectors(vectors, self.input_dim)
        kept = FitCheckpoint.of(checkpoint, plain_config(self.config), vectors, seed, str(self._device))
        rows = sample(vectors, self.config.sample_size, seeded(seed, _SAMPLE), self._device)
        begun = kept.load()
        rotation = begun[0]["rotation"].to(self._device) if begun else self._rotation(rows, seed)
        blocks = self._cut.split(rows @ rotation)
        fit = KMeansFit(
            config=self.config,
            seed=seed,
            given=lambda book: blocks[:, book].contiguous(),
            others=lambda books: {"rotation": rotation},
        )
        self._state, history = fit.run(kept, begun, self._device, progress)
        return FitLog(steps=len(history), history=history, seconds=time.monotonic() - started)

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        return encode_in_chunks(vectors, self.input_dim, self._encode, self._device)

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        state = require_fitted(self._state, self.config)
        check_codes(codes, self.codebook_sizes)

        def piece(part: Tensor) -> Tensor:
            chosen = gather_codewords(state["tables"], part)
            return self._cut.join(chosen) @ state["rotation"].T

        return decode_in_chunks(codes, piece, self._device)

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        check_vectors(vectors, self.input_dim)
        check_codes(codes, self.codebook_sizes)
        state = require_fitted(self._state, self.config)
        rows = take(vectors, torch.arange(len(vectors)), self._device) @ state["rotation"]
        return squared_distances(self._cut.split(rows)[:, -1], state["tables"][-1])

    def save(self, path: Path) -> None:
        save_quantizer(path, self.config, self.input_dim, require_fitted(self._state, self.config))

    def restore(self, state: QuantizerState) -> None:
        """Take over saved codebooks."""
        self._state = {name: value.to(self._device) for name, value in state.items()}

    def _encode(self, vectors: Tensor) -> Tensor:
        state = require_fitted(self._state, self.config)
        blocks = self._cut.split(vectors @ state["rotation"])
        return torch.stack([nearest(blocks[:, book], table) for book, table in enumerate(state["tables"])], 1)

    def _rotation(self, rows: Tensor, seed: int) -> Float[Tensor, "dim dim"]:
        match self.config:
            case OPQConfig():
                return learned_rotation(self.config, rows, seed)
            case PQConfig(rotate=True):
                draw = torch.randn(
                    self.input_dim, self.input_dim, generator=seeded(seed, _SAMPLE, 1), dtype=torch.float64
                )
                orthogonal: Tensor = torch.linalg.qr(draw).Q
                return orthogonal.float().to(self._device)
            case PQConfig():
                return torch.eye(self.input_dim, device=self._device)
            case _:
                assert_never(self.config)
