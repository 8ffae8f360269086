"""Look-up free quantisation: the signs of a small vector are the bits of its code."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.codebooks import Codebooks, Quantized
from semantic_ids.kmeans import squared_distances
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.saving import check_sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class LFQConfig:
    """LFQ (MAGVIT-v2, Yu et al., 2023, arXiv 2310.05737) in the autoencoder of `RQVAEConfig`.

    A book is log2(codebook_size) numbers, its codewords the corners of the cube {-1, 1}. loss = reconstruction +
    beta |z - sg(sign z)|^2 + entropy_weight (mean_i H(p_i) - diversity H(mean_i p_i)), with p_i(c) proportional to
    exp(-|z_i - c|^2 / temperature): sure rows, and all codes used. `reduction` "mean" is the scale on which the
    published entropy_weight .1 stands; under "sum" it would be nothing beside the reconstruction. The temperature, the
    linear maps into and out of the cube, and several books (their entropies averaged) are our choice.

    Binary codes: neighbours in Hamming distance are neighbours in space. Otherwise prefer `FSQConfig`, which has
    nothing to weigh.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    beta: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    temperature: float = 1.0
    reduction: Reduction = "mean"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        if self.codebook_size & (self.codebook_size - 1):
            raise ValueError(f"codebook_size must be a power of two, a bit for each number; got {self.codebook_size}")
        for name in ("beta", "entropy_weight", "diversity"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


class LookupFreeCodebooks(nn.Module):
    """latent -> linear -> sign -> linear, in groups of log2(codes) numbers; bit k of a code says that number k is
    positive.
    """

    bits: Tensor

    def __init__(self, dim: int, num_codebooks: int, codebook_size: int) -> None:
        super().__init__()
        number = codebook_size.bit_length() - 1
        self.books, self.size = num_codebooks, codebook_size
        self.into = nn.Linear(dim, num_codebooks * number)
        self.out = nn.Linear(num_codebooks * number, dim)
        self.register_buffer("bits", torch.arange(number), persistent=False)

    @property
    def width(self) -> int:
        return self.out.out_features

    @property
    def reseedable(self) -> None:
        return None

    def forward(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        numbers = self._numbers(latent)
        codes = self._codes(numbers)
        corners = self.corners(codes)
        straight: Tensor = self.out((numbers + (corners - numbers).detach()).flatten(1))
        return Quantized(straight, codes, numbers, corners)

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        soft: Tensor = self.out(torch.tanh(self._numbers(latent)).flatten(1))
        return soft

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return self._codes(self._numbers(latent))

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]:
        decoded: Tensor = self.out(self.corners(codes).flatten(1))
        return decoded

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]:
        return squared_distances(self._numbers(latent)[:, -1], self.cube())

    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None:
        """There is no codebook to start from data."""

    def corners(self, codes: Int64[Tensor, "..."]) -> Float[Tensor, "... bits"]:
        """Codes as -1 and 1."""
        corners: Tensor = (codes.unsqueeze(-1) >> self.bits & 1) * 2 - 1
        return corners.to(self.out.weight.dtype)

    def cube(self) -> Float[Tensor, "codes bits"]:
        """All corners, in the order of their codes."""
        return self.corners(torch.arange(self.size, device=self.bits.device))

    def _numbers(self, latent: Tensor) -> Tensor:
        numbers: Tensor = rearrange(self.into(latent), "batch (books bits) -> batch books bits", books=self.books)
        return numbers

    def _codes(self, numbers: Tensor) -> Tensor:
        codes: Tensor = (numbers.gt(0).long() << self.bits).sum(-1)
        return codes


class EntropyObjective(nn.Module):
    """The entropy terms of `LFQConfig`, weighted."""

    def __init__(self, config: LFQConfig) -> None:
        super().__init__()
        self.config = config

    def prepare(self, codebooks: Codebooks, step: int) -> None:
        """Nothing to prepare."""

    def forward(
        self, quantized: Quantized, codebooks: Codebooks, rows: Int64[Tensor, " batch"], step: int
    ) -> Float[Tensor, ""]:
        bits = quantized.inputs.shape[-1]
        every = torch.arange(2**bits, device=quantized.inputs.device)
        cube = ((every.unsqueeze(1) >> torch.arange(bits, device=every.device) & 1) * 2 - 1).to(quantized.inputs.dtype)
        config = self.config
        return config.entropy_weight * entropy_terms(quantized.inputs, cube, config.temperature, config.diversity)


def entropy_terms(
    numbers: Float[Tensor, "batch books bits"], cube: Float[Tensor, "codes bits"], temperature: float, diversity: float
) -> Float[Tensor, ""]:
    """mean_i H(p_i) - diversity H(mean_i p_i), averaged over books; all corners are equally long, so |z - c|^2 is
    -2 z . c but for what all codes of a row share.
    """
    logs = torch.log_softmax(2 * numbers @ cube.T / temperature, -1)
    sure = -(logs.exp() * logs).sum(-1).mean()
    mean = logs.exp().mean(0)
    spread = -(mean * mean.clamp_min(1e-12).log()).sum(-1).mean()
    return sure - diversity * spread
