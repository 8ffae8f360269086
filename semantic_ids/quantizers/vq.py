"""The one door to vector-quantize-pytorch: its ResidualVQ, with codebooks that follow moving averages."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semantic_ids.autoencoder import Standardiser
from semantic_ids.codebooks import gather_codewords
from semantic_ids.files import Plain
from semantic_ids.kmeans import check_rows, squared_distances
from semantic_ids.quantizers.checkpoint import FitCheckpoint
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
from semantic_ids.vectors import Vectors, check_vectors, sample, seeded, take

if TYPE_CHECKING:
    from vector_quantize_pytorch import ResidualVQ

_BATCHES, _INIT, _STEPS = 401, 402, 403


@dataclass(frozen=True, kw_only=True, slots=True)
class LibraryRQConfig:
    """Residual quantisation of the vectors themselves by vector-quantize-pytorch: an online residual k-means.

    Codebooks are exponential moving averages (`decay`), started by k-means on a full sample. The library's dead-code
    threshold counts rows of a batch, so it is set from `dead_fraction` x batch / codes instead of a fixed number (its
    own default leaves dead codes alone). No encoder and no gradient: what its EMA codebooks do not offer, a beta on the
    commitment alone, is in `RQVAEConfig`. Worth a look where the rows do not fit k-means in one piece; otherwise prefer
    `RQKMeansConfig`, which converges.
    """

    num_codebooks: int = 3
    codebook_size: int = 256
    steps: int = 400
    batch_size: int = 2048
    decay: float = 0.95
    dead_fraction: float = 0.1
    kmeans_iterations: int = 10
    init_sample: int = 65_536
    beam_size: int = 1
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        check_sizes(self.num_codebooks, self.codebook_size)
        for name in ("steps", "batch_size", "kmeans_iterations", "init_sample", "beam_size", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {self.decay}")
        if not 0 <= self.dead_fraction < 1:
            raise ValueError(f"dead_fraction must be in [0, 1), got {self.dead_fraction}")


class LibraryRQ:
    """A `ResidualVQ` on vectors that are centred and divided by one number."""

    def __init__(self, config: LibraryRQConfig, input_dim: int, *, device: str = "cpu") -> None:
        self.config, self._input_dim, self._device = config, input_dim, torch.device(device)
        self._model: torch.nn.ModuleDict | None = None

    @property
    def input_dim(self) -> int:
        return self._input_dim

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        return (self.config.codebook_size,) * self.config.num_codebooks

    def fit(
        self, vectors: Vectors, *, seed: int = 0, checkpoint: Path | None = None, progress: Progress | None = None
    ) -> FitLog:
        started = time.monotonic()
        check_vectors(vectors, self.input_dim)
        check_rows(len(vectors), self.config.codebook_size)
        kept = FitCheckpoint.of(checkpoint, plain_config(self.config), vectors, seed, str(self._device))
        batch = min(self.config.batch_size, len(vectors))
        model = self._build(batch)
        done, history = self._resume(model, kept)
        if done == 0:
            _scale(model).fit(vectors, "global", 1.0)
            rows = sample(vectors, self.config.init_sample, seeded(seed, _INIT), self._device)
            self._forward(model, rows, seeded(seed, _STEPS))
        for step in range(done, self.config.steps):
            rows = take(vectors, _batch_rows(len(vectors), batch, seed, step), self._device)
            error = self._forward(model, rows, seeded(seed, _STEPS, step))
            if (step + 1) % self.config.checkpoint_every == 0 or step + 1 == self.config.steps:
                history.append({"step": float(step + 1), "reconstruction": float(error)})
                notes: dict[str, Plain] = {"step": step + 1, "history": [dict(entry) for entry in history]}
                kept.save(model.state_dict(), notes)
                if progress is not None:
                    progress(step + 1, self.config.steps, history[-1])
        self._model = model.eval()
        return FitLog(steps=self.config.steps, history=tuple(history), seconds=time.monotonic() - started)

    def encode(self, vectors: Vectors) -> Int64[np.ndarray, "items books"]:
        model = require_fitted(self._model, self.config)

        @torch.no_grad()
        def codes(piece: Tensor) -> Tensor:
            return cast(Tensor, _residual(model)(_scale(model)(piece).unsqueeze(0))[1][0])

        return encode_in_chunks(vectors, self.input_dim, codes, self._device)

    def decode(self, codes: Int64[np.ndarray, "items books"]) -> Float32[np.ndarray, "items dim"]:
        model = require_fitted(self._model, self.config)
        check_codes(codes, self.codebook_sizes)

        @torch.no_grad()
        def rows(piece: Tensor) -> Tensor:
            return _scale(model).inverse(_residual(model).get_output_from_indices(piece.unsqueeze(0))[0])

        return decode_in_chunks(codes, rows, self._device)

    def last_costs(
        self, vectors: Vectors, codes: Int64[np.ndarray, "items books"]
    ) -> Float[Tensor, "items last_codes"]:
        check_vectors(vectors, self.input_dim)
        check_codes(codes, self.codebook_sizes)
        model = require_fitted(self._model, self.config)
        rows = _scale(model)(take(vectors, torch.arange(len(vectors)), self._device))
        tables = cast(Tensor, _residual(model).codebooks)
        before = gather_codewords(tables[:-1], torch.from_numpy(codes[:, :-1]).to(self._device)).sum(1)
        return squared_distances(rows - before, tables[-1])

    def save(self, path: Path) -> None:
        save_quantizer(path, self.config, self.input_dim, require_fitted(self._model, self.config).state_dict())

    def restore(self, state: QuantizerState) -> None:
        """Take over saved codebooks."""
        model = self._build(self.config.batch_size)
        model.load_state_dict(dict(state))
        self._model = model.eval()

    def _build(self, batch: int) -> torch.nn.ModuleDict:
        from vector_quantize_pytorch import ResidualVQ

        config = self.config
        residual = ResidualVQ(
            dim=self.input_dim,
            num_quantizers=config.num_codebooks,
            codebook_size=config.codebook_size,
            decay=config.decay,
            kmeans_init=True,
            kmeans_iters=config.kmeans_iterations,
            threshold_ema_dead_code=config.dead_fraction * batch / config.codebook_size,
            rotation_trick=False,
            beam_size=config.beam_size if config.beam_size > 1 else None,
        )
        return torch.nn.ModuleDict({"scale": Standardiser(self.input_dim), "residual": residual}).to(self._device)

    @torch.no_grad()
    def _forward(self, model: torch.nn.ModuleDict, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One update of the moving averages. The library draws from the global generator, so that one is lent a
        seed.
        """
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(generator.initial_seed())
            scaled: Tensor = _scale(model)(rows)
            quantized: Tensor = model.train()["residual"](scaled.unsqueeze(0))[0][0]
        return (quantized - scaled).square().mean()

    def _resume(self, model: torch.nn.ModuleDict, kept: FitCheckpoint) -> tuple[int, list[dict[str, float]]]:
        found = kept.load()
        if found is None:
            return 0, []
        model.load_state_dict(found[0])
        return cast(int, found[1]["step"]), cast(list[dict[str, float]], found[1]["history"])


def _batch_rows(rows: int, batch: int, seed: int, step: int) -> Int64[Tensor, " batch"]:
    return torch.randint(rows, (batch,), generator=seeded(seed, _BATCHES, step))


def _scale(model: torch.nn.ModuleDict) -> Standardiser:
    return cast(Standardiser, model["scale"])


def _residual(model: torch.nn.ModuleDict) -> "ResidualVQ":
    return cast("ResidualVQ", model["residual"])
