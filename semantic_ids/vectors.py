"""Item vectors as they come: numpy arrays (memory-mapped ones too) or tensors. Read in chunks, computed in float32."""

import hashlib
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

Vectors: TypeAlias = Float[np.ndarray, "items dim"] | Float[Tensor, "items dim"]

CHUNK = 16_384


def take(vectors: Vectors, rows: Int64[Tensor, " rows"], device: torch.device) -> Float[Tensor, "rows dim"]:
    """The given rows as float32 on `device`."""
    if isinstance(vectors, Tensor):
        return vectors[rows.to(vectors.device)].to(device, torch.float32)
    return torch.from_numpy(np.asarray(vectors[rows.numpy()], dtype=np.float32)).to(device)


def chunks(vectors: Vectors, device: torch.device, size: int = CHUNK) -> Iterator[Tensor]:
    """All rows in order, `size` at a time, as float32 on `device`."""
    for start in range(0, len(vectors), size):
        piece = vectors[start : start + size]
        if isinstance(piece, Tensor):
            yield piece.to(device, torch.float32)
        else:
            yield torch.from_numpy(np.array(piece, dtype=np.float32)).to(device)


def sample(vectors: Vectors, size: int, generator: torch.Generator, device: torch.device) -> Float[Tensor, "rows dim"]:
    """`size` rows without replacement in catalog order, or all of them when there are no more than that."""
    if len(vectors) <= size:
        rows = torch.arange(len(vectors))
    else:
        rows = torch.randperm(len(vectors), generator=generator)[:size].sort().values
    return take(vectors, rows, device)


def check_vectors(vectors: Vectors, dim: int) -> None:
    """Raise `ValueError` unless there are rows, `dim` wide, and all finite."""
    if len(vectors) == 0:
        raise ValueError("vectors hold 0 rows; there is nothing to quantise")
    if vectors.shape[1] != dim:
        raise ValueError(f"vectors are {vectors.shape[1]} wide but this quantizer was built for {dim}")
    start = 0
    for piece in chunks(vectors, torch.device("cpu")):
        finite = torch.isfinite(piece).all(1)
        if not bool(finite.all()):
            row = start + int((~finite).nonzero()[0, 0])
            raise ValueError(f"row {row} of the vectors is not finite; encode that item again or leave it out")
        start += len(piece)


def fingerprint(vectors: Vectors) -> str:
    """Name of a matrix: its shape and at most 1,024 evenly spaced rows, hashed."""
    rows = torch.linspace(0, len(vectors) - 1, min(len(vectors), 1024), dtype=torch.float64).round().long()
    digest = hashlib.sha256(repr(tuple(vectors.shape)).encode())
    digest.update(take(vectors, rows, torch.device("cpu")).numpy().tobytes())
    return digest.hexdigest()[:16]


def seeded(seed: int, *stream: int) -> torch.Generator:
    """A generator that is a pure function of `seed` and the numbers of a stream, so nothing has to be remembered.

    >>> torch.equal(torch.rand(2, generator=seeded(1, 2)), torch.rand(2, generator=seeded(1, 2)))
    True
    """
    mixed = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
