"""Policies: rankings, distributions over actions against enumeration and draws, and learning by exploring."""

import math

import numpy as np
import pytest
import torch

from llm_rec.codec import from_plain, to_plain
from llm_rec.errors import ConfigError
from llm_rec.exploration.logistic import fit_logistic
from llm_rec.exploration.policies import (
    GreedyConfig,
    PolicyConfig,
    ThompsonConfig,
    UCBConfig,
    UniformConfig,
    action_probabilities,
    action_scores,
    ranked_actions,
)
from llm_rec.exploration.posterior import LogitBeliefs, PosteriorConfig

POLICIES = (GreedyConfig(), UCBConfig(beta=2.0), ThompsonConfig(), ThompsonConfig(joint=False), UniformConfig())


def beliefs(rounds=6, actions=5, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(rounds, actions, dim, generator=generator, dtype=torch.float64)
    mean = torch.randn(rounds, actions, generator=generator, dtype=torch.float64)
    return LogitBeliefs(mean, root.square().sum(-1).sqrt(), root)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("policy", POLICIES)
def test_probabilities_are_distributions_and_rankings_hold_every_action_once(policy):
    for actions in (1, 2, 5):
        found = action_probabilities(policy, beliefs(actions=actions), draws())
        torch.testing.assert_close(found.probabilities.sum(1), torch.ones(6, dtype=torch.float64))
        assert (found.probabilities >= 0).all()
        ranking = ranked_actions(policy, beliefs(actions=actions), draws())
        assert torch.equal(ranking.sort(1).values, torch.arange(actions).expand(6, -1))


@pytest.mark.parametrize("policy", POLICIES)
def test_how_often_an_action_is_ranked_first_is_its_probability(policy):
    known, generator = beliefs(), draws(3)
    first = torch.stack([ranked_actions(policy, known, generator)[:, 0] for _ in range(3000)])
    share = torch.nn.functional.one_hot(first, 5).double().mean(0)
    found = action_probabilities(policy, known, draws(4))
    error = (share * (1 - share) / 3000).sqrt() + found.standard_errors + 1e-3
    assert ((share - found.probabilities).abs() < 4 * error).all()


def test_ucb_without_width_is_the_plain_ranking_and_with_width_it_is_not():
    known = beliefs(rounds=30)
    greedy = ranked_actions(GreedyConfig(), known, draws())
    assert torch.equal(ranked_actions(UCBConfig(beta=0.0), known, draws()), greedy)
    assert torch.equal(greedy, known.mean.argsort(1, descending=True))
    assert not torch.equal(ranked_actions(UCBConfig(beta=2.0), known, draws()), greedy)
    torch.testing.assert_close(
        action_scores(UCBConfig(beta=2.0), known, draws()), torch.sigmoid(known.mean + 2 * known.std)
    )


def test_equal_scores_share_their_probability():
    known = LogitBeliefs(torch.tensor([[1.0, 1.0, 0.0]]).double(), torch.zeros(1, 3, dtype=torch.float64))
    assert action_probabilities(GreedyConfig(), known, draws()).probabilities.tolist() == [[0.5, 0.5, 0.0]]
    pair = LogitBeliefs(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    policy = ThompsonConfig(joint=False)
    assert action_probabilities(policy, pair, draws()).probabilities.tolist() == [[0.5, 0.5]]


def test_the_mean_of_thompson_scores_approaches_the_analytic_value():
    """E sigma(mu + s eps), by Gauss-Hermite quadrature."""
    known = beliefs(rounds=2, actions=3)
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    for policy in (ThompsonConfig(), ThompsonConfig(joint=False)):
        generator = draws(1)
        found = torch.stack([action_scores(policy, known, generator) for _ in range(3000)])
        for place in np.ndindex(2, 3):
            mean, std = known.mean[place].item(), known.std[place].item()
            exact = float(weights @ (1 / (1 + np.exp(-mean - std * points)))) / math.sqrt(2 * math.pi)
            error = found[:, *place].std().item() / 3000**0.5
            assert abs(found[:, *place].mean().item() - exact) < 4 * error


@pytest.mark.parametrize("joint", [True, False])
def test_two_actions_have_exact_probabilities_that_draws_agree_with(joint):
    known = beliefs(rounds=8, actions=2)
    exact = action_probabilities(ThompsonConfig(joint=joint), known, draws())
    assert not exact.standard_errors.any()
    generator = draws(2)
    policy = ThompsonConfig(joint=joint)
    first = torch.stack([ranked_actions(policy, known, generator)[:, 0] == 0 for _ in range(4000)]).double().mean(0)
    error = (exact.probabilities[:, 0] * exact.probabilities[:, 1] / 4000).sqrt() + 1e-3
    assert ((first - exact.probabilities[:, 0]).abs() < 4 * error).all()


def test_the_stated_error_is_that_of_repeated_estimates():
    known, policy = beliefs(), ThompsonConfig(samples=200)
    estimates = [action_probabilities(policy, known, draws(seed)) for seed in range(200)]
    spread = torch.stack([estimate.probabilities for estimate in estimates]).std(0)
    stated = torch.stack([estimate.standard_errors for estimate in estimates]).mean(0)
    often = spread > 0.01
    assert ((stated / spread)[often] - 1).abs().max() < 0.25
    assert (stated > 0).all()  # also for actions that were never drawn


def test_joint_draws_ignore_what_actions_have_in_common_and_separate_ones_do_not():
    mean = torch.tensor([[0.5, 0.0, 0.0]]).double()
    common = torch.full((1, 3, 1), 10.0, dtype=torch.float64)
    known = LogitBeliefs(mean, common[..., 0], common)
    joint = action_probabilities(ThompsonConfig(joint=True), known, draws())
    separate = action_probabilities(ThompsonConfig(joint=False), known, draws())
    assert joint.probabilities.tolist() == [[1.0, 0.0, 0.0]]
    assert separate.probabilities[0].min() > 0.25


def test_joint_draws_need_a_root():
    known = beliefs()._replace(root=None)
    with pytest.raises(ConfigError, match="joint draws need the root of the beliefs' covariance; set joint to False"):
        action_probabilities(ThompsonConfig(), known, draws())
    action_probabilities(ThompsonConfig(joint=False), known, draws())


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_settings_that_round_trip(policy):
    assert from_plain(type(policy), to_plain(policy)) == policy
    assert policy in POLICIES
    assert isinstance(policy, PolicyConfig)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UCBConfig(beta=-1.0), "beta must be finite and not negative, got -1.0"),
        (lambda: ThompsonConfig(samples=0), "samples must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert str(error.value) == message


def regret(policy, seed, rounds=120):
    """Lost clicks, in expectation, of learning which of ten items to show, from a prior that is too pessimistic."""
    generator = draws(seed)
    truth = torch.rand(10, generator=generator, dtype=torch.float64) * 0.5
    items = torch.eye(10, dtype=torch.float64)
    learner = fit_logistic(
        items[:0], torch.zeros(0), PosteriorConfig(prior_precision=0.5), prior_mean=torch.full((10,), -1.5)
    )
    lost = 0.0
    for _ in range(rounds):
        known = LogitBeliefs(*(part.unsqueeze(0) for part in learner.beliefs(items)))
        action = ranked_actions(policy, known, generator)[0, :1]
        lost += (truth.max() - truth[action]).item()
        learner.observe(items[action], torch.bernoulli(truth[action], generator=generator))
    return lost


def test_thompson_sampling_and_ucb_lose_less_than_greedy_and_far_less_than_chance():
    lost = {
        name: np.mean([regret(policy, seed) for seed in range(4)])
        for name, policy in (
            ("greedy", GreedyConfig()),
            ("ts", ThompsonConfig()),
            ("ucb", UCBConfig(beta=1.0)),
            ("uniform", UniformConfig()),
        )
    }
    assert lost["ts"] < 0.6 * lost["uniform"]
    assert lost["ucb"] < 0.6 * lost["uniform"]
    assert min(lost["ts"], lost["ucb"]) < lost["greedy"]
