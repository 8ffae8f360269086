"""Mixture-of-Codes: parallel books on one latent vector of an autoencoder."""

from dataclasses import dataclass, field
from typing import Literal

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.codebooks import Aggregate
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.saving import check_sizes


def _shallow() -> AutoencoderConfig:
    """A deep encoder draws the latent vectors into clusters, and then all books are the same book."""
    return AutoencoderConfig(hidden_dims=(256,), latent_dim=64)


def _gentle() -> FitConfig:
    return FitConfig(learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureOfCodesConfig:
    """Parallel codebooks on one latent vector (Mixture-of-Codes, arXiv 2410.09560): reconstruction from the published
    description, since no code of the authors is public.

    Every book quantises the same z; the mean of the codewords goes to one decoder (the published setting, and the
    default here). Not established by what is published, hence our choices: beta, the sum over books, all sizes, and
    everything below. `aggregate` "sum" or "concat", `decoder` "separate" (each book its own, reconstructions
    averaged) and `projection` "linear" (a trained map of z per book) are ablations. `diversity_weight` > 0 adds
    `semantic_ids.losses.error_correlation`, which makes the books err in different directions.

    Independent books on one z are near copies unless something sets them apart, so look at the NMI between books in
    `semantic_ids.health`: it warns above 0.8. With one book this is RQ-VAE with one level, code for code.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    beta: float = 0.25
    reduction: Reduction = "sum"
    books_reduction: Reduction = "sum"
    aggregate: Aggregate = "mean"
    decoder: Literal["shared", "separate"] = "shared"
    projection: Literal["none", "linear"] = "none"
    diversity_weight: float = 0.0
    autoencoder: AutoencoderConfig = field(default_factory=_shallow)
    fit: FitConfig = field(default_factory=_gentle)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")
        if not 0 <= self.diversity_weight <= 1:
            raise ValueError(
                f"diversity_weight must be in [0, 1], where the books' loss is convex; got {self.diversity_weight}"
            )
        if self.decoder == "separate" and self.aggregate != "mean":
            raise ValueError(
                f"separate decoders average reconstructions; aggregate must stay 'mean', got {self.aggregate!r}"
            )
