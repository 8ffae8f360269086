"""RQ-VAE and Mixture-of-Codes behind the one interface: the same network and fit around two kinds of codebooks."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.autoencoder import AutoencoderConfig, LossWeights, QuantizedAutoencoder
from semantic_ids.codebooks import Aggregate, ParallelCodebooks, ResidualCodebooks
from semantic_ids.losses import Reduction
from semantic_ids.quantizers.checkpoint import FitCheckpoint
from semantic_ids.quantizers.fitting import AutoencoderFit, FitConfig
from semantic_ids.quantizers.protocol import FitLog, Progress
from semantic_ids.quantizers.saving import (
    QuantizerState,
    check_codes,
    check_sizes,
    decode_in_chunks,
    encode_in_chunks,
    plain_config,
    require_fitted,
    save_quantizer,
)
from semantic_ids.vectors import Vectors, check_vectors, take


@dataclass(frozen=True, kw_only=True, slots=True)
class RQVAEConfig:
    """Residual-quantised autoencoder: the codes of TIGER (arXiv 2305.05065), LC-Rec and LETTER; coarse to fine.

    loss = reconstruction + sum_l ( |sg(r_l) - c_l|^2 + beta |r_l - sg(c_l)|^2 ), with beta on the commitment alone.
    `reduction` "sum" adds over dimensions; "mean" (LC-Rec, GRID) makes the same beta act latent_dim / input_dim as
    strong the other way: effective beta = beta x input_dim / latent_dim. `books_reduction` "sum" is TIGER's, "mean"
    LC-Rec's. `beam_size` > 1 encodes with that many candidates per row.

    Prefer `RQKMeansConfig` for an answer in seconds, `MixtureOfCodesConfig` for unordered codes as ranking features.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    beta: float = 0.25
    reduction: Reduction = "sum"
    books_reduction: Reduction = "sum"
    beam_size: int = 1
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        if self.beta < 0:
            raise ValueError(f"beta must not be negative, got {self.beta}")
        if self.beam_size < 1:
            raise ValueError(f"beam_size must be at least 1, got {self.beam_size}")


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
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    fit: FitConfig = field(default_factory=FitConfig)

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


class AutoencoderQuantizer:
    """Either of the two models above, fitted by optimiser steps."""

    def __init__(self, config: RQVAEConfig | MixtureOfCodesConfig, input_dim: int, *, device: str = "cpu") -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._model: QuantizedAutoencoder | None = None

    @property
    def input_dim(self) -> int:
        return self._input_dim

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_codebooks

    @property
    def model(self) -> QuantizedAutoencoder:
        """The fitted network, in evaluation mode."""
        return require_fitted(self._model, self.config)

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        check_vectors(vectors, self.input_dim)
        kept = FitCheckpoint.of(checkpoint, plain_config(self.config), vectors, seed, str(self._device))
        model = self._build(seed)
        log = AutoencoderFit(model, self.config.fit, loss_weights(self.config), vectors, seed).run(kept, progress)
        self._model = model
        return log

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        return encode_in_chunks(vectors, self.input_dim, self.model.encode, self._device)

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        check_codes(codes, self.codebook_sizes)
        return decode_in_chunks(codes, self.model.decode, self._device)

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        check_vectors(vectors, self.input_dim)
        check_codes(codes, self.codebook_sizes)
        rows = take(vectors, torch.arange(len(vectors)), self._device)
        with torch.no_grad():
            return self.model.bottleneck.last_costs(self.model.latent(rows), torch.from_numpy(codes).to(self._device))

    def save(self, path: Path) -> None:
        save_quantizer(path, self.config, self.input_dim, self.model.state_dict())

    def restore(self, state: QuantizerState) -> None:
        """Take over saved weights."""
        model = self._build(0)
        model.load_state_dict(state)
        self._model = model.eval()

    def _build(self, seed: int) -> QuantizedAutoencoder:
        """The network with weights that are a function of `seed`; the global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_autoencoder(self.config, self.input_dim).to(self._device)


def build_autoencoder(config: RQVAEConfig | MixtureOfCodesConfig, input_dim: int) -> QuantizedAutoencoder:
    """The untrained network of a config. The encoder is drawn before the codebooks, so both kinds start from the same
    one.
    """
    sizes = (config.autoencoder.latent_dim, config.num_codebooks, config.codebook_size)
    state = torch.get_rng_state()
    match config:
        case RQVAEConfig():
            residual = ResidualCodebooks(*sizes, beam=config.beam_size)
            torch.set_rng_state(state)
            return QuantizedAutoencoder(input_dim, config.autoencoder, residual)
        case MixtureOfCodesConfig():
            separate = config.decoder == "separate"
            aggregate: Aggregate = "concat" if separate else config.aggregate
            parallel = ParallelCodebooks(*sizes, aggregate=aggregate, projection=config.projection)
            torch.set_rng_state(state)
            return QuantizedAutoencoder(input_dim, config.autoencoder, parallel, separate_decoders=separate)
        case _:
            assert_never(config)


def loss_weights(config: RQVAEConfig | MixtureOfCodesConfig) -> LossWeights:
    diversity = config.diversity_weight if isinstance(config, MixtureOfCodesConfig) else 0.0
    return LossWeights(config.beta, config.reduction, config.books_reduction, diversity)
