"""The hybrid ranks the union of three sources by both scores, and reaches items that neither model alone would."""

import numpy as np
import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ConfigError
from llm_rec.generative.hybrid import HybridConfig, HybridRecommender, choose_weight, each_once
from llm_rec.generative.search import beam_search, score_all
from llm_rec.metrics.lists import ListRecommender, rank_lists
from llm_rec.metrics.ranking import per_target
from tests.llm_rec.generative.worlds import CONFIGS, HISTORY, USERS, model


class Dense:
    """Fixed vectors; a user is the vector of its last item."""

    max_length = 3

    def __init__(self, items=30, dim=5, seed=0):
        self.vectors = torch.randn(items + 1, dim, generator=torch.Generator().manual_seed(seed))

    def user_vectors(self, history):
        assert history.shape[1] <= self.max_length
        last = (history.ne(0).sum(1) - 1).clamp_min(0)
        return self.vectors[history.gather(1, last[:, None])[:, 0]]

    def item_vectors(self):
        return self.vectors


COUNTS = np.array([0, *([2] * 24), *([0] * 6)])


def hybrid(retriever=None, **settings):
    config = HybridConfig(**{"beams": 5, "dense": 4, "cold": 3, **settings})
    return HybridRecommender(retriever or Dense(), model(CONFIGS["positions"]), COUNTS, config)


def naive(both, history, user, seen, weight, k):
    """Candidates by sorting everything, scores by softmax over the candidates."""
    dense = (both.vectors @ both.dense.user_vectors(history[None, -3:])[0]).double().numpy()
    written = score_all(both.generative, history[None], user[None])[0].double().numpy()
    open_ = [row for row in range(1, 31) if row not in seen]

    def best(scores, rows, number):
        return sorted(rows, key=lambda row: -scores[row])[:number]

    generated = beam_search(both.generative, history[None], user[None], beams=5, seen=torch.tensor([seen])).items[0]
    chosen = {row for row in generated.tolist() if row}
    chosen |= set(best(dense, open_, max(4, k))) | set(best(dense, [row for row in open_ if COUNTS[row] == 0], 3))
    rows = sorted(chosen)

    def softmax(scores):
        return scores[rows] - np.log(np.exp(scores[rows]).sum())

    total = weight * softmax(dense) + (1 - weight) * softmax(written)
    order = np.argsort(-total, kind="stable")[:k]
    return [rows[i] for i in order], total[order]


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_it_is_the_weighted_sum_over_the_union(weight):
    both = hybrid(weight=weight)
    assert isinstance(both, ListRecommender)
    history = torch.tensor([[1, 2, 3], [4, 9, 8]])
    seen = torch.tensor([[3, 30, 0], [8, 0, 0]])
    best = both.recommend(history, USERS[[0, 3]], seen, 6)
    for row, user in enumerate((0, 3)):
        rows, scores = naive(both, history[row], USERS[user], seen[row].tolist(), weight, 6)
        assert best.rows[row].tolist() == rows
        np.testing.assert_allclose(best.scores[row].numpy(), scores, atol=1e-4)


def test_candidates_come_once_and_never_from_what_was_seen():
    found = hybrid().scored(HISTORY, USERS, HISTORY)
    for row in range(4):
        rows = [item for item in found.rows[row].tolist() if item]
        assert len(rows) == len(set(rows)) >= 6
        assert not set(rows) & {item for item in HISTORY[row].tolist() if item}
        assert torch.isfinite(found.dense[row][found.rows[row] != 0]).all()
        assert torch.isfinite(found.generative[row][found.rows[row] != 0]).all()


def test_cold_items_are_candidates_of_every_user():
    without, with_cold = hybrid(cold=0, beams=1, dense=1), hybrid(cold=3, beams=1, dense=1)
    cold = set(np.flatnonzero(COUNTS == 0)[1:].tolist())
    for row in range(4):
        found = set(with_cold.scored(HISTORY, USERS, HISTORY).rows[row].tolist())
        assert len(found & cold) >= 3
    assert without.cold is None
    assert without.scored(HISTORY, USERS, None).rows.shape == (4, 2)


def test_asking_for_more_than_there_is_gives_row_zero():
    best = hybrid().recommend(HISTORY, USERS, None, 40)
    assert best.rows.shape == (4, 40)
    assert (best.scores[best.rows == 0] == -torch.inf).all()
    assert torch.isfinite(best.scores[best.rows != 0]).all()


def test_the_chosen_weight_is_the_best_of_the_validation():
    split = leave_one_out(planted_world(20, 30, num_clusters=3, lengths=(4, 9), seed=1).log)
    both = hybrid(dense=12)
    weight, values = choose_weight(both, split, weights=(0.0, 0.3, 1.0))
    assert weight == max(values, key=lambda w: (values[w], -w))
    for each in values:
        own = hybrid(weight=each, dense=12)
        expected = per_target(rank_lists(own, split, "validation", k=12), (10,))["ndcg@10"].mean()
        assert values[each] == pytest.approx(expected, abs=1e-9)
    assert len(set(values.values())) > 1


def test_a_dense_model_of_another_catalog_is_refused():
    with pytest.raises(ConfigError, match="the dense model knows 20 items, the generative one 30 and the counts are"):
        hybrid(Dense(items=20))


def test_each_once_keeps_the_set():
    rows = torch.tensor([[5, 2, 5, 2, 0], [1, 1, 1, 0, 0]])
    assert [sorted({r for r in row if r}) for row in each_once(rows).tolist()] == [[2, 5], [1]]
    assert [sum(r > 0 for r in row) for row in each_once(rows).tolist()] == [2, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beams": 0}, "beams and dense must be at least 1 and cold at least 0, got 0, 4, 3"),
        ({"weight": 1.5}, "weight must lie in 0..1, got 1.5"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        hybrid(**settings)


def test_a_list_is_as_long_as_asked_for():
    found = hybrid().recommend(HISTORY, USERS, HISTORY, 20)
    assert found.rows.ne(0).all()
    assert (found.scores.diff(dim=1) <= 0).all()
