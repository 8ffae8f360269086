"""Events of users one after the other, cut at a time, and their windows as batches for pre-training."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64, Integer, Num

from ctr_models.batch import FeatureBatch, HistoryBatch
from llm_rec.errors import DataError


@dataclass(frozen=True, eq=False)
class EventSequences:
    """Events of all users, user by user, each user's in order of time: user u has rows `starts[u]`..`starts[u + 1]`.

    `ids` hold an event's fields (the item first), as `Schema.history` names them. `times` may be missing; then nothing
    can be cut.
    """

    ids: Int64[np.ndarray, "events fields"]
    times: Num[np.ndarray, "events"] | None
    starts: Int64[np.ndarray, "bounds"]

    def __post_init__(self) -> None:
        if not len(self.starts) or self.starts[0] != 0 or self.starts[-1] != len(self.ids):
            raise DataError(
                f"starts must run from 0 to the {len(self.ids)} events, got {self.starts[:1]} to {self.starts[-1:]}"
            )
        if self.times is None:
            return
        late = np.flatnonzero((np.diff(self.times) < 0) & ~self._first()[1:])
        if len(late):
            raise DataError(f"event {late[0] + 1} is earlier than the one before it; sort each user's events by time")

    @classmethod
    def before(
        cls, events: Integer[np.ndarray, "numbered fields"], windows: Int64[np.ndarray, "rows 2"]
    ) -> "EventSequences":
        """The events that rows look back on, each once: row r on numbers `windows[r, 0]`..`windows[r, 1] - 1` of
        `events`, where rows of one user begin at one number. Given the train rows of a log, no later event is among
        them.
        """
        firsts, users = np.unique(windows[:, 0], return_inverse=True)
        ends = firsts.copy()
        np.maximum.at(ends, users, windows[:, 1])
        starts = np.concatenate([[0], np.cumsum(ends - firsts)]).astype(np.int64)
        numbers = np.arange(starts[-1]) + np.repeat(firsts - starts[:-1], ends - firsts)
        return cls(np.asarray(events[numbers], dtype=np.int64), None, starts)

    def __len__(self) -> int:
        return len(self.ids)

    def until(self, cutoff: float | int) -> "EventSequences":
        """The events before `cutoff` alone; nothing later is left to be read."""
        if self.times is None:
            raise DataError(f"these events have no times, so they cannot be cut at {cutoff}; give them with times")
        kept = self.times < cutoff
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts].astype(np.int64)
        return EventSequences(self.ids[kept], self.times[kept], starts)

    @cached_property
    def user_starts(self) -> Int64[np.ndarray, "events"]:
        """For each event the first one of its user."""
        return np.repeat(self.starts[:-1], np.diff(self.starts))

    def windows(
        self, anchors: Int64[np.ndarray, "patterns"], slots: int
    ) -> Int64[np.ndarray, "patterns {slots} fields"]:
        """The windows that end at `anchors`: zeros before a user's first event."""
        columns = anchors[:, None] + np.arange(1 - slots, 1)
        real = columns >= self.user_starts[anchors][:, None]
        found: Int64[np.ndarray, "patterns slots fields"] = self.ids[np.maximum(columns, 0)] * real[:, :, None]
        return found

    def _first(self) -> Bool[np.ndarray, "events"]:
        first = np.zeros(len(self.ids) + 1, dtype=bool)
        first[self.starts] = True
        return first[:-1]


class EventWindows:
    """A `BatchSource[FeatureBatch]` of the windows of all events but those without one before them: each once an epoch,
    in an order that (seed, epoch) fix; with `max_windows` the first so many of that order, so others in every epoch. A
    batch has a history of `slots` columns and no other field.
    """

    def __init__(
        self, events: EventSequences, slots: int, batch_size: int, seed: int = 0, *, max_windows: int | None = None
    ) -> None:
        self.events, self.slots, self.batch_size, self.seed = events, slots, batch_size, seed
        self.anchors = np.flatnonzero(np.arange(len(events)) > events.user_starts)
        if not len(self.anchors):
            raise DataError("no user has two events, so there is no pattern to learn from; take a longer train period")
        self.num_windows = len(self.anchors) if max_windows is None else min(max_windows, len(self.anchors))

    def __len__(self) -> int:
        return -(-self.num_windows // self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[FeatureBatch]:
        """Batches `first_step`, ... of `epoch` (counted from 1)."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.anchors)[: self.num_windows]
        for step in range(first_step, len(self)):
            anchors = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield as_batch(self.events.windows(anchors, self.slots))


def as_batch(windows: Int64[np.ndarray, "patterns slots fields"]) -> FeatureBatch:
    """Windows as the histories of rows that have nothing else."""
    none = torch.zeros(len(windows), 0)
    ids = torch.zeros(len(windows), 0, dtype=torch.int64)
    return FeatureBatch(ids, none, none, none, history=HistoryBatch(torch.from_numpy(windows)))
