"""What the rooms of this package ask of each other."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from ctr_models.batch import FeatureBatch


@runtime_checkable
class FieldSource(Protocol):
    """Anything that gives a row's fields their vectors: tables, frozen language-model vectors, semantic codes.

    The first axis counts embedding sets (multi-embedding, arXiv 2310.04400); an ordinary model has one.
    """

    @property
    def num_fields(self) -> int:
        """How many fields it gives."""
        ...

    def __call__(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]: ...


@runtime_checkable
class Interaction(Protocol):
    """Vectors of all fields -> one vector a row and set. Each set has parameters of its own."""

    @property
    def width(self) -> int:
        """Size of the result."""
        ...

    def __call__(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]: ...
