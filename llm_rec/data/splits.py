"""Splits: what is learned from, what is tuned on, what is asked at the end.

Every split here cuts each user's events at one place: the train part is a prefix of the events, and the history
of any target is everything that user did before it. So a split is a few event indices into one log, never a copy.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Int64

from llm_rec.data.interactions import Interactions
from llm_rec.errors import DataError

TimePoint = float | int | str


@dataclass(frozen=True, eq=False)
class Split:
    """A log, the end of every user's train events, and the events asked for in validation and test.

    `train_ends[u]` is one past the last train event of user `u` (an index into `log.items`). `validation` and `test`
    hold event indices; the history of target event `e` of user `u` is `log.items[log.offsets[u]:e]`.
    """

    log: Interactions
    train_ends: Int64[np.ndarray, "users"]
    validation: Int64[np.ndarray, "validation"]
    test: Int64[np.ndarray, "test"]
    leakage: float | None  # share of train events later than the earliest test target's time; None without clock times

    @property
    def num_items(self) -> int:
        return self.log.num_items

    @cached_property
    def in_train(self) -> Bool[np.ndarray, "events"]:
        """True at every event of the train part."""
        return _prefix_mask(self.log, self.train_ends)

    @cached_property
    def train_counts(self) -> Int64[np.ndarray, "items_plus_one"]:
        """How often each item row occurs in the train part; entry 0 (padding) is 0."""
        return np.bincount(self.log.items[self.in_train], minlength=self.num_items + 1).astype(np.int64)

    @property
    def leakage_note(self) -> str:
        """The leakage figure in words, fit for a report."""
        if self.leakage is None:
            return (
                "leakage unknown: the log knows the order of each user's events but no clock times, so training may "
                "have seen events later than a test target"
            )
        if self.leakage == 0:
            return "no leakage: no train event is later than the earliest test target"
        return (
            f"{self.leakage:.1%} of the train events are later than the earliest test target, so training saw a future "
            "that a deployed model would not; a global-time split has none of it"
        )

    def describe(self) -> "SplitSummary":
        """Counts of the parts, for tables and reports."""
        unseen = int((self.train_counts[self.log.items[self.test]] == 0).sum())
        return SplitSummary(
            users=self.log.num_users,
            items=self.num_items,
            events=self.log.num_events,
            train_events=int(self.in_train.sum()),
            validation_targets=len(self.validation),
            test_targets=len(self.test),
            unseen_test_targets=unseen,
            unseen_items=int((self.train_counts[1:] == 0).sum()),
            leakage=self.leakage,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitSummary:
    """The figures of a split. Unseen: without a single train event."""

    users: int
    items: int
    events: int
    train_events: int
    validation_targets: int
    test_targets: int
    unseen_test_targets: int
    unseen_items: int
    leakage: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaveOneOutConfig:
    """Each user's last event for test, the one before for validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalTimeConfig:
    """Two points on the clock, the same for everybody; see `global_time`."""

    validation_from: TimePoint = 0.8
    test_from: TimePoint = 0.9
    first_target_only: bool = False


SplitConfig = LeaveOneOutConfig | GlobalTimeConfig


def make_split(log: Interactions, config: SplitConfig) -> Split:
    """The split that `config` asks for."""
    match config:
        case LeaveOneOutConfig():
            return leave_one_out(log)
        case GlobalTimeConfig():
            return global_time(
                log,
                validation_from=config.validation_from,
                test_from=config.test_from,
                first_target_only=config.first_target_only,
            )
        case _:
            assert_never(config)


def leave_one_out(log: Interactions) -> Split:
    """Last event of each user for test, the one before for validation, the rest for training.

    A user with fewer than three events trains only: nobody is tested on a history that no training saw.

    Every user is cut at another moment, so train events of one user may be later than the test event of another: what
    becomes popular or known later leaks into training. `leakage` says how much (None when the log has no clock times,
    which does not mean that there is none). It is the usual protocol of published tables; prefer `global_time` for a
    figure that speaks of deployment.
    """
    ends = log.offsets[1:]
    tested = np.diff(log.offsets) >= 3
    train_ends = np.where(tested, ends - 2, ends)
    test = (ends - 1)[tested]
    return Split(log, train_ends, validation=(ends - 2)[tested], test=test, leakage=_leakage(log, train_ends, test))


def global_time(
    log: Interactions,
    *,
    validation_from: TimePoint = 0.8,
    test_from: TimePoint = 0.9,
    first_target_only: bool = False,
) -> Split:
    """Train on events before `validation_from`, validate on those before `test_from`, test on the rest: no leakage.

    A point is a quantile of the event times (a number strictly between 0 and 1), a time in the unit of the log (any
    other number), or an ISO 8601 text (for logs in Unix seconds; no zone means UTC). Events at exactly a point belong
    to the later part. An event without any event of that user before it has an empty history and is no target, in
    either part. With `first_target_only`, each user has at most one target a part, the first: then every history ends
    where that part begins, and heavy users do not outweigh the others.

    Raises `DataError` when the log has no clock times, the points are not in order, or a part comes out empty.
    """
    if log.times is None:
        raise DataError(
            "a global-time split needs clock times, but this log knows only the order of each user's events; "
            "read it with time=..., or use leave_one_out"
        )
    start, middle = _clock(log.times, validation_from), _clock(log.times, test_from)
    if start >= middle:
        raise DataError(
            f"validation_from must be before test_from, got {validation_from!r} (time {start}) and "
            f"{test_from!r} (time {middle})"
        )
    train_ends = _count_before(log, log.times < start)
    validation_ends = _count_before(log, log.times < middle)
    has_history = np.ones(log.num_events, dtype=bool)
    has_history[log.offsets[:-1][np.diff(log.offsets) > 0]] = False
    test_mask = ~_prefix_mask(log, validation_ends) & has_history
    validation_mask = _prefix_mask(log, validation_ends) & ~_prefix_mask(log, train_ends) & has_history
    validation, test = (
        _targets(log, mask, first_target_only=first_target_only) for mask in (validation_mask, test_mask)
    )
    num_train = int((train_ends - log.offsets[:-1]).sum())
    for name, size in (
        ("train events", num_train),
        ("validation targets", len(validation)),
        ("test targets", len(test)),
    ):
        if not size:
            raise DataError(
                f"global-time split at {start} and {middle} leaves no {name}; the log spans {int(log.times.min())} to "
                f"{int(log.times.max())}"
            )
    return Split(log, train_ends, validation, test, leakage=_leakage(log, train_ends, test))


def _clock(times: Int64[np.ndarray, "events"], point: TimePoint) -> int:
    """A point as a time in the unit of the log."""
    if isinstance(point, str):
        try:
            moment = datetime.fromisoformat(point)
        except ValueError as error:
            raise DataError(f"{point!r} is not an ISO 8601 time such as 2024-05-31 or 2024-05-31T12:00:00") from error
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    if 0 < point < 1:
        rank = min(int(point * len(times)), len(times) - 1)
        return int(np.partition(times, rank)[rank])
    return int(np.ceil(point))


def _count_before(log: Interactions, before: Bool[np.ndarray, "events"]) -> Int64[np.ndarray, "users"]:
    """One past each user's last event where `before` is True (a prefix of every user's events)."""
    running = np.concatenate([[0], np.cumsum(before)])
    ends: np.ndarray = log.offsets[:-1] + running[log.offsets[1:]] - running[log.offsets[:-1]]
    return ends


def _prefix_mask(log: Interactions, ends: Int64[np.ndarray, "users"]) -> Bool[np.ndarray, "events"]:
    """True at the events from each user's start to `ends[u]`."""
    sizes = np.stack([ends - log.offsets[:-1], log.offsets[1:] - ends], axis=1)
    inside = np.tile(np.array([True, False]), log.num_users)
    return np.repeat(inside, sizes.ravel())


def _targets(
    log: Interactions, mask: Bool[np.ndarray, "events"], *, first_target_only: bool
) -> Int64[np.ndarray, "targets"]:
    events = np.flatnonzero(mask)
    if not first_target_only:
        return events
    return events[np.unique(log.users_of(events), return_index=True)[1]]


def _leakage(
    log: Interactions, train_ends: Int64[np.ndarray, "users"], test: Int64[np.ndarray, "test"]
) -> float | None:
    if log.times is None:
        return None
    train_times = log.times[_prefix_mask(log, train_ends)]
    if not len(test) or not len(train_times):
        return 0.0
    return float((train_times > log.times[test].min()).mean())
