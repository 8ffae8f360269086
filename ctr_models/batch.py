"""Rows of a click log as tensors, with the past of their users."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class HistoryBatch:
    """The past events of each row's user: oldest first, padded on the left with 0.

    So the newest event is in the last column, and a column is equally far from the end in all rows. An event has an id
    for each field of `Schema.history`, in that order, of the vocabulary of the candidate's field. The first field is 0
    where there is no event, and nowhere else. `gaps` says how long before the row an event was, as a bucket from 1 on
    (0 for padding).
    """

    ids: Int64[Tensor, "batch length fields"]
    gaps: Int64[Tensor, "batch length"] | None = None

    @property
    def mask(self) -> Bool[Tensor, "batch length"]:
        """True for events, False for padding."""
        return self.ids[:, :, 0].ne(0)

    def newest(self, length: int) -> "HistoryBatch":
        """The last `length` columns."""
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        return HistoryBatch(self.ids[:, -length:], None if self.gaps is None else self.gaps[:, -length:])

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "HistoryBatch":
        """The same events on `device`."""
        gaps = None if self.gaps is None else self.gaps.to(device, non_blocking=non_blocking)
        return HistoryBatch(self.ids.to(device, non_blocking=non_blocking), gaps)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureBatch:
    """A batch in the layout of a `Schema`; kinds of fields that it lacks have width 0.

    `ids` start at 0 in every field; the table knows where a field's rows begin. `groups` are any integers: equal means
    one group (a user, a request). `history` is there when the schema has one and the reader was asked for it. `weights`
    are those of the rows in the loss, at least 0.
    """

    ids: Int64[Tensor, "batch id_columns"]
    numbers: Float32[Tensor, "batch numbers"]
    dense: Float32[Tensor, "batch width"]
    labels: Float32[Tensor, "batch labels"]
    groups: Int64[Tensor, "batch"] | None = None
    history: HistoryBatch | None = None
    weights: Float32[Tensor, "batch"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "FeatureBatch":
        """The same rows on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        groups = None if self.groups is None else move(self.groups)
        history = None if self.history is None else self.history.to(device, non_blocking=non_blocking)
        weights = None if self.weights is None else move(self.weights)
        ids, numbers, dense, labels = move(self.ids), move(self.numbers), move(self.dense), move(self.labels)
        return FeatureBatch(ids, numbers, dense, labels, groups, history, weights)
