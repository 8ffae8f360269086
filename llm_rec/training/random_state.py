"""The global random generators of a process (python, numpy, torch, CUDA) as tensors: saved and restored exactly."""

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def read_generators() -> dict[str, Tensor]:
    """State of every global generator; tensors of fixed shapes, so that states of several processes stack."""
    version, words, gauss = random.getstate()
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002 - to save it, not to draw
    states = {
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "python_gauss": _optional(gauss),
        "numpy": torch.tensor([*numpy["state"]["key"].tolist(), numpy["state"]["pos"], numpy["has_gauss"]]),
        "numpy_gauss": torch.tensor([numpy["gauss"]], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def write_generators(states: Mapping[str, Tensor]) -> None:
    """Put every global generator back to a state that `read_generators` gave."""
    version, *words = states["python"].tolist()
    known, gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss if known else None))
    *keys, position, has_gauss = states["numpy"].tolist()
    cached = states["numpy_gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def seed_generators(seed: int) -> None:
    """Seed every global generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - tasks that draw from the global generator get a seeded one
    torch.manual_seed(seed)  # seeds CUDA too


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Whatever is drawn inside leaves the global generators as they were."""
    states = read_generators()
    try:
        yield
    finally:
        write_generators(states)


def _optional(value: float | None) -> Tensor:
    return torch.tensor([value is not None, value or 0.0], dtype=torch.float64)
