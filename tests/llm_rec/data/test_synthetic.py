"""Planted worlds: what is planted is really there, and nothing else gives it away."""

import numpy as np
import pytest

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world


def test_equal_seeds_give_equal_worlds_and_other_seeds_other_worlds():
    first, again, other = planted_world(seed=3), planted_world(seed=3), planted_world(seed=4)
    assert first.log.fingerprint == again.log.fingerprint
    assert first.catalog.fingerprint == again.catalog.fingerprint
    np.testing.assert_array_equal(first.embeddings, again.embeddings)
    assert first.log.fingerprint != other.log.fingerprint


def test_unseen_items_occur_only_as_test_targets_and_often_enough_to_measure():
    world = planted_world(600, 240, unseen_targets=0.25)
    split = leave_one_out(world.log)
    assert split.train_counts[world.unseen].sum() == 0
    targets = world.log.items[split.test]
    assert world.unseen[world.log.items[split.validation]].sum() == 0
    assert 0.2 < world.unseen[targets].mean() < 0.3
    assert split.train_counts[1:][~world.unseen[1:]].min() >= 1


def test_walk_follows_the_planted_cycle_with_the_given_probability():
    world = planted_world(800, 240, follow=0.8)
    clusters = world.clusters[world.log.items]
    inner = np.ones(world.log.num_events, dtype=bool)
    inner[world.log.offsets[:-1]] = False
    followed = (world.next_cluster[clusters[:-1]] == clusters[1:])[inner[1:]]
    assert followed.mean() == pytest.approx(0.8 + 0.2 / 12, abs=0.02)
    visited = [0]
    for _ in range(11):
        visited.append(int(world.next_cluster[visited[-1]]))
    assert sorted(visited) == list(range(12))


def test_embeddings_tell_clusters_apart_and_padding_is_zero():
    world = planted_world(10, 240)
    assert not world.embeddings[0].any()
    vectors, clusters = world.embeddings[1:], world.clusters[1:]
    similar = vectors @ vectors.T - 2 * np.eye(240, dtype=np.float32)
    assert (clusters[similar.argmax(axis=1)] == clusters).mean() > 0.95


def test_texts_of_a_cluster_share_words_and_texts_of_others_do_not():
    world = planted_world(10, 60, num_clusters=5)
    own_words = [set(text.split()[:-1]) for text in world.catalog.texts]
    for cluster in range(5):
        members = [words for words, c in zip(own_words, world.clusters[1:], strict=True) if c == cluster]
        others = [words for words, c in zip(own_words, world.clusters[1:], strict=True) if c != cluster]
        assert not set.union(*members) & set.union(*others)
        assert len(set.union(*members)) <= 8


def test_rows_and_times_are_well_formed():
    world = planted_world(300, 120, lengths=(3, 9))
    log = world.log
    assert log.times is not None
    sizes = np.diff(log.offsets)
    assert sizes.min() == 3
    assert sizes.max() == 9
    assert log.items.min() >= 1
    assert log.items.max() <= 120
    rising = np.diff(log.times) >= 0
    rising[log.offsets[1:-1] - 1] = True
    assert rising.all()
    lasts = log.offsets[1:] - 1
    assert np.delete(log.times, lasts).max() < log.times[lasts].min()
    repeats = sum(sizes[u] - len(set(log.history(u).tolist())) for u in range(log.num_users))
    assert repeats < 0.01 * log.num_events


def test_popularity_is_skewed():
    counts = np.sort(leave_one_out(planted_world(1000, 240).log).train_counts[1:])[::-1]
    assert counts[:24].sum() > 0.25 * counts.sum()


def recall_at_10(split, scores):
    """Share of test targets among the ten best of the items that the user has not seen, and the same on unseen ones."""
    log, hits = split.log, []
    for target, row in zip(split.test.tolist(), scores, strict=True):
        user = int(log.users_of(np.array([target]))[0])
        open_items = np.setdiff1d(np.arange(1, log.num_items + 1), log.items[log.offsets[user] : target])
        best = open_items[np.argsort(-row[open_items], kind="stable")[:10]]
        hits.append(log.items[target] in best or log.items[target] not in open_items)
    unseen = split.train_counts[log.items[split.test]] == 0
    return np.mean(hits), np.mean(np.array(hits)[unseen])


def test_the_planted_rules_rank_as_promised():
    world = planted_world()
    split = leave_one_out(world.log)
    following = world.next_cluster[world.clusters[world.log.items[split.test - 1]]]
    counts = split.train_counts.astype(np.float64)
    popular, popular_unseen = recall_at_10(split, np.tile(counts, (len(following), 1)))
    in_cluster = world.clusters[None] == following[:, None]
    ids, ids_unseen = recall_at_10(split, in_cluster * 1e6 + counts)
    centres = np.stack([world.embeddings[world.clusters == cluster].mean(axis=0) for cluster in range(12)])
    _, text_unseen = recall_at_10(split, centres[following] @ world.embeddings.T)
    assert ids > 2 * popular > 0
    assert popular_unseen == ids_unseen == 0
    assert text_unseen > 0.3


def test_world_without_unseen_items():
    world = planted_world(100, 48, unseen_items=0.0)
    assert not world.unseen.any()
    assert world.log.items.min() >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_clusters": 200}, "num_clusters must be between 1 and num_items / 2 = 120, got 200"),
        ({"lengths": (4, 3)}, "lengths must be (shortest, longest) with 1 <= shortest <= longest, got (4, 3)"),
        ({"unseen_items": 1.0}, "unseen_items must be in [0, 1), got 1.0"),
    ],
)
def test_impossible_worlds_are_refused(arguments, message):
    with pytest.raises(ValueError) as caught:
        planted_world(**arguments)
    assert str(caught.value) == message
