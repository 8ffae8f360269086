"""What the trainer needs to know of a model: a task gives a loss, a batch source gives batches. Nothing more."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeVar

from torch import Tensor, nn

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)
Batch_contra = TypeVar("Batch_contra", contravariant=True)


class StepLoss(NamedTuple):
    """The scalar to minimise and its named parts (detached scalars, logged as means over the epoch)."""

    total: Tensor
    parts: dict[str, Tensor]


class Task(Protocol[Batch_contra]):
    """A model together with what is asked of it. `module` holds every parameter and buffer a checkpoint must keep."""

    @property
    def module(self) -> nn.Module: ...

    def loss(self, batch: Batch_contra) -> StepLoss:
        """Loss of one batch that lies on the module's device; never synchronises with the host."""
        ...


class BatchSource(Protocol[Batch_co]):
    """Batches of an epoch as a pure function of (seed of the source, epoch, step): that is what makes resume exact."""

    def __len__(self) -> int:
        """Steps in one epoch."""
        ...

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch_co]:
        """Batches `first_step`, `first_step + 1`, ... of `epoch`, on the CPU."""
        ...
