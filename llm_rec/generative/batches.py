"""Batches for generative training: a history and the item after it, for every prefix of every user's train events."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from llm_rec.data.splits import Split
from llm_rec.data.user_keys import user_keys
from llm_rec.errors import DataError


@dataclass(frozen=True, eq=False)
class GenerativeBatch:
    """Item rows of histories (oldest first, right padded with 0), keys of their users, and the item that came next."""

    history: Int64[Tensor, "batch length"]
    users: Int64[Tensor, "batch"]
    targets: Int64[Tensor, "batch"]

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "GenerativeBatch":
        """The same batch on `device`."""
        moved = (x.to(device, non_blocking=non_blocking) for x in (self.history, self.users, self.targets))
        return GenerativeBatch(*moved)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerativeBatchConfig:
    """`batch_size` examples a step, each with the last `max_length` items before its target.

    An epoch takes every train event but a user's first as target once. Batches are cut from `sort_within` batches
    sorted by length: more means less padding and less mixing, 1 is plain shuffling.
    """

    batch_size: int = 256
    max_length: int = 20
    sort_within: int = 16

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "sort_within"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class GenerativeBatches:
    """The train part of a split as a `BatchSource`: every batch is a pure function of (seed, epoch, step).

    `DataError` when no user has two train events.
    """

    def __init__(self, split: Split, config: GenerativeBatchConfig, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.config = config
        self.seed = seed
        self.items = split.log.items
        starts = split.log.offsets[:-1]
        targets = np.maximum(split.train_ends - starts - 1, 0)
        users = np.repeat(np.arange(len(targets)), targets)
        place = np.arange(len(users)) - np.repeat(np.cumsum(targets) - targets, targets)
        if not len(users):
            raise DataError(
                "no user has two train events, so there is no next item to learn; use a log with longer histories"
            )
        self.events = starts[users] + place + 1
        self.lengths = np.minimum(place + 1, config.max_length)
        self.keys = user_keys(split.log.user_ids)[users]

    def __len__(self) -> int:
        return -(-len(self.events) // self.config.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[GenerativeBatch]:
        """Batches `first_step`, `first_step + 1`, ... of `epoch`."""
        order, steps = self._plan(epoch)
        size = self.config.batch_size
        for step in steps[first_step:].tolist():
            yield self._batch(order[step * size : (step + 1) * size])

    def _plan(self, epoch: int) -> tuple[Int64[np.ndarray, "examples"], Int64[np.ndarray, "steps"]]:
        """Examples in the order in which batches are cut from them, and the order of the batches."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.events))
        chunk = np.arange(len(order)) // (self.config.batch_size * self.config.sort_within)
        if self.config.sort_within > 1:
            order = order[np.lexsort((self.lengths[order], chunk))]
        return order, rng.permutation(len(self))

    def _batch(self, chosen: Int64[np.ndarray, "batch"]) -> GenerativeBatch:
        events, lengths = self.events[chosen], self.lengths[chosen]
        places = np.arange(lengths.max())
        real = places < lengths[:, None]
        index = np.where(real, (events - lengths)[:, None] + places, 0)
        history = np.where(real, self.items[index], 0).astype(np.int64)
        targets = np.ascontiguousarray(self.items[events], dtype=np.int64)
        return GenerativeBatch(
            torch.from_numpy(history), torch.from_numpy(self.keys[chosen]), torch.from_numpy(targets)
        )


def latest(history: Int64[Tensor, "batch length"], number: int) -> Int64[Tensor, "batch kept"]:
    """The last `number` items of right-padded histories, right padded.

    >>> latest(torch.tensor([[1, 2, 3], [4, 0, 0]]), 2).tolist()
    [[2, 3], [4, 0]]
    """
    kept = min(number, history.shape[1])
    lengths = history.ne(0).sum(1, keepdim=True)
    places = torch.arange(kept, device=history.device)
    index = (lengths - kept).clamp_min(0) + places
    return history.gather(1, index) * places.lt(lengths)
