"""Rows of a click log as tensors."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBatch:
    """A batch in the layout of a `Schema`; kinds of fields that it lacks have width 0.

    `ids` start at 0 in every field; the table knows where a field's rows begin. `groups` are any integers: equal means
    one group (a user, a request).
    """

    ids: Int64[Tensor, "batch id_columns"]
    numbers: Float32[Tensor, "batch numbers"]
    dense: Float32[Tensor, "batch width"]
    labels: Float32[Tensor, "batch labels"]
    groups: Int64[Tensor, "batch"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "FeatureBatch":
        """The same rows on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        groups = None if self.groups is None else move(self.groups)
        return FeatureBatch(move(self.ids), move(self.numbers), move(self.dense), move(self.labels), groups)
