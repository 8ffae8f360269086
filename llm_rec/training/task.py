"""What the trainer needs to know of a model: a task gives a loss, a batch source gives batches. Nothing more."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
Batch_contra = TypeVar("Batch_contra", contravariant=True)
Moved = TypeVar("Moved")


class StepLoss(NamedTuple):
    """The scalar to minimise and its named parts (scalars of the same names in every step, logged as epoch means).

    `weight` is the number of examples `total` is a mean over, a host number known from shapes alone. Where several
    batches meet in one update (gradient accumulation, several processes) the update minimises
    ``sum(weight * total) / sum(weight)``, so means over different numbers of targets add up to the mean over all of
    them. The default of 1 gives every batch the same say. A part that is not a mean over examples (an MMD between two
    samples) is averaged with the same weights, which is not its value on the union of the batches.
    """

    total: Tensor
    parts: dict[str, Tensor]
    weight: float = 1.0


@runtime_checkable
class Movable(Protocol):
    """A batch: something that can be put on a device."""

    def to(self: Moved, device: torch.device) -> Moved: ...


@runtime_checkable
class Task(Protocol[Batch_contra]):
    """A model together with what is asked of it. `module` holds every parameter and buffer a checkpoint must keep."""

    @property
    def module(self) -> nn.Module: ...

    def loss(self, batch: Batch_contra) -> StepLoss:
        """Loss of one batch that lies on the module's device; never synchronises with the host."""
        ...


@runtime_checkable
class BatchSource(Protocol[Batch_co]):
    """Batches of an epoch as a pure function of (seed of the source, epoch, step): that is what makes resume exact."""

    def __len__(self) -> int:
        """Steps in one epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch_co]:
        """Batches `first_step`, `first_step + 1`, ... of `epoch` (counted from 1), on the CPU."""
        ...
