"""Grouped residual quantisation: the vector is cut into groups, and each group has residual levels of its own."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import reduce
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.codebooks import gather_codewords, residual_codes
from semantic_ids.kmeans import Init, nearest, squared_distances
from semantic_ids.quantizers.blocks import Blocks
from semantic_ids.quantizers.checkpoint import FitCheckpoint
from semantic_ids.quantizers.kmeans_fit import KMeansFit, check_kmeans
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

_SAMPLE = 601


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupedRQConfig:
    """Residual k-means of `num_groups` blocks: between `PQConfig` (one level) and `RQKMeansConfig` (one group).

    `num_codebooks` counts the books of all groups, so that budgets compare. Books go level by level: the first
    `num_groups` books are the first levels of all groups, so a prefix of the codes is a coarse picture of the whole
    vector (our choice; HiFi-Codec, which named the idea, has no order to keep).
    """

    num_codebooks: int = 4
    num_groups: int = 2
    codebook_size: int = 256
    init: Init = "k-means++"
    iterations: int = 25
    sample_size: int = 262_144

    def __post_init__(self) -> None:
        check_kmeans(self)
        if self.num_groups < 1 or self.num_codebooks % self.num_groups:
            raise ValueError(
                f"num_groups must divide num_codebooks, got {self.num_groups} groups of {self.num_codebooks} codebooks"
            )


class GroupedResidual:
    """`tables` (books codes width), where book ``level * groups + group`` is a level of a group."""

    def __init__(self, config: GroupedRQConfig, input_dim: int, *, device: str = "cpu") -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._state: dict[str, Tensor] | None = None
        self._cut = Blocks(input_dim, config.num_groups, self._device)

    @property
    def input_dim(self) -> int:
        return self._input_dim

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_codebooks

    @property
    def tables(self) -> Tensor:
        """Codewords of each book (books codes width)."""
        return require_fitted(self._state, self.config)["tables"]

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        """A checkpoint is kept after every book."""
        started = time.monotonic()
        check_vectors(vectors, self.input_dim)
        kept = FitCheckpoint.of(checkpoint, plain_config(self.config), vectors, seed, str(self._device))
        rows = sample(vectors, self.config.sample_size, seeded(seed, _SAMPLE), self._device)
        residual = list(self._cut.split(rows).unbind(1))

        def given(book: int) -> Tensor:
            return residual[book % len(residual)].contiguous()

        def fitted(book: int, table: Tensor) -> None:
            rows = given(book)
            residual[book % len(residual)] = rows - table[nearest(rows, table)]

        fit = KMeansFit(config=self.config, seed=seed, given=given, fitted=fitted)
        self._state, history = fit.run(kept, kept.load(), self._device, progress)
        return FitLog(steps=len(history), history=history, seconds=time.monotonic() - started)

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        groups = self.config.num_groups
        tables = self.tables

        def codes(piece: Tensor) -> Tensor:
            blocks = self._cut.split(piece)
            levels = [residual_codes(blocks[:, group], tables[group::groups]) for group in range(groups)]
            return torch.stack(levels, 2).flatten(1)

        return encode_in_chunks(vectors, self.input_dim, codes, self._device)

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        tables = self.tables
        check_codes(codes, self.codebook_sizes)
        return decode_in_chunks(codes, lambda piece: self._cut.join(self._summed(tables, piece)), self._device)

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        check_vectors(vectors, self.input_dim)
        check_codes(codes, self.codebook_sizes)
        tables, groups = self.tables, self.config.num_groups
        last = self._cut.split(take(vectors, torch.arange(len(vectors)), self._device))[:, -1]
        mine = torch.from_numpy(codes[:, groups - 1 :: groups].copy()).to(self._device)
        before = gather_codewords(tables[groups - 1 :: groups][:-1], mine[:, :-1]).sum(1)
        return squared_distances(last - before, tables[-1])

    def save(self, path: Path) -> None:
        save_quantizer(path, self.config, self.input_dim, require_fitted(self._state, self.config))

    def restore(self, state: QuantizerState) -> None:
        """Take over saved codebooks."""
        self._state = {name: value.to(self._device) for name, value in state.items()}

    def _summed(self, tables: Tensor, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch groups width"]:
        chosen = gather_codewords(tables, codes)
        groups = self.config.num_groups
        return reduce(chosen, "batch (levels groups) width -> batch groups width", "sum", groups=groups)
