"""Lists give the ranks of full ranking as deep as they go, and misses beyond."""

import numpy as np
import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.data.user_keys import user_keys
from llm_rec.errors import DataError
from llm_rec.metrics.exact import Best
from llm_rec.metrics.lists import ListRecommender, places_in, rank_lists
from llm_rec.metrics.ranking import per_target, rank_split

SPLIT = leave_one_out(planted_world(30, 24, num_clusters=3, lengths=(3, 9), seed=2).log)


class Vectors:
    """A retriever by integer vectors, so that there are ties."""

    max_length = 4

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randint(-2, 3, (25, 3), generator=generator).float()
        self.table[0] = 0

    def user_vectors(self, history):
        return self.table[history].sum(1)

    def item_vectors(self):
        return self.table


class Lists:
    """The same as lists, by sorting everything."""

    max_length, num_items, device = 4, 24, torch.device("cpu")

    def __init__(self):
        self.inner = Vectors()
        self.users = set()

    def recommend(self, history, users, seen, k):
        self.users |= set(users.tolist())
        scores = (self.inner.user_vectors(history) @ self.inner.table.T).double()
        scores[:, 0] = -torch.inf
        if seen is not None:
            scores.scatter_(1, seen, -torch.inf)
        best = scores.topk(k)
        return Best(torch.where(best.values > -torch.inf, best.indices, 0), best.values)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_whole_lists_are_full_ranking(part, exclude_seen):
    full = rank_split(Vectors(), SPLIT, part, exclude_seen=exclude_seen)
    lists = rank_lists(Lists(), SPLIT, part, k=25, exclude_seen=exclude_seen, batch_size=7)
    np.testing.assert_array_equal(lists.better, full.better)
    np.testing.assert_array_equal(lists.ties, full.ties)
    assert lists.ties.max() > 0


def test_targets_beyond_the_list_are_misses_at_every_cut():
    lists = rank_lists(Lists(), SPLIT, "test", k=5)
    full = rank_split(Vectors(), SPLIT, "test")
    there = (lists.recommended == SPLIT.log.items[SPLIT.test][:, None]).any(1)
    assert 0 < there.sum() < len(there)
    np.testing.assert_array_equal(lists.better[there], full.better[there])
    assert (lists.better[~there] == 24).all()
    assert (per_target(lists, (5,))["recall@5"][~there] == 0).all()


def test_recommenders_are_asked_for_the_users_of_the_log():
    lists = Lists()
    assert isinstance(lists, ListRecommender)
    rank_lists(lists, SPLIT, "test", k=3)
    tested = SPLIT.log.users_of(SPLIT.test)
    assert lists.users == set(user_keys(SPLIT.log.user_ids)[tested].tolist())


def test_places_count_better_and_equal_scores():
    best = Best(torch.tensor([[3, 1, 2, 0], [4, 2, 0, 0]]), torch.tensor([[2.0, 1, 1, -torch.inf]] * 2).double())
    best.scores[1, 2] = -torch.inf
    counts = places_in(best, torch.tensor([1, 9]), num_items=50)
    assert counts.better.tolist() == [1, 50]
    assert counts.ties.tolist() == [1, 0]


def test_another_catalog_and_broken_scores_are_refused():
    other = Lists()
    other.num_items = 7
    with pytest.raises(DataError, match="the model knows 7 items but the split's catalog has 24"):
        rank_lists(other, SPLIT, "test", k=3)
    broken = Lists()
    broken.inner.table[3] = torch.nan
    with pytest.raises(DataError, match="target 0 is not finite|target [0-9]+ is not finite"):
        rank_lists(broken, SPLIT, "test", k=24)
    with pytest.raises(ValueError, match="k and batch_size must be at least 1, got k=0, batch_size=64"):
        rank_lists(Lists(), SPLIT, "test", k=0)
