"""Batches of histories: short histories share batches with short ones, so almost nothing of a batch is padding."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from llm_rec.data.splits import Split
from llm_rec.errors import DataError
from llm_rec.sequential.negatives import NegativeSampler, NegativesConfig

Windows = Literal["last", "all"]


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """Histories, right padded with row 0, and what follows their positions.

    `positions` are flat indices into batch * length, row-major; `targets` the next item of each. `negatives` are
    `(targets, number)`, or `(number,)` when the whole batch shares them; the log probabilities are there when asked
    for.
    """

    history: Int64[Tensor, "batch length"]
    positions: Int64[Tensor, "targets"]
    targets: Int64[Tensor, "targets"]
    negatives: Int64[Tensor, "targets number"] | Int64[Tensor, "number"] | None = None
    neg_log_q: Float32[Tensor, "targets number"] | Float32[Tensor, "number"] | None = None
    pos_log_q: Float32[Tensor, "targets"] | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "SequenceBatch":
        """The same batch on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        return SequenceBatch(
            history=self.history.to(device, non_blocking=non_blocking),
            positions=self.positions.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
            negatives=move(self.negatives),
            neg_log_q=move(self.neg_log_q),
            pos_log_q=move(self.pos_log_q),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchConfig:
    """How an epoch is cut into batches.

    `tokens` (the default) gives every batch about that many history positions, of users with similar lengths: the same
    number of targets in every step and hardly any padding. `users` gives every batch that many users drawn at random,
    as papers report it; set `tokens` to None with it. `windows`: "last" trains on the last `max_length` + 1 train
    events of a user, as SASRec does; "all" cuts longer histories into several windows, so that every event but a
    user's first is a target once.
    """

    max_length: int = 50
    tokens: int | None = 2048
    users: int | None = None
    windows: Windows = "last"

    def __post_init__(self) -> None:
        if self.max_length < 1:
            raise ValueError(f"max_length must be at least 1, got {self.max_length}")
        if (self.tokens is None) == (self.users is None):
            raise ValueError(f"set exactly one of tokens and users, got tokens={self.tokens} and users={self.users}")
        if self.tokens is not None and self.tokens < 2 * self.max_length:
            raise ValueError(f"tokens must be at least 2 * max_length = {2 * self.max_length}, got {self.tokens}")
        if self.users is not None and self.users < 1:
            raise ValueError(f"users must be at least 1, got {self.users}")


BATCHES_PER_SORT = 64  # batches among which users are sorted by length: more means less padding and less mixing


class SequenceBatches:
    """The train part of a split as a `BatchSource`: every batch is a pure function of (seed, epoch, step).

    Takes users with at least two train events; raises `DataError` when there is none. The number of steps is the
    same in every epoch.
    """

    def __init__(self, split: Split, config: BatchConfig, negatives: NegativesConfig | None, seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.config = config
        self.seed = seed
        self.items = split.log.items
        self.sampler = None if negatives is None else NegativeSampler(split, negatives)
        self.users, self.starts, self.lengths = _windows(split, config)
        if not len(self.users):
            raise DataError(
                "no user has two train events, so there is no next item to learn; use a log with longer histories"
            )
        self.num_targets = int(self.lengths.sum())
        if config.users is not None:
            self._steps = -(-len(self.users) // config.users)
        else:
            self._steps = max(1, round(self.num_targets / (config.tokens or 1)))

    def __len__(self) -> int:
        return self._steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SequenceBatch]:
        """Batches `first_step`, `first_step + 1`, ... of `epoch`."""
        order, bounds = self._plan(epoch)
        for step in range(first_step, len(self)):
            rng = np.random.default_rng([self.seed, epoch, step + 1])
            yield self._batch(order[bounds[step, 0] : bounds[step, 1]], rng)

    def _plan(self, epoch: int) -> tuple[Int64[np.ndarray, "windows"], Int64[np.ndarray, "steps 2"]]:
        """Order of the windows, and the slice of that order that each step takes."""
        rng = np.random.default_rng([self.seed, epoch, 0])
        order = rng.permutation(len(self.users))
        if self.config.users is not None:
            edges = np.minimum(np.arange(len(self) + 1) * self.config.users, len(order))
        else:
            order, edges = self._sorted_in_chunks(order)
        bounds = np.stack([edges[:-1], edges[1:]], axis=1)
        return order, rng.permutation(bounds)

    def _sorted_in_chunks(
        self, order: Int64[np.ndarray, "windows"]
    ) -> tuple[Int64[np.ndarray, "windows"], Int64[np.ndarray, "edges"]]:
        """Cut a shuffled order into chunks, sort each by length, and cut it into batches of equally many targets.

        A chunk of c batches holds c / steps of all targets, up to one user; within it batch b starts with the first
        user before whom b / c of the chunk's targets lie. A user is never longer than a batch, so no batch is empty.
        """
        steps, chunks = len(self), -(-len(self) // BATCHES_PER_SORT)
        first_batch = np.arange(chunks + 1) * steps // chunks
        before = np.cumsum(self.lengths[order]) - self.lengths[order]
        chunk = np.searchsorted(first_batch, before * steps // self.num_targets, side="right") - 1
        order = order[np.lexsort((self.lengths[order], chunk))]
        chunk.sort()
        lengths = self.lengths[order]
        mass = np.bincount(chunk, weights=lengths, minlength=chunks).astype(np.int64)
        before = np.cumsum(lengths) - lengths - (np.cumsum(mass) - mass)[chunk]
        batch = first_batch[chunk] + before * np.diff(first_batch)[chunk] // mass[chunk]
        return order, np.searchsorted(batch, np.arange(steps + 1)).astype(np.int64)

    def _batch(self, windows: Int64[np.ndarray, "batch"], rng: np.random.Generator) -> SequenceBatch:
        lengths = self.lengths[windows]
        real = np.arange(lengths.max()) < lengths[:, None]
        positions = np.flatnonzero(real)
        first = np.cumsum(lengths) - lengths
        events = np.arange(len(positions)) + np.repeat(self.starts[windows] - first, lengths)
        history = np.zeros(real.shape, dtype=np.int64)
        history.reshape(-1)[positions] = self.items[events]
        targets = np.ascontiguousarray(self.items[events + 1], dtype=np.int64)
        batch = (torch.from_numpy(history), torch.from_numpy(positions), torch.from_numpy(targets))
        if self.sampler is None:
            return SequenceBatch(*batch)
        drawn = self.sampler.draw(np.repeat(self.users[windows], lengths), targets, rng)
        return SequenceBatch(*batch, torch.from_numpy(drawn.items), _tensor(drawn.log_q), _tensor(drawn.target_log_q))


def _windows(
    split: Split, config: BatchConfig
) -> tuple[Int64[np.ndarray, "windows"], Int64[np.ndarray, "windows"], Int64[np.ndarray, "windows"]]:
    """User, first event and number of targets of every window; the target of an event is the event after it."""
    starts, ends = split.log.offsets[:-1], split.train_ends
    users = np.flatnonzero(ends - starts >= 2)
    starts, targets = starts[users], ends[users] - starts[users] - 1
    if config.windows == "last":
        lengths = np.minimum(targets, config.max_length)
        return users, starts + targets - lengths, lengths
    number = -(-targets // config.max_length)
    place = np.arange(number.sum()) - np.repeat(
        np.cumsum(number) - number, number
    )  # 0 = most recent window of its user
    users, starts, targets = (np.repeat(column, number) for column in (users, starts, targets))
    last = targets - place * config.max_length
    first = np.maximum(last - config.max_length, 0)
    return users, starts + first, last - first


def _tensor(array: np.ndarray | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)
