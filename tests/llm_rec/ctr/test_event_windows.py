import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.ctr.event_windows import EventSequences, EventWindows
from llm_rec.errors import DataError

# two users: three events, then two
EVENTS = EventSequences(
    np.array([[2, 9], [3, 9], [4, 8], [5, 8], [6, 9]]), np.array([1, 2, 7, 1, 5]), np.array([0, 3, 5])
)


def random_log(seed: int) -> EventSequences:
    random = np.random.default_rng(seed)
    counts = random.integers(0, 7, size=6)
    times = [np.sort(random.integers(0, 20, size=count)) for count in counts]
    ids = np.arange(counts.sum() * 2).reshape(-1, 2) + 2
    return EventSequences(ids, np.concatenate(times), np.concatenate([[0], np.cumsum(counts)]))


def test_windows_stop_at_the_first_event_of_their_user() -> None:
    windows = EVENTS.windows(np.array([0, 2, 3, 4]), 3)
    assert windows[:, :, 0].tolist() == [[0, 0, 2], [2, 3, 4], [0, 0, 5], [0, 5, 6]]
    assert windows[1, :, 1].tolist() == [9, 9, 8]


def test_a_cut_keeps_what_was_before() -> None:
    early = EVENTS.until(5)
    assert early.ids[:, 0].tolist() == [2, 3, 5]
    assert early.starts.tolist() == [0, 2, 3]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cutoff=st.integers(0, 21), slots=st.integers(1, 5))
def test_windows_hold_no_event_from_the_cutoff_on_and_none_of_another_user(seed: int, cutoff: int, slots: int) -> None:
    log = random_log(seed)
    early = log.until(cutoff)
    if not (np.diff(early.starts) > 1).any():
        with pytest.raises(DataError, match="no user has two events, so there is no pattern to learn from"):
            EventWindows(early, slots, 3)
        return
    assert log.times is not None
    time_of = dict(zip(log.ids[:, 0].tolist(), log.times.tolist(), strict=True))
    user_of = dict(zip(log.ids[:, 0].tolist(), np.repeat(np.arange(6), np.diff(log.starts)).tolist(), strict=True))
    for batch in EventWindows(early, slots, 3, seed).epoch(1):
        assert batch.history is not None
        for window in batch.history.ids[:, :, 0].tolist():
            real = [item for item in window if item]
            assert all(time_of[item] < cutoff for item in real)
            assert len({user_of[item] for item in real}) == 1
            assert [time_of[item] for item in real] == sorted(time_of[item] for item in real)


def test_an_epoch_has_each_event_with_a_past_once_in_an_order_that_seed_and_epoch_fix() -> None:
    source = EventWindows(random_log(1), 3, 4, seed=5)
    batches = list(source.epoch(1))
    anchors = [batch.history.ids[:, -1, 0].tolist() for batch in batches if batch.history is not None]
    assert len(batches) == len(source)
    assert sorted(item for part in anchors for item in part) == random_log(1).ids[source.anchors, 0].tolist()
    again = [batch.history.ids[:, -1, 0].tolist() for batch in source.epoch(1, 1) if batch.history is not None]
    assert again == anchors[1:]
    other = [batch.history.ids[:, -1, 0].tolist() for batch in source.epoch(2) if batch.history is not None]
    assert other != anchors
    assert [len(batch) for batch in batches] == [len(part) for part in anchors]


def test_fewer_windows_are_the_first_of_each_epochs_order() -> None:
    def anchors(source: EventWindows, epoch: int) -> list[int]:
        histories = [batch.history for batch in source.epoch(epoch)]
        return [item for history in histories if history is not None for item in history.ids[:, -1, 0].tolist()]

    whole, some = EventWindows(random_log(1), 3, 4, seed=5), EventWindows(random_log(1), 3, 4, seed=5, max_windows=6)
    assert (len(some), len(list(some.epoch(1)))) == (2, 2)
    for epoch in (1, 2):
        assert anchors(some, epoch) == anchors(whole, epoch)[:6]
    assert anchors(some, 1) != anchors(some, 2)
    assert anchors(EventWindows(random_log(1), 3, 4, seed=5, max_windows=10**6), 1) == anchors(whole, 1)


def test_events_of_rows_are_those_that_a_row_looks_back_on() -> None:
    events = np.arange(22, dtype=np.int32).reshape(11, 2)  # number 0 is padding
    windows = np.array([[7, 7], [1, 3], [4, 6], [1, 2], [4, 4], [8, 11]])
    seen = EventSequences.before(events, windows)
    assert seen.ids[:, 0].tolist() == [2, 4, 8, 10, 16, 18, 20]
    assert seen.starts.tolist() == [0, 2, 4, 4, 7]
    assert seen.windows(np.array([1, 3, 4]), 2)[:, :, 0].tolist() == [[2, 4], [8, 10], [0, 16]]
    with pytest.raises(DataError, match="these events have no times, so they cannot be cut at 3; give them with"):
        seen.until(3)


def test_damaged_logs_are_refused() -> None:
    with pytest.raises(DataError, match="starts must run from 0 to the 5 events, got \\[0\\] to \\[4\\]"):
        EventSequences(EVENTS.ids, EVENTS.times, np.array([0, 3, 4]))
    with pytest.raises(DataError, match="event 3 is earlier than the one before it; sort each user's events by time"):
        EventSequences(EVENTS.ids, EVENTS.times, np.array([0, 5]))
