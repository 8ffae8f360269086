"""How tables of vectors start."""

import math
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalInit:
    """N(0, std^2). The default std is FuxiCTR's."""

    std: float = 1e-4

    def __post_init__(self) -> None:
        if self.std < 0:
            raise ValueError(f"std must not be negative, got {self.std}")


@dataclass(frozen=True, kw_only=True, slots=True)
class XavierJointInit:
    """U(-a, a) with a = sqrt(6 / (rows + dim)): Xavier over one table of all fields (arXiv 2310.04400, its code).

    `rows` counts the ids of all fields without padding, `dim` is that of one set. The scale depends on the size of the
    whole vocabulary: about 2.4e-3 for Criteo, and ten times that for ten thousand ids.
    """


TableInit: TypeAlias = NormalInit | XavierJointInit


@torch.no_grad()
def init_table(weight: Float[Tensor, "all_rows width"], init: TableInit, *, rows: int, dim: int) -> None:
    """Fill `weight`, in place; `rows` (without padding) and `dim` (of one set) are those of `XavierJointInit`."""
    match init:
        case NormalInit():
            weight.normal_(0.0, init.std)
        case XavierJointInit():
            bound = math.sqrt(6.0 / (rows + dim))
            weight.uniform_(-bound, bound)
        case _:
            assert_never(init)
