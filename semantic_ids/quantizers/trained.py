"""Quantised autoencoders behind the one interface: the same network and fit around each kind of codebooks."""

from pathlib import Path
from typing import TypeAlias, assert_never

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from semantic_ids.autoencoder import LossWeights, QuantizedAutoencoder
from semantic_ids.codebooks import Aggregate, ParallelCodebooks, ResidualCodebooks
from semantic_ids.quantizers.checkpoint import FitCheckpoint
from semantic_ids.quantizers.fitting import AutoencoderFit, Objective
from semantic_ids.quantizers.fsq import FiniteScalarCodebooks, FSQConfig
from semantic_ids.quantizers.letter import LETTERConfig, LetterObjective, check_collaborative
from semantic_ids.quantizers.lfq import EntropyObjective, LFQConfig, LookupFreeCodebooks
from semantic_ids.quantizers.moc import MixtureOfCodesConfig
from semantic_ids.quantizers.protocol import FitLog, Progress
from semantic_ids.quantizers.rqvae import RQVAEConfig
from semantic_ids.quantizers.saving import (
    QuantizerState,
    check_codes,
    decode_in_chunks,
    encode_in_chunks,
    plain_config,
    require_fitted,
    save_quantizer,
)
from semantic_ids.quantizers.simvq import LinearCodebooks, SimVQConfig
from semantic_ids.vectors import Vectors, check_vectors, fingerprint, take

TrainedConfig: TypeAlias = RQVAEConfig | MixtureOfCodesConfig | SimVQConfig | FSQConfig | LFQConfig | LETTERConfig


class AutoencoderQuantizer:
    """A network of the union above, fitted by optimiser steps. `collaborative` vectors are LETTER's alone."""

    def __init__(
        self, config: TrainedConfig, input_dim: int, *, device: str = "cpu", collaborative: Vectors | None = None
    ) -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._collaborative = collaborative
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
        objective = self._objective(len(vectors), seed)
        identity = plain_config(self.config)
        if self._collaborative is not None:
            identity["collaborative"] = fingerprint(self._collaborative)
        kept = FitCheckpoint.of(checkpoint, identity, vectors, seed, str(self._device))
        model = self._build(seed)
        weights = loss_weights(self.config)
        log = AutoencoderFit(model, self.config.fit, weights, vectors, seed, objective).run(kept, progress)
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

    def _objective(self, items: int, seed: int) -> Objective | None:
        match self.config:
            case LETTERConfig():
                check_collaborative(self.config, self._collaborative, items)
                return LetterObjective(self.config, self._collaborative, seed).to(self._device)
            case LFQConfig():
                return EntropyObjective(self.config)
            case RQVAEConfig() | MixtureOfCodesConfig() | SimVQConfig() | FSQConfig():
                return None
            case _:
                assert_never(self.config)


def build_autoencoder(config: TrainedConfig, input_dim: int) -> QuantizedAutoencoder:
    """The untrained network of a config. The encoder is drawn before the codebooks, so all kinds start from the same
    one.
    """
    state = torch.get_rng_state()
    codebooks = build_codebooks(config)
    torch.set_rng_state(state)
    separate = isinstance(config, MixtureOfCodesConfig) and config.decoder == "separate"
    return QuantizedAutoencoder(input_dim, config.autoencoder, codebooks, separate_decoders=separate)


def build_codebooks(config: TrainedConfig) -> nn.Module:
    """The bottleneck of a config."""
    sizes = (config.autoencoder.latent_dim, config.num_codebooks, config.codebook_size)
    match config:
        case RQVAEConfig():
            return ResidualCodebooks(*sizes, beam=config.beam_size)
        case LETTERConfig():
            return ResidualCodebooks(*sizes, balanced=True)
        case MixtureOfCodesConfig():
            aggregate: Aggregate = "concat" if config.decoder == "separate" else config.aggregate
            return ParallelCodebooks(*sizes, aggregate=aggregate, projection=config.projection)
        case SimVQConfig():
            return LinearCodebooks(*sizes, frozen=config.frozen)
        case FSQConfig():
            return FiniteScalarCodebooks(config.autoencoder.latent_dim, config.num_codebooks, config.scalar_levels)
        case LFQConfig():
            return LookupFreeCodebooks(*sizes)
        case _:
            assert_never(config)


def loss_weights(config: TrainedConfig) -> LossWeights:
    """How the terms of a config add up; scalar codes have no codewords that a loss could move."""
    match config:
        case RQVAEConfig() | SimVQConfig() | LETTERConfig():
            return LossWeights(config.beta, config.reduction, config.books_reduction)
        case MixtureOfCodesConfig():
            return LossWeights(config.beta, config.reduction, config.books_reduction, config.diversity_weight)
        case LFQConfig():
            return LossWeights(config.beta, config.reduction, "mean", codebook=0.0)
        case FSQConfig():
            return LossWeights(0.0, config.reduction, "mean", codebook=0.0)
        case _:
            assert_never(config)
