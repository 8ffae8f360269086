"""Pairs of items from train events alone: whole arrays against a loop over users, and nothing of what is held out."""

from collections import Counter

import numpy as np
import pytest

from llm_rec.data import GlobalTimeConfig, Interactions, LeaveOneOutConfig, Split, make_split, planted_world
from llm_rec.errors import DataError
from llm_rec.tuning import CoInteractionConfig, CoInteractions, co_interactions

SPLITS = [LeaveOneOutConfig(), GlobalTimeConfig()]


@pytest.fixture(scope="module")
def log() -> Interactions:
    return planted_world(60, 40, num_clusters=4, lengths=(1, 9), seed=3).log


def by_loop(split: Split, window: int, groups: np.ndarray) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for user in range(split.log.num_users):
        items = groups[split.log.items[split.log.offsets[user] : split.train_ends[user]]].tolist()
        for here, one in enumerate(items):
            for other in items[here + 1 : here + 1 + window]:
                if one != other and one and other:
                    found[min(one, other), max(one, other)] += 1
    return found


def as_counter(pairs: CoInteractions) -> Counter[tuple[int, int]]:
    return Counter(dict(zip(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True), pairs.counts, strict=True)))


@pytest.mark.parametrize("config", SPLITS)
@pytest.mark.parametrize("window", [1, 3, 50])
def test_pairs_equal_those_of_a_loop_over_users(log, config, window) -> None:
    split = make_split(log, config)
    groups = np.arange(split.num_items + 1)
    groups[7], groups[9] = 3, 0  # one text with item 3, no text
    assert as_counter(co_interactions(split, window, groups)) == by_loop(split, window, groups)
    assert as_counter(co_interactions(split, window)) == by_loop(split, window, np.arange(split.num_items + 1))


@pytest.mark.parametrize("config", SPLITS)
def test_no_pair_depends_on_an_event_that_is_held_out(log, config) -> None:
    split = make_split(log, config)
    items = log.items.copy()
    items[~split.in_train] = np.random.default_rng(0).integers(1, log.num_items + 1, int((~split.in_train).sum()))
    other = Interactions(log.user_ids, log.offsets, items, log.times, num_items=log.num_items, catalog=log.catalog)
    changed = Split(other, split.train_ends, split.validation, split.test, split.leakage)
    assert (items != log.items).sum() > 20
    assert as_counter(co_interactions(split, 5)) == as_counter(co_interactions(changed, 5))


def test_an_item_that_occurs_only_after_training_is_in_no_pair(log) -> None:
    split = make_split(log, LeaveOneOutConfig())
    unseen = np.flatnonzero(split.train_counts == 0)
    pairs = co_interactions(split, 50)
    assert len(np.intersect1d(log.items, unseen)) > 2
    assert not np.isin(np.concatenate([pairs.left, pairs.right]), unseen).any()


def test_known_pairs_of_a_batch_equal_those_of_a_double_loop(log) -> None:
    pairs = co_interactions(make_split(log, LeaveOneOutConfig()), 1)
    there = set(as_counter(pairs))
    rng = np.random.default_rng(1)
    anchors, candidates = rng.integers(1, 41, 30), rng.integers(1, 41, 25)
    expected = [
        [i, j]
        for i, a in enumerate(anchors.tolist())
        for j, c in enumerate(candidates.tolist())
        if (min(a, c), max(a, c)) in there
    ]
    assert pairs.known(anchors, candidates).T.tolist() == expected
    assert len(expected) > 20
    assert pairs.known(anchors[:0], candidates).shape == (2, 0)


@pytest.mark.parametrize(("damping", "expected"), [(0.0, [4, 1]), (0.5, [4 / 20**0.5, 1 / 5**0.5]), (1.0, [0.2, 0.2])])
def test_damping_divides_by_how_often_items_are_in_pairs(damping, expected) -> None:
    pairs = CoInteractions(np.array([1, 2]), np.array([2, 3]), np.array([4, 1]), num_items=3)
    assert pairs.degrees.tolist() == [0, 4, 5, 1]
    np.testing.assert_allclose(pairs.weights(damping), expected)


def test_a_log_without_pairs_is_an_error() -> None:
    log = Interactions(["u", "v"], np.array([0, 2, 3]), np.array([1, 1, 2]), None, num_items=2, catalog="c")
    with pytest.raises(DataError, match="no user has two different items with texts at most 3 train events apart; rai"):
        co_interactions(make_split(log, LeaveOneOutConfig()), 3)


def test_settings_of_pairs_are_checked() -> None:
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        CoInteractionConfig(window=0)
    with pytest.raises(ValueError, match=r"damping must lie in \[0, 1\], got 1.5"):
        CoInteractionConfig(damping=1.5)
