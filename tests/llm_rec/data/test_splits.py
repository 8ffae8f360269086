"""Splits: prefixes, disjoint parts, honest counts, and a leakage figure that can be computed by hand."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.codec import from_plain, to_plain
from llm_rec.data import (
    GlobalTimeConfig,
    Interactions,
    LeaveOneOutConfig,
    Split,
    SplitConfig,
    SplitSummary,
    global_time,
    leave_one_out,
    make_split,
    planted_world,
)
from llm_rec.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    split: SplitConfig


def log_of(users, *, num_items=9, times=True):
    """A log from one list of (item, time) a user; a user may be empty."""
    sizes = [len(events) for events in users]
    flat = [event for events in users for event in sorted(events, key=lambda e: e[1])]
    return Interactions(
        [str(user) for user in range(len(users))],
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([item for item, _ in flat], dtype=np.int64),
        np.array([time for _, time in flat], dtype=np.int64) if times else None,
        num_items=num_items,
        catalog="none",
    )


def check_split(split: Split):
    """Prefix property, no overlap, and counts, all by slow loops."""
    log = split.log
    in_train = np.zeros(log.num_events, dtype=bool)
    counts = np.zeros(log.num_items + 1, dtype=np.int64)
    for user in range(log.num_users):
        start, end, train_end = log.offsets[user], log.offsets[user + 1], split.train_ends[user]
        assert start <= train_end <= end
        for event in range(start, train_end):
            in_train[event] = True
            counts[log.items[event]] += 1
        for target in [*split.validation.tolist(), *split.test.tolist()]:
            if start <= target < end:
                assert target >= train_end
                assert target > start  # the history is not empty
    np.testing.assert_array_equal(split.in_train, in_train)
    np.testing.assert_array_equal(split.train_counts, counts)
    assert split.train_counts[0] == 0
    assert not set(split.validation.tolist()) & set(split.test.tolist())
    assert split.validation.dtype == split.test.dtype == split.train_ends.dtype == np.int64
    for part in (split.validation, split.test):
        assert (np.diff(part) > 0).all()
    summary = split.describe()
    assert summary.train_events == counts.sum()
    assert summary.unseen_test_targets == sum(counts[log.items[t]] == 0 for t in split.test.tolist())
    assert summary.unseen_items == sum(counts[1:] == 0)


def slow_leakage(split: Split):
    first = min(int(split.log.times[t]) for t in split.test.tolist())
    train = split.log.times[split.in_train].tolist()
    return sum(time > first for time in train) / len(train)


worlds = st.lists(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=8), min_size=1, max_size=8
).filter(lambda users: any(users))


@given(worlds, st.booleans())
@settings(max_examples=80, deadline=None)
def test_leave_one_out_properties(users, times):
    log = log_of(users, times=times)
    split = leave_one_out(log)
    check_split(split)
    long_enough = [user for user, events in enumerate(users) if len(events) >= 3]
    assert split.test.tolist() == [log.offsets[user + 1] - 1 for user in long_enough]
    assert split.validation.tolist() == [log.offsets[user + 1] - 2 for user in long_enough]
    if not times:
        assert split.leakage is None
    elif long_enough:
        assert split.leakage == pytest.approx(slow_leakage(split))


@given(worlds, st.integers(0, 30), st.integers(1, 30), st.booleans())
@settings(max_examples=120, deadline=None)
def test_global_time_properties(users, start, width, first_only):
    log = log_of(users)
    middle = start + width
    expected_validation, expected_test = [], []
    for user in range(log.num_users):
        events = range(log.offsets[user] + 1, log.offsets[user + 1])
        validation = [e for e in events if start <= log.times[e] < middle]
        test = [e for e in events if log.times[e] >= middle]
        expected_validation += validation[:1] if first_only else validation
        expected_test += test[:1] if first_only else test
    if start == 0 or not expected_validation or not expected_test or not (log.times < start).any():
        if start > 0:
            with pytest.raises(
                DataError, match="leaves no (train events|validation targets|test targets); the log spans"
            ):
                global_time(log, validation_from=start, test_from=middle, first_target_only=first_only)
        return
    split = global_time(log, validation_from=start, test_from=middle, first_target_only=first_only)
    check_split(split)
    np.testing.assert_array_equal(split.in_train, log.times < start)
    assert split.validation.tolist() == expected_validation
    assert split.test.tolist() == expected_test
    assert split.leakage == 0.0


def test_empty_train_parts_are_not_counted():
    log = log_of([[(1, 0), (2, 1)], [(3, 50), (4, 60)], [], [(5, 2), (6, 70)]])
    split = Split(log, np.array([2, 2, 4, 5]), np.array([], dtype=np.int64), np.array([3, 5]), leakage=None)
    assert split.train_counts.tolist() == [0, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert split.in_train.tolist() == [True, True, False, False, True, False]


def test_leakage_by_hand():
    log = log_of([[(1, 0), (2, 1), (3, 2), (4, 3)], [(1, 2), (2, 4), (3, 5), (4, 6)]])
    split = leave_one_out(log)
    assert split.leakage == 0.25  # of train times 0, 1, 2, 4 only 4 is later than the first test time 3
    assert split.leakage_note.startswith("25.0% of the train events are later than the earliest test target")


def test_notes_tell_unknown_from_none():
    without = leave_one_out(log_of([[(1, 0), (2, 1), (3, 2)]], times=False))
    assert without.leakage_note.startswith(
        "leakage unknown: the log knows the order of each user's events but no clock"
    )
    with_times = leave_one_out(log_of([[(1, 0), (2, 1), (3, 2)]]))
    assert with_times.leakage == 0
    assert with_times.leakage_note == "no leakage: no train event is later than the earliest test target"


def test_users_with_two_events_train_only():
    split = leave_one_out(log_of([[(1, 0), (2, 1)], [(1, 0), (2, 1), (3, 2)]]))
    assert split.train_ends.tolist() == [2, 3]
    assert split.describe() == SplitSummary(
        users=2,
        items=9,
        events=5,
        train_events=3,
        validation_targets=1,
        test_targets=1,
        unseen_test_targets=1,
        unseen_items=7,
        leakage=0.0,
    )


def test_quantiles_cut_at_event_times():
    log = log_of([[(1 + n % 9, n) for n in range(10)]])
    split = global_time(log, validation_from=0.6, test_from=0.8)
    assert split.train_ends.tolist() == [6]
    assert split.validation.tolist() == [6, 7]
    assert split.test.tolist() == [8, 9]


def test_default_quantiles_give_about_eighty_ten_ten():
    split = global_time(planted_world(400).log)
    summary = split.describe()
    check_split(split)
    assert 0.79 < summary.train_events / summary.events <= 0.8
    assert summary.leakage == 0.0


def test_dates_are_points_too():
    day = 86_400
    log = log_of([[(1, 0), (2, day - 1), (3, day), (4, 2 * day)]])
    split = global_time(log, validation_from="1970-01-02", test_from="1970-01-03T01:00:00+01:00")
    assert split.validation.tolist() == [2]
    assert split.test.tolist() == [3]
    with pytest.raises(DataError, match="'soon' is not an ISO 8601 time such as 2024-05-31"):
        global_time(log, validation_from="soon", test_from="1970-01-03")


def test_log_without_times_cannot_be_cut_by_the_clock():
    with pytest.raises(DataError, match="needs clock times, but this log knows only the order of each user's events"):
        global_time(log_of([[(1, 0), (2, 1), (3, 2)]], times=False))


def test_points_must_be_in_order():
    log = log_of([[(1, 0), (2, 1), (3, 2)]])
    with pytest.raises(DataError, match=r"validation_from must be before test_from, got 2 \(time 2\) and 1 \(time 1\)"):
        global_time(log, validation_from=2, test_from=1)
    with pytest.raises(DataError, match="leaves no test targets; the log spans 0 to 2"):
        global_time(log, validation_from=1, test_from=5)


def test_split_configs_are_a_tagged_union():
    log = planted_world(100).log
    for config in (LeaveOneOutConfig(), GlobalTimeConfig(validation_from=0.7, first_target_only=True)):
        again = from_plain(_Holder, to_plain(_Holder(split=config))).split
        assert again == config
        direct = leave_one_out(log) if isinstance(config, LeaveOneOutConfig) else None
        made = make_split(log, again)
        if direct is None:
            direct = global_time(log, validation_from=0.7, first_target_only=True)
        np.testing.assert_array_equal(made.test, direct.test)
        np.testing.assert_array_equal(made.train_ends, direct.train_ends)
    assert from_plain(GlobalTimeConfig, {"validation_from": "2020-01-01"}).validation_from == "2020-01-01"
    with pytest.raises(ConfigError, match="split.kind: 'leave_two_out' is not one of 'leave_one_out', 'global_time'"):
        from_plain(_Holder, {"split": {"kind": "leave_two_out"}})
