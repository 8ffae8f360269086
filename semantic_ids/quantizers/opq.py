"""Optimised product quantisation: the rotation before the cut is learned. The one door to faiss of this library."""

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from semantic_ids.kmeans import Init, check_rows
from semantic_ids.quantizers.kmeans_fit import check_kmeans
from semantic_ids.vectors import seeded

_ROWS = 501


@dataclass(frozen=True, kw_only=True, slots=True)
class OPQConfig:
    """Product quantisation behind a learned rotation (Ge et al., 2013), as VQ-Rec and RPG use it.

    faiss (extra ``llm-rec[faiss]``) learns the rotation in `rotation_iterations` rounds on at most `rotation_rows`
    rows, in float32 on the CPU; codebooks of the blocks are then k-means of this library, as in `PQConfig`, so a saved
    quantizer needs no faiss. The width must divide by `num_codebooks`. faiss knows sizes that are powers of two: while
    it learns the rotation, its own codebooks have the largest such size that is not above `codebook_size`.
    """

    num_codebooks: int = 4
    codebook_size: int = 256
    rotation_iterations: int = 50
    rotation_rows: int = 65_536
    init: Init = "k-means++"
    iterations: int = 25
    sample_size: int = 262_144

    def __post_init__(self) -> None:
        check_kmeans(self)
        if self.rotation_iterations < 1:
            raise ValueError(f"rotation_iterations must be at least 1, got {self.rotation_iterations}")
        if self.rotation_rows < self.codebook_size:
            raise ValueError(f"rotation_rows {self.rotation_rows} is smaller than codebook_size {self.codebook_size}")


def check_width(config: OPQConfig, input_dim: int) -> None:
    if input_dim % config.num_codebooks:
        raise ValueError(
            f"opq cuts vectors into equal blocks, but width {input_dim} does not divide by {config.num_codebooks}; "
            "choose another num_codebooks, or PQConfig"
        )


def learned_rotation(config: OPQConfig, rows: Float[Tensor, "rows dim"], seed: int) -> Float[Tensor, "dim dim"]:
    """The orthogonal matrix R of ``rows @ R`` whose blocks lose least; a function of rows and seed."""
    faiss = _faiss()
    if len(rows) < config.codebook_size:
        check_rows(len(rows), config.codebook_size)
    keep = torch.randperm(len(rows), generator=seeded(seed, _ROWS))[: config.rotation_rows]
    sample = np.ascontiguousarray(rows[keep.to(rows.device)].cpu().numpy())
    dim, bits = rows.shape[1], config.codebook_size.bit_length() - 1
    quantizer = faiss.ProductQuantizer(dim, config.num_codebooks, bits)
    quantizer.cp.min_points_per_centroid = 1  # k-means of the blocks warns of few rows
    rotation = faiss.OPQMatrix(dim, config.num_codebooks)
    rotation.pq, rotation.niter, rotation.max_train_points = quantizer, config.rotation_iterations, len(sample)
    rotation.train(sample)
    matrix = faiss.vector_to_array(rotation.A).reshape(dim, dim)
    return torch.from_numpy(matrix.T.copy()).to(rows.device)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ValueError(
            "opq learns its rotation with faiss, which is not installed; pip install 'llm-rec[faiss]'"
        ) from error
    module: ModuleType = faiss
    return module
