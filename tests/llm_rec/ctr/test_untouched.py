"""Negatives by frequency: what rejection would draw, without rejecting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.ctr.untouched import UntouchedByFrequency
from llm_rec.errors import DataError


def sampler(histories, frequencies):
    size = len(frequencies)
    pairs = np.array(sorted({user * size + item for user, items in enumerate(histories) for item in items}), dtype=int)
    return UntouchedByFrequency(pairs, len(histories), np.array(frequencies))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=9, max_size=9),
    st.lists(st.lists(st.integers(0, 7), max_size=8), min_size=1, max_size=5),
    st.integers(0, 9),
)
def test_draws_are_items_that_occur_and_that_the_user_never_touched(frequencies, histories, seed):
    frequencies[8] = 1  # nobody touches it
    users = np.repeat(np.arange(len(histories)), 4)
    drawn = sampler(histories, frequencies).draw(users, 6, np.random.default_rng(seed))
    for user, items in zip(users.tolist(), drawn.tolist(), strict=True):
        assert set(items) <= {item for item in range(9) if frequencies[item]} - set(histories[user])


def test_draws_are_proportional_to_frequency():
    frequencies = np.array([0, 5, 1, 7, 3, 0, 4])
    drawn = sampler([[], [3, 1], [1, 2, 4]], frequencies)
    for user, touched in enumerate([[], [3, 1], [1, 2, 4]]):
        left = frequencies.copy()
        left[touched] = 0
        items = drawn.draw(np.full(40_000, user), 1, np.random.default_rng(user)).ravel()
        np.testing.assert_allclose(np.bincount(items, minlength=7) / 40_000, left / left.sum(), atol=0.01)


def test_it_ends_when_one_rare_item_is_left():
    frequencies = np.array([10**6, 10**6, 1])
    assert (
        sampler([[0, 1]], frequencies).draw(np.zeros(3, dtype=int), 2, np.random.default_rng(0)).tolist()
        == [[2] * 2] * 3
    )


def test_a_user_of_everything_has_no_negative():
    full = sampler([[0], [0, 2]], [3, 0, 1])
    with pytest.raises(DataError, match="user 1 .from 0. has touched every item that occurs, so no negative is left"):
        full.draw(np.array([0, 1]), 1, np.random.default_rng(0))
    assert full.draw(np.array([0, 1]), 0, np.random.default_rng(0)).shape == (2, 0)


def test_draws_do_not_depend_on_how_users_are_cut():
    drawn = sampler([[0], [1], [2]], [3, 4, 5])
    whole = drawn.draw(np.array([0, 1, 1, 2]), 3, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    pieces = [drawn.draw(np.array(users), 3, rng) for users in ([0, 1], [1, 2])]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
