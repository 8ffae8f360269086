"""Similarity and co-interactions within prefixes, against naive loops over pairs."""

import itertools

import numpy as np
import pytest

from semantic_ids.code_table import CodeTable
from semantic_ids.coherence import Events, co_interaction_lift, prefix_similarity
from semantic_ids.health import health

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 3, (40, 3))
TABLE = CodeTable.from_codes(CODES, (3, 3, 3))


def test_similarity_within_prefixes_is_the_mean_over_items_of_the_mean_over_others():
    vectors = RNG.normal(size=(40, 5)).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = prefix_similarity(TABLE, vectors)
    assert len(found) == 4
    for depth, value in enumerate(found):
        means = []
        for item in range(40):
            others = [
                unit[item] @ unit[other]
                for other in range(40)
                if other != item and (CODES[item, :depth] == CODES[other, :depth]).all()
            ]
            means += [np.mean(others)] if others else []
        assert value == pytest.approx(np.mean(means), abs=1e-6)


def test_prefixes_that_no_two_items_share_have_no_similarity():
    table = CodeTable.from_codes(np.arange(4).reshape(4, 1), (4,))
    assert prefix_similarity(table, np.eye(4, dtype=np.float32)) == (0.0, None)


def test_health_has_the_similarity_where_it_has_vectors():
    vectors = RNG.normal(size=(40, 5)).astype(np.float32)
    figures = health(TABLE, vectors=vectors, reconstructed=vectors)
    assert figures.prefix_similarity == prefix_similarity(TABLE, vectors)
    assert health(TABLE).prefix_similarity is None


def events(num_users=25, items_each=6):
    items = np.stack([RNG.permutation(30)[:items_each] + 1 for _ in range(num_users)])
    return Events(np.repeat(np.arange(num_users), items_each), items.flatten())


def naive_lift(log, depth):
    baskets = [sorted(set(log.items[log.users == user].tolist())) for user in np.unique(log.users)]
    pairs = [pair for basket in baskets for pair in itertools.combinations(basket, 2)]
    ends = np.bincount(np.array(pairs).flatten(), minlength=41) / (2 * len(pairs))
    alike = {(a, b) for a in range(1, 41) for b in range(1, 41) if (CODES[a - 1, :depth] == CODES[b - 1, :depth]).all()}
    observed = np.mean([pair in alike for pair in pairs])
    chance = {(a, b): ends[a] * ends[b] for a in range(1, 41) for b in range(1, 41) if a != b}
    expected = sum(p for pair, p in chance.items() if pair in alike) / sum(chance.values())
    return observed / expected / ((1 - observed) / (1 - expected))


def test_lift_counts_pairs_of_a_user_against_pairs_of_that_popularity():
    log = events()
    found = co_interaction_lift(TABLE, log)
    assert found == pytest.approx([naive_lift(log, depth) for depth in (1, 2, 3)])
    order = RNG.permutation(len(log.users))
    twice = Events(np.r_[log.users, log.users[:9]], np.r_[log.items, log.items[:9]])
    assert co_interaction_lift(TABLE, Events(log.users[order], log.items[order])) == found
    assert co_interaction_lift(TABLE, twice) == found, "an item that a user took twice counts once"


def test_codes_of_the_users_own_groups_have_a_high_lift_and_random_ones_none():
    users, groups = np.repeat(np.arange(400), 5), np.repeat(np.arange(400) % 4, 5)
    away = RNG.random(2000) < 0.2
    items = np.where(away, RNG.integers(0, 100, 2000), RNG.integers(0, 25, 2000) + 25 * groups) + 1
    log = Events(users, items)
    planted = CodeTable.from_codes((np.arange(100) // 25).reshape(-1, 1), (4,))
    random = CodeTable.from_codes(RNG.integers(0, 4, (100, 1)), (4,))
    assert co_interaction_lift(planted, log)[0] > 4
    assert co_interaction_lift(random, log)[0] == pytest.approx(1, abs=0.15)


def test_lift_is_undefined_where_nothing_is_shared_or_everything():
    log = events()
    alone = CodeTable.from_codes(np.stack([np.zeros(40, np.int64), np.arange(40)], 1), (1, 40))
    assert co_interaction_lift(alone, log) == (None, None)
    assert co_interaction_lift(TABLE, Events(np.arange(5), np.arange(1, 6))) == (None, None, None), "no pairs at all"


def test_vectors_of_another_catalog_are_refused():
    with pytest.raises(ValueError, match="the table has 40 items but there are 39 vectors"):
        prefix_similarity(TABLE, np.zeros((39, 2), np.float32))
