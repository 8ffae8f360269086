"""SimVQ: frozen codes behind one trained linear map, so that a step moves all codewords and none is left behind."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.codebooks import Quantized, gather_codewords, quantize_residuals, residual_codes
from semantic_ids.kmeans import kmeans, squared_distances
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.saving import check_sizes
from semantic_ids.vectors import seeded

Frozen = Literal["k-means", "normal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SimVQConfig:
    """Residual levels whose codewords are C_l W_l: C_l is frozen, W_l (dim dim) is trained (Zhu et al., 2024, arXiv
    2411.02038).

    The loss is that of `RQVAEConfig`, with the codebook term moving W_l. The paper draws C_l from a normal
    distribution: `frozen="normal"`, with W_l starting as the root mean square of what the level is given times the
    identity (our choice). The default freezes k-means of the latent vectors instead (our choice as well: a catalog is
    small enough to see at once), with W_l starting as the identity. Dead codes are never re-seeded.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    beta: float = 0.25
    reduction: Reduction = "sum"
    books_reduction: Reduction = "sum"
    frozen: Frozen = "k-means"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")


class LinearCodebooks(nn.Module):
    """Residual levels with `tables` C_l W_l; C is a buffer, W the only parameter."""

    frozen: Tensor

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int, *, frozen: Frozen = "k-means") -> None:
        super().__init__()
        self.register_buffer("frozen", torch.randn(num_codebooks, codebook_size, dim))
        self.maps = nn.Parameter(torch.eye(dim).repeat(num_codebooks, 1, 1))
        self.start = frozen

    @property
    def width(self) -> int:
        return self.frozen.shape[2]

    @property
    def reseedable(self) -> None:
        return None

    @property
    def tables(self) -> Float[Tensor, "books codes dim"]:
        return self.frozen @ self.maps

    def forward(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        return quantize_residuals(latent, self.tables)

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        return latent

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return residual_codes(latent, self.tables)

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]:
        return gather_codewords(self.tables, codes).sum(1)

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]:
        tables = self.tables
        before = gather_codewords(tables[:-1], codes[:, :-1]).sum(1)
        return squared_distances(latent - before, tables[-1])

    @torch.no_grad()
    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None:
        """Codes or the scale of their maps from the residuals, level by level."""
        residual = latent
        for level, (codes, linear) in enumerate(zip(self.frozen, self.maps, strict=True)):
            if self.start == "k-means":
                codes.copy_(kmeans(residual, len(codes), generator=seeded(seed, level)).centroids)
            else:
                linear.mul_(residual.square().mean().sqrt())
            table = codes @ linear
            residual = residual - table[residual_codes(residual, table.unsqueeze(0))[:, 0]]
