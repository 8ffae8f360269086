"""Features of logged bandits against a loop over rounds, values aligned between logs, policies by context."""

import numpy as np
import pytest
import torch

from llm_rec.data.sources.open_bandit import BanditItems, BanditLog
from llm_rec.errors import DataError
from llm_rec.exploration.bandit_features import BanditBeliefs, BanditFeatures, fit_bandit, shown_shares
from llm_rec.exploration.policies import GreedyConfig, ThompsonConfig, UniformConfig
from llm_rec.exploration.posterior import PosteriorConfig

ITEMS = BanditItems(
    numbers=np.array([1.0, 2.0, 3.0, 6.0]),
    features=np.array([[0, 1], [1, 0], [0, 0], [1, 2]]),
    values=(("x", "y"), ("k", "l", "m")),
)


def bandit(rounds=300, seed=0, values=(("a", "b", "c"), ("p", "q"))):
    """Users of kind b click items of kind y."""
    rng = np.random.default_rng(seed)
    users = np.stack([rng.integers(0, len(column), rounds) for column in values], axis=1)
    actions = rng.integers(0, 4, rounds)
    likes = np.array([values[0][code] == "b" for code in users[:, 0]]) & (ITEMS.features[actions, 0] == 1)
    return BanditLog(
        times=np.arange(rounds),
        actions=actions,
        positions=rng.integers(0, 3, rounds),
        clicks=(rng.random(rounds) < np.where(likes, 0.7, 0.1)).astype(np.float64),
        propensities=np.full(rounds, 0.25),
        users=users,
        user_values=values,
        items=ITEMS,
    )


def phi(features, log, i, action):
    """One row, term by term."""
    users = [float(log.user_values[c][log.users[i, c]] == v) for c, known in enumerate(features.users) for v in known]
    values = [float(ITEMS.features[action, c] == v) for c in range(2) for v in range(len(ITEMS.values[c]))]
    number = (ITEMS.numbers[action] - ITEMS.numbers.mean()) / ITEMS.numbers.std()
    own = [*(float(action == a) for a in range(4)), *values, number]
    pairs = [u * v for u in users for v in values]
    return [1.0, *(float(log.positions[i] == p) for p in range(3)), *users, *own, *pairs]


def test_features_are_those_of_a_loop_over_rounds_and_actions():
    log = bandit(20)
    features = BanditFeatures.of(log)
    logged = features.logged(log)
    every = features.all_actions(log.positions, features.contexts(log))
    assert logged.shape == (20, features.dim)
    for i in range(20):
        assert logged[i].tolist() == pytest.approx(phi(features, log, i, log.actions[i]))
        for action in range(4):
            assert every[i, action].tolist() == pytest.approx(phi(features, log, i, action))


def test_values_of_another_log_are_found_by_their_text_and_unknown_ones_are_zero():
    features = BanditFeatures.of(bandit())
    other = bandit(50, seed=1, values=(("b", "z"), ("q", "p")))
    contexts = features.contexts(other).numpy()
    expected = {"b": [0, 1, 0], "z": [0, 0, 0]}
    for row, (first, second) in zip(contexts, other.users, strict=True):
        assert row[:3].tolist() == expected[("b", "z")[first]]
        assert row[3:].tolist() == [float(second == 1), float(second == 0)]
    with pytest.raises(DataError, match="the log has 1 user features, but there are 2 here"):
        features.contexts(bandit(5, values=(("a",),)))


def test_rounds_of_one_context_share_their_beliefs_and_equal_a_round_by_itself():
    log = bandit()
    features = BanditFeatures.of(log)
    model = fit_bandit(features, log, PosteriorConfig())
    beliefs = BanditBeliefs.of(features, model, log)
    assert len(beliefs.positions) <= 18
    rates = beliefs.click_rates()
    direct = torch.sigmoid(features.all_actions(log.positions, features.contexts(log)) @ model.mean)
    np.testing.assert_allclose(rates, direct.numpy())
    for policy in (GreedyConfig(), ThompsonConfig(samples=50), UniformConfig()):
        np.testing.assert_allclose(beliefs.probabilities(policy, 0).sum(1), 1)


def test_the_greedy_policy_finds_who_likes_what():
    log = bandit(4000)
    features = BanditFeatures.of(log)
    model = fit_bandit(features, log, PosteriorConfig())
    chosen = BanditBeliefs.of(features, model, log).probabilities(GreedyConfig(), 0)
    likers = log.users[:, 0] == 1
    assert (chosen[likers][:, [1, 3]].sum(1) == 1).all()
    rates = BanditBeliefs.of(features, model, log).click_rates()
    assert abs(rates[likers][:, [1, 3]].mean() - 0.7) < 0.06
    assert abs(rates[~likers].mean() - 0.1) < 0.03


def test_shown_shares_are_frequencies_by_position():
    log = bandit()
    shares = shown_shares(log)
    for position in range(3):
        at = log.actions[log.positions == position]
        assert shares[position].tolist() == [np.mean(at == action) for action in range(4)]
    with pytest.raises(DataError, match="a position was never filled"):
        shown_shares(log.select(log.positions > 0))
