"""Finite scalar quantisation: each number of a small vector is rounded to one of a few levels, without a codebook."""

from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.codebooks import Quantized
from semantic_ids.kmeans import squared_distances
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.saving import check_sizes

_EDGE = 1e-3  # tanh reaches its ends at infinity only; a little more room lets the outermost levels be chosen


@dataclass(frozen=True, kw_only=True, slots=True)
class FSQConfig:
    """FSQ (Mentzer et al., 2023, arXiv 2309.15505) in the autoencoder of `RQVAEConfig`: nothing can collapse.

    Each book is a group of `len(levels)` numbers of the latent vector, and its codes are their combinations:
    `codebook_size` is the product of `levels`. Without `levels` it is factored into levels of 3 to 8, the largest first
    (256 = 8 x 8 x 4; the paper's own choice near it is 8 x 6 x 5 = 240). The loss is the reconstruction alone.

    Several books on disjoint numbers, one linear map into them and one out, are our choice: the paper has one book.
    Books are unordered, so a prefix is no coarser picture of the item; prefer `RQVAEConfig` where prefixes matter.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    levels: tuple[int, ...] = ()
    reduction: Reduction = "sum"
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        found = torch.Size(self.scalar_levels).numel()
        if found != self.codebook_size:
            raise ValueError(
                f"levels {self.levels} have {found} combinations, but codebook_size is {self.codebook_size}"
            )
        if min(self.scalar_levels) < 3:
            raise ValueError(f"levels must be at least 3 each, got {self.levels}")

    @property
    def scalar_levels(self) -> tuple[int, ...]:
        """Levels of each number of a book."""
        if self.levels:
            return self.levels
        found = factored(self.codebook_size)
        if found is None:
            raise ValueError(
                f"codebook_size {self.codebook_size} is no product of numbers from 3 to 8; set levels, or another size"
            )
        return found


def factored(size: int) -> tuple[int, ...] | None:
    """`size` as a product of levels from 3 to 8, the largest first; None where there is no such product.

    >>> factored(256), factored(1024), factored(22)
    ((8, 8, 4), (8, 8, 4, 4), None)
    """
    if 3 <= size <= 8:
        return (size,)
    for level in range(8, 2, -1):
        rest = factored(size // level) if size % level == 0 and size > level else None
        if rest is not None:
            return (level, *rest)
    return None


class FiniteScalarCodebooks(nn.Module):
    """latent -> linear -> bound -> round -> linear, in groups of ``len(levels)`` numbers.

    bound(z) = tanh(z + s) h - o with h = (L - 1)(1 + eps) / 2, o = 1/2 for even L (else 0) and s = atanh(o / h), so
    that z = 0 stays 0; rounded, it takes the L whole values from -floor(L / 2) on, which are divided by floor(L / 2).
    The code of a book is its digits in mixed radix, the first number counting fastest.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, dim: int, num_codebooks: int, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.books = num_codebooks
        self.into = nn.Linear(dim, num_codebooks * len(levels))
        self.out = nn.Linear(num_codebooks * len(levels), dim)
        counts = torch.tensor(levels)
        self.register_buffer("levels", counts, persistent=False)
        self.register_buffer("basis", torch.cat([torch.ones(1).long(), counts[:-1].cumprod(0)]), persistent=False)

    @property
    def width(self) -> int:
        return self.out.out_features

    @property
    def reseedable(self) -> None:
        return None

    def forward(self, latent: Float[Tensor, "batch dim"]) -> Quantized:
        bounded = self.bounded(latent)
        whole = bounded.round()
        straight = self._joined(bounded + (whole - bounded).detach())
        return Quantized(straight, self._codes(whole), bounded / self._half, (whole / self._half).detach())

    def relaxed(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch width"]:
        return self._joined(self.bounded(latent))

    def encode(self, latent: Float[Tensor, "batch dim"]) -> Int64[Tensor, "batch books"]:
        return self._codes(self.bounded(latent).round())

    def decode(self, codes: Int64[Tensor, "batch books"]) -> Float[Tensor, "batch width"]:
        return self._joined(self.values(codes))

    def last_costs(
        self, latent: Float[Tensor, "batch dim"], codes: Int64[Tensor, "batch books"]
    ) -> Float[Tensor, "batch codes"]:
        every = torch.arange(int(self.levels.prod()), device=latent.device)
        return squared_distances(self.bounded(latent)[:, -1] / self._half, self.values(every) / self._half)

    def initialise(self, latent: Float[Tensor, "rows dim"], seed: int) -> None:
        """There is no codebook to start from data."""

    def bounded(self, latent: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch books numbers"]:
        """What is rounded."""
        numbers = rearrange(self.into(latent), "batch (books numbers) -> batch books numbers", books=self.books)
        return bound(numbers, self.levels)

    def values(self, codes: Int64[Tensor, "..."]) -> Float[Tensor, "... numbers"]:
        """The whole numbers that codes stand for."""
        return (codes.unsqueeze(-1) // self.basis % self.levels - self._half).to(self.out.weight.dtype)

    @property
    def _half(self) -> Tensor:
        return self.levels // 2

    def _codes(self, whole: Tensor) -> Tensor:
        return ((whole.long() + self._half) * self.basis).sum(-1)

    def _joined(self, whole: Tensor) -> Tensor:
        joined: Tensor = self.out((whole / self._half).flatten(1))
        return joined


def bound(numbers: Float[Tensor, "... numbers"], levels: Int64[Tensor, " numbers"]) -> Float[Tensor, "... numbers"]:
    """Numbers squeezed into the range whose roundings are the levels (see `FiniteScalarCodebooks`)."""
    half = (levels - 1) * (1 + _EDGE) / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    return torch.tanh(numbers + torch.atanh(offset / half)) * half - offset
