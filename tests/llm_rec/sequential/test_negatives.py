import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.data import Interactions, Split
from llm_rec.errors import ConfigError
from llm_rec.sequential.negatives import (
    NegativeSampler,
    PositionNegativesConfig,
    SharedNegativesConfig,
    item_weights,
)

HISTORIES = [[2, 3, 2, 5], [1], [4, 4], [1, 2, 3, 4, 5, 6]]
histories = st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=6)


def build(histories, num_items):
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int64)
    log = Interactions([str(u) for u in range(len(histories))], offsets, items, None, num_items=num_items, catalog="c")
    none = np.zeros(0, dtype=np.int64)
    return Split(log=log, train_ends=offsets[1:], validation=none, test=none, leakage=None)


def draw(split, config, users, targets=None, seed=0):
    users = np.asarray(users, dtype=np.int64)
    targets = np.ones_like(users) if targets is None else np.asarray(targets, dtype=np.int64)
    return NegativeSampler(split, config).draw(users, targets, np.random.default_rng(seed))


@given(histories=histories)
def test_kth_free_unit_is_the_kth_item_the_user_has_not_seen(histories):
    split = build(histories, 9)
    sampler = NegativeSampler(split, PositionNegativesConfig())
    for user, history in enumerate(histories):
        unseen = sorted(set(range(1, 10)) - set(history)) or list(range(1, 10))
        assert sampler.seen.free[user] == len(unseen)
        units = sampler.seen.skip(np.array([user]), np.arange(len(unseen))[None])
        assert sampler._owner(units)[0].tolist() == unseen


@given(histories=histories, alpha=st.sampled_from([0.0, 0.5, 1.0]), only=st.booleans())
def test_drawn_items_are_unseen_by_their_user_for_any_distribution(histories, alpha, only):
    split = build([*histories, [1, 2]], 9)
    config = PositionNegativesConfig(number=30, popularity=alpha, seen_in_train_only=only)
    allowed = np.flatnonzero(item_weights(split, config))
    for user, history in enumerate(histories):
        possible = set(allowed.tolist()) - set(history) or set(allowed.tolist())
        assert set(draw(split, config, [user] * 5).items.ravel().tolist()) <= possible


def test_a_user_who_has_seen_everything_gets_negatives_from_the_whole_catalog():
    drawn = draw(build(HISTORIES, 6), PositionNegativesConfig(number=200), [3])
    assert set(drawn.items.ravel().tolist()) == {1, 2, 3, 4, 5, 6}


def test_uniform_draws_reach_every_unseen_item_equally_often():
    drawn = draw(build(HISTORIES, 6), PositionNegativesConfig(number=3000), [0] * 10)
    counts = np.bincount(drawn.items.ravel(), minlength=7)
    assert counts[[0, 2, 3, 5]].tolist() == [0, 0, 0, 0]
    assert np.allclose(counts[[1, 4, 6]] / 30000, 1 / 3, atol=0.012)  # four standard deviations


def test_log_q_is_the_exact_probability_given_the_user():
    split = build(HISTORIES, 7)
    config = PositionNegativesConfig(number=50, popularity=0.5, log_q=True)
    drawn = draw(split, config, [0, 2], targets=[2, 4])
    root = np.sqrt(split.train_counts)
    for row, seen in enumerate([[2, 3, 5], [4]]):
        total = root.sum() - root[seen].sum()
        assert np.allclose(drawn.log_q[row], np.log(root[drawn.items[row]] / total), atol=1e-6)
    assert np.allclose(drawn.target_log_q[0], np.log(root[2] / (root.sum() - root[[2, 3, 5]].sum())), atol=1e-6)


def test_log_q_of_shared_negatives_sums_to_one_over_the_catalog():
    split = build(HISTORIES, 7)
    for config in (SharedNegativesConfig(log_q=True), SharedNegativesConfig(log_q=True, popularity=1.0)):
        every = np.array([1, 2, 3, 4, 5, 6])
        drawn = draw(split, config, np.zeros(6), targets=every)
        total = np.exp(drawn.target_log_q).sum() + (1 / 7 if config.popularity == 0 else 0)
        assert total == pytest.approx(1, abs=1e-6)


def test_popularity_draws_follow_the_powers_of_counts():
    split = build([[1] * 16, [2] * 4, [3]], 4)
    drawn = draw(split, SharedNegativesConfig(number=70000, popularity=0.5), [0])
    assert np.allclose(np.bincount(drawn.items, minlength=5) / 70000, np.array([0, 4, 2, 1, 0]) / 7, atol=0.008)


def test_restricted_draws_never_hit_an_item_without_train_events():
    split = build(HISTORIES, 40)
    for config in (
        SharedNegativesConfig(number=500, seen_in_train_only=True),
        PositionNegativesConfig(number=500, exclude_seen=False, seen_in_train_only=True),
    ):
        assert set(draw(split, config, [0]).items.ravel().tolist()) == {1, 2, 3, 4, 5, 6}


def test_without_exclusion_a_user_may_get_items_already_seen():
    drawn = draw(build(HISTORIES, 6), PositionNegativesConfig(number=200, exclude_seen=False), [0])
    assert set(drawn.items.ravel().tolist()) == {1, 2, 3, 4, 5, 6}


def test_shapes_are_per_position_or_shared():
    split = build(HISTORIES, 6)
    assert draw(split, PositionNegativesConfig(number=3), [0, 1]).items.shape == (2, 3)
    assert draw(split, SharedNegativesConfig(number=3), [0, 1]).items.shape == (3,)


def test_same_generator_gives_the_same_negatives_and_another_gives_others():
    split = build(HISTORIES, 1000)
    first, again = (draw(split, PositionNegativesConfig(number=9), [0, 1], seed=5).items for _ in range(2))
    other = draw(split, PositionNegativesConfig(number=9), [0, 1], seed=6).items
    assert (first == again).all()
    assert (first != other).any()


def test_no_train_events_and_a_restricted_sampler_is_an_error():
    with pytest.raises(ConfigError, match="no item can be drawn as a negative: no item has train events"):
        NegativeSampler(build([[]], 5), SharedNegativesConfig(seen_in_train_only=True))


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="number of negatives must be at least 1, got 0"):
        SharedNegativesConfig(number=0)
    with pytest.raises(ValueError, match=r"popularity \(alpha in count\*\*alpha\) must lie in 0..2, got -1.0"):
        PositionNegativesConfig(popularity=-1.0)
