"""Quantisers: one small file each, one interface, one closed union of configs.

>>> import numpy as np
>>> vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
>>> quantizer = build_quantizer(RQKMeansConfig(num_codebooks=2, codebook_size=4), input_dim=8)
>>> _ = quantizer.fit(vectors, seed=1)
>>> quantizer.encode(vectors).shape, quantizer.decode(quantizer.encode(vectors)).shape
((200, 2), (200, 8))
"""

from pathlib import Path
from typing import TypeAlias, assert_never, get_args

from semantic_ids.files import read_tensors
from semantic_ids.quantizers.fitting import FitConfig
from semantic_ids.quantizers.fsq import FSQConfig
from semantic_ids.quantizers.grouped import GroupedResidual, GroupedRQConfig
from semantic_ids.quantizers.hashed import RandomConfig, RandomHash
from semantic_ids.quantizers.letter import LETTERConfig
from semantic_ids.quantizers.lfq import LFQConfig
from semantic_ids.quantizers.moc import MixtureOfCodesConfig
from semantic_ids.quantizers.opq import OPQConfig
from semantic_ids.quantizers.pq import PQConfig, ProductQuantizer
from semantic_ids.quantizers.protocol import FitLog, Progress, Quantizer
from semantic_ids.quantizers.rqkmeans import ResidualKMeans, RQKMeansConfig
from semantic_ids.quantizers.rqvae import RQVAEConfig
from semantic_ids.quantizers.saving import KIND, config_from_plain, kind_of, plain_config
from semantic_ids.quantizers.simvq import SimVQConfig
from semantic_ids.quantizers.trained import AutoencoderQuantizer, TrainedConfig
from semantic_ids.quantizers.vq import LibraryRQ, LibraryRQConfig
from semantic_ids.vectors import Vectors

QuantizerConfig: TypeAlias = (
    RQVAEConfig
    | MixtureOfCodesConfig
    | RQKMeansConfig
    | PQConfig
    | OPQConfig
    | GroupedRQConfig
    | SimVQConfig
    | FSQConfig
    | LFQConfig
    | LETTERConfig
    | LibraryRQConfig
    | RandomConfig
)

__all__ = [
    "FSQConfig",
    "FitConfig",
    "FitLog",
    "GroupedRQConfig",
    "LETTERConfig",
    "LFQConfig",
    "LibraryRQConfig",
    "MixtureOfCodesConfig",
    "OPQConfig",
    "PQConfig",
    "Progress",
    "Quantizer",
    "QuantizerConfig",
    "RQKMeansConfig",
    "RQVAEConfig",
    "RandomConfig",
    "SimVQConfig",
    "TrainedConfig",
    "build_quantizer",
    "load_quantizer",
    "plain_config",
]


def build_quantizer(
    config: QuantizerConfig, input_dim: int, *, device: str = "cpu", collaborative: Vectors | None = None
) -> Quantizer:
    """An unfitted quantizer for vectors of width `input_dim`.

    `collaborative` vectors, a row for each item of the fit, are what LETTER aligns its codes with; no other kind takes
    them (`ValueError`).
    """
    if collaborative is not None and not isinstance(config, LETTERConfig):
        raise ValueError(f"only letter takes collaborative vectors, a {kind_of(type(config))} quantizer does not")
    return _build(config, input_dim, device, collaborative)


def load_quantizer(path: Path, *, device: str = "cpu") -> Quantizer:
    """The fitted quantizer in the file `path`; `ValueError` when the file is not one."""
    state, header = read_tensors(path, KIND)
    plain, input_dim = header["config"], header["input_dim"]
    if not isinstance(plain, dict) or not isinstance(input_dim, int):
        raise ValueError(f"{path}: the header does not describe a quantizer; the file is damaged")
    classes: dict[object, type[QuantizerConfig]] = {kind_of(cls): cls for cls in get_args(QuantizerConfig)}
    if plain.get("kind") not in classes:
        raise ValueError(f"{path} holds a quantizer of kind {plain.get('kind')!r}; this library knows {list(classes)}")
    quantizer = _build(config_from_plain(classes[plain["kind"]], plain), input_dim, device)
    quantizer.restore(state)
    return quantizer


def _build(
    config: QuantizerConfig, input_dim: int, device: str, collaborative: Vectors | None = None
) -> AutoencoderQuantizer | ResidualKMeans | ProductQuantizer | GroupedResidual | LibraryRQ | RandomHash:
    if input_dim < 1:
        raise ValueError(f"input_dim must be at least 1, got {input_dim}")
    match config:
        case RQVAEConfig() | MixtureOfCodesConfig() | SimVQConfig() | FSQConfig() | LFQConfig() | LETTERConfig():
            return AutoencoderQuantizer(config, input_dim, device=device, collaborative=collaborative)
        case RQKMeansConfig():
            return ResidualKMeans(config, input_dim, device=device)
        case PQConfig() | OPQConfig():
            return ProductQuantizer(config, input_dim, device=device)
        case GroupedRQConfig():
            return GroupedResidual(config, input_dim, device=device)
        case LibraryRQConfig():
            return LibraryRQ(config, input_dim, device=device)
        case RandomConfig():
            return RandomHash(config, input_dim, device=device)
        case _:
            assert_never(config)
