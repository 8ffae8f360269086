"""What all quantisers share: config <-> JSON, files, chunked encoding and decoding, checks at the edge."""

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from semantic_ids.files import Plain, write_tensors
from semantic_ids.vectors import CHUNK, Vectors, check_vectors, chunks

T = TypeVar("T")
QuantizerState: TypeAlias = Mapping[str, Tensor]
KIND = "quantizer"


class IsDataclass(Protocol):
    __dataclass_fields__: dict[str, object]


def kind_of(config: type) -> str:
    """Name of a config class in files: snake case, without ``Config``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", config.__name__.removesuffix("Config")).lower()


def plain_config(config: object) -> dict[str, Plain]:
    """A (nested) config dataclass as JSON values, with its kind."""
    if not is_dataclass(config) or isinstance(config, type):
        raise ValueError(f"{config!r} is not a config")
    return {"kind": kind_of(type(config)), **{f.name: _plain(getattr(config, f.name)) for f in fields(config)}}


def config_from_plain(cls: type[T], plain: Mapping[str, Plain]) -> T:
    """The inverse of `plain_config` for a known class; unknown keys are a `ValueError`."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]  # T is one of the config dataclasses
    unknown = [key for key in plain if key not in known and key != "kind"]
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}; known: {', '.join(known)}")
    values: dict[str, object] = {}
    for key, value in plain.items():
        if key == "kind":
            continue
        hint = known[key].type
        if isinstance(value, dict):
            if not isinstance(hint, type):
                raise ValueError(f"{cls.__name__}.{key} is not a group of settings")
            values[key] = config_from_plain(hint, value)
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return cls(**values)


def save_quantizer(path: Path, config: object, input_dim: int, state: QuantizerState) -> None:
    """One file: the weights, and the config in the header."""
    write_tensors(path, KIND, state, {"config": plain_config(config), "input_dim": input_dim})


def require_fitted(state: T | None, config: object) -> T:
    if state is None:
        raise ValueError(
            f"this {kind_of(type(config))} quantizer is not fitted; call fit, or load one by load_quantizer"
        )
    return state


def check_sizes(num_codebooks: int, codebook_size: int) -> None:
    if num_codebooks < 1:
        raise ValueError(f"num_codebooks must be at least 1, got {num_codebooks}")
    if codebook_size < 2:
        raise ValueError(f"codebook_size must be at least 2, got {codebook_size}")


def check_codes(codes: Int64[np.ndarray, "items books"], sizes: tuple[int, ...]) -> None:
    """Raise `ValueError` unless each column holds codes of its book."""
    if codes.shape[1] != len(sizes):
        raise ValueError(f"codes have {codes.shape[1]} columns but the quantizer has {len(sizes)} books")
    wrong = ((codes < 0) | (codes >= np.array(sizes))).nonzero()
    if len(wrong[0]):
        row, book = int(wrong[0][0]), int(wrong[1][0])
        raise ValueError(f"row {row}, book {book}: code {codes[row, book]} is not in 0..{sizes[book] - 1}")


def encode_in_chunks(
    vectors: Vectors, dim: int, encode: Callable[[Tensor], Tensor], device: torch.device
) -> Int64[np.ndarray, "items books"]:
    check_vectors(vectors, dim)
    return np.concatenate([encode(piece).cpu().numpy() for piece in chunks(vectors, device)])


def decode_in_chunks(
    codes: Int64[np.ndarray, "items books"], decode: Callable[[Tensor], Tensor], device: torch.device
) -> Float32[np.ndarray, "items dim"]:
    pieces = torch.split(torch.from_numpy(np.ascontiguousarray(codes)), CHUNK)
    return np.concatenate([decode(piece.to(device)).cpu().numpy() for piece in pieces])


def _plain(value: object) -> Plain:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return cast(Plain, value)
