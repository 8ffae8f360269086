"""The two contracts every sequential recommender is composed from."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor


@runtime_checkable
class ItemVectors(Protocol):
    """Item rows -> vectors: from ids, text, codes, or any mixture. Also an `nn.Module`. Row 0 (padding) gives zeros."""

    @property
    def dim(self) -> int: ...

    def __call__(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape dim"]: ...

    def all(self) -> Float[Tensor, "items_plus_one dim"]:
        """Vectors of every row, as used for ranking (evaluation behaviour, whatever the training mode)."""
        ...


@runtime_checkable
class Backbone(Protocol):
    """Item vectors of histories -> one user state per position. Causal: state t depends on positions 0..t only.

    Histories are right padded: `mask` is True on the first n positions of a row. Also an `nn.Module`.
    """

    def __call__(
        self, vectors: Float[Tensor, "batch length dim"], mask: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length dim"]: ...
