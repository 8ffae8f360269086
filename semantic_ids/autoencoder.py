"""The network of RQ-VAE and its kin: standardise -> MLP -> codebooks -> MLP -> undo the standardisation."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from semantic_ids.codebooks import Codebooks, Quantized
from semantic_ids.losses import Reduction, codebook_loss, commitment_loss, error_correlation, reconstruction_loss
from semantic_ids.vectors import Vectors, chunks

Standardise = Literal["none", "global", "per_dim"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """Widths of the encoder (the decoder mirrors them) and the scale of the input.

    `standardise`: "global" subtracts the mean and divides by one number, which keeps distances and therefore
    neighbours; "per_dim" divides every dimension by its own deviation, but never by less than `variance_floor` of the
    typical one (MiniLM has dimensions without variance, which would otherwise become pure noise); "none" leaves the
    input alone.
    """

    hidden_dims: tuple[int, ...] = (512, 256, 128)
    latent_dim: int = 32
    standardise: Standardise = "global"
    variance_floor: float = 0.1

    def __post_init__(self) -> None:
        if self.latent_dim < 1 or any(dim < 1 for dim in self.hidden_dims):
            raise ValueError(f"widths must be positive, got hidden {self.hidden_dims}, latent {self.latent_dim}")
        if not 0 < self.variance_floor <= 1:
            raise ValueError(f"variance_floor must be in (0, 1], got {self.variance_floor}")


class LossWeights(NamedTuple):
    """How the terms add up; see `semantic_ids.losses` for what `reduction` does to beta."""

    beta: float
    reduction: Reduction
    books: Reduction
    diversity: float = 0.0
    codebook: float = 1.0


class LossParts(NamedTuple):
    """Scalars; `total` is what is minimised."""

    total: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    codebook: Float[Tensor, ""]
    commitment: Float[Tensor, ""]
    diversity: Float[Tensor, ""]


class Standardiser(nn.Module):
    """x -> (x - mean) / scale, and back; saved with the model."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    def forward(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return (vectors - self.mean) / self.scale

    def inverse(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        return vectors * self.scale + self.mean

    def fit(self, vectors: Vectors, how: Standardise, variance_floor: float) -> None:
        """Mean and deviation over all rows, in two passes of float64 sums."""
        if how == "none":
            return
        device = self.mean.device
        mean = torch.stack([piece.double().sum(0) for piece in chunks(vectors, device)]).sum(0) / len(vectors)
        squares = [(piece.double() - mean).square().sum(0) for piece in chunks(vectors, device)]
        variance = torch.stack(squares).sum(0) / len(vectors)
        typical = variance.mean().sqrt()
        if not bool(typical > 0):
            raise ValueError(f"all {len(vectors)} vectors are equal; there is nothing to quantise")
        scale = variance.sqrt().clamp_min(variance_floor * typical) if how == "per_dim" else typical.expand(len(mean))
        self.mean.copy_(mean)
        self.scale.copy_(scale)


class QuantizedAutoencoder(nn.Module):
    """Encoder, codebooks, decoder. `codebooks` decides what model it is; this module does not know which.

    With `separate_decoders`, each book has its own decoder and the reconstruction is their mean (an ablation that the
    reviews of Mixture-of-Codes asked for); it needs codebooks that concatenate.
    """

    def __init__(
        self, input_dim: int, config: AutoencoderConfig, codebooks: nn.Module, *, separate_decoders: bool = False
    ) -> None:
        super().__init__()
        bottleneck = cast(Codebooks, codebooks)
        mirrored = [*reversed(config.hidden_dims), input_dim]
        self.config = config
        self.standardise = Standardiser(input_dim)
        self.encoder = mlp([input_dim, *config.hidden_dims, config.latent_dim])
        self.codebooks = codebooks
        self.num_decoders = bottleneck.width // config.latent_dim if separate_decoders else 1
        width = config.latent_dim if separate_decoders else bottleneck.width
        self.decoders = nn.ModuleList(mlp([width, *mirrored]) for _ in range(self.num_decoders))

    @property
    def bottleneck(self) -> Codebooks:
        return cast(Codebooks, self.codebooks)

    def fit_scale(self, vectors: Vectors) -> None:
        """Learn the standardisation from all rows."""
        self.standardise.fit(vectors, self.config.standardise, self.config.variance_floor)

    def latent(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch latent"]:
        out: Tensor = self.encoder(self.standardise(vectors))
        return out

    def expand(self, quantized: Float[Tensor, "batch width"]) -> Float[Tensor, "batch dim"]:
        """Decoder output, still standardised."""
        parts = quantized.chunk(self.num_decoders, dim=1)
        return torch.stack([decoder(part) for decoder, part in zip(self.decoders, parts, strict=True)]).mean(0)

    def forward(self, vectors: Float[Tensor, "batch dim"], weights: LossWeights) -> tuple[LossParts, Quantized]:
        """Loss of one batch, and what was quantised."""
        target = self.standardise(vectors)
        quantized = self.bottleneck(self.encoder(target))
        reconstruction = reconstruction_loss(self.expand(quantized.vectors), target, weights.reduction)
        pair = (quantized.inputs, quantized.codewords)
        codebook = codebook_loss(*pair, weights.reduction, weights.books)
        commitment = commitment_loss(*pair, weights.reduction, weights.books)
        diversity = error_correlation(*pair, weights.reduction)
        total = reconstruction + weights.codebook * codebook + weights.beta * commitment + weights.diversity * diversity
        return LossParts(total, reconstruction, codebook, commitment, diversity), quantized

    def warm_up_loss(self, vectors: Float[Tensor, "batch dim"], weights: LossWeights) -> Float[Tensor, ""]:
        """Reconstruction without quantisation: every book passes its input through."""
        target = self.standardise(vectors)
        passed = self.bottleneck.relaxed(self.encoder(target))
        return reconstruction_loss(self.expand(passed), target, weights.reduction)

    @torch.no_grad()
    def encode(self, vectors: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return self.bottleneck.encode(self.latent(vectors))

    @torch.no_grad()
    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch dim"]:
        return self.standardise.inverse(self.expand(self.bottleneck.decode(codes)))


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for given, wanted in pairwise(dims):
        layers += [nn.Linear(given, wanted), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
