"""Off-policy estimates against sums over every outcome of a tiny bandit, their identities, and what they refuse."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from llm_rec.errors import DataError
from llm_rec.metrics.off_policy import LoggedRounds, importance_weights, logged_value, policy_value
from llm_rec.metrics.significance import bootstrap_means

CONTEXTS = np.array([0.3, 0.7])
LOGGING = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
POLICY = np.array([[0.7, 0.1, 0.2], [0.0, 0.4, 0.6]])
RATES = np.array([[0.1, 0.4, 0.8], [0.5, 0.25, 0.9]])
WRONG = np.array([[0.9, 0.1, 0.3], [0.2, 0.9, 0.8]])
VALUE = float((CONTEXTS[:, None] * POLICY * RATES).sum())


def outcomes(rounds):
    """(chance, contexts, actions, rewards) of everything that `rounds` rounds of the bandit can give."""
    for each in product(product(range(2), range(3), range(2)), repeat=rounds):
        x, a, r = (np.array(column) for column in zip(*each, strict=True))
        chance = CONTEXTS[x] * LOGGING[x, a] * np.where(r == 1, RATES[x, a], 1 - RATES[x, a])
        yield float(chance.prod()), x, a, r


def logged(x, a, r):
    return LoggedRounds(actions=a, propensities=LOGGING[x, a], rewards=r.astype(np.float64))


def estimates(x, a, r, model=None, clip=None):
    """Values by estimator, by the equations, one round after another."""
    found = {"ips": 0.0, "weights": 0.0, "dm": 0.0, "dr": 0.0}
    for i in range(len(x)):
        weight = POLICY[x[i], a[i]] / LOGGING[x[i], a[i]]
        weight = weight if clip is None else min(weight, clip)
        found["ips"] += weight * r[i]
        found["weights"] += weight
        if model is not None:
            direct = sum(POLICY[x[i], b] * model[x[i], b] for b in range(3))
            found["dm"] += direct
            found["dr"] += direct + weight * (r[i] - model[x[i], a[i]])
    values = {name: total / len(x) for name, total in found.items()}
    return {**values, "snips": found["ips"] / found["weights"] if found["weights"] else 0.0}


def moments(model, clip=None):
    """Expectation and variance of every estimator over two rounds, summed over all that can happen."""
    totals = {}
    for chance, x, a, r in outcomes(2):
        if not POLICY[x, a].any():  # refused as missing support: all weights are 0
            found = {"ips": 0.0, "dm": estimates(x, a, r, model)["dm"], "dr": estimates(x, a, r, model)["dm"]}
        else:
            value = policy_value(logged(x, a, r), POLICY[x], model=model[x], clip=clip, samples=1)
            found = {name: value.estimates[name].value for name in ("ips", "dm", "dr")}
            assert found == pytest.approx({n: estimates(x, a, r, model, clip)[n] for n in found}, abs=1e-12)
        for name, value in found.items():
            mean, square = totals.get(name, (0.0, 0.0))
            totals[name] = (mean + chance * value, square + chance * value**2)
    return {name: (mean, square - mean**2) for name, (mean, square) in totals.items()}


def test_ips_and_doubly_robust_are_unbiased_over_all_outcomes_and_the_direct_method_is_not():
    assert sum(chance for chance, *_ in outcomes(2)) == pytest.approx(1)
    found = moments(WRONG)
    assert found["ips"][0] == pytest.approx(VALUE, abs=1e-12)
    assert found["dr"][0] == pytest.approx(VALUE, abs=1e-12)
    assert found["dm"][0] == pytest.approx(float((CONTEXTS[:, None] * POLICY * WRONG).sum()), abs=1e-12)
    assert abs(found["dm"][0] - VALUE) > 0.1


def test_doubly_robust_with_the_true_model_has_less_variance_than_ips():
    found = moments(RATES)
    assert found["dr"][0] == pytest.approx(VALUE, abs=1e-12)
    assert found["dr"][1] < 0.5 * found["ips"][1]


def test_clipping_biases_ips_by_what_it_cuts_off():
    clip = 1.2
    weights = POLICY / LOGGING
    cut = (CONTEXTS[:, None] * LOGGING * np.maximum(weights - clip, 0) * RATES).sum()
    found = moments(WRONG, clip=clip)
    assert found["ips"][0] == pytest.approx(VALUE - cut, abs=1e-12)
    assert cut > 0.1
    expected = 0.0
    for chance, x, a, r in outcomes(2):
        if POLICY[x, a].any():
            value = policy_value(logged(x, a, r), POLICY[x], clip=clip, samples=1)
            expected += chance * value.estimates["ips"].clipping_bias
            assert value.clipped_rounds == int((weights[x, a] > clip).sum())
    assert expected == pytest.approx(-cut, abs=1e-12)


def many(rounds, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.random(rounds) < CONTEXTS[1]).astype(np.int64)
    a = (rng.random(rounds)[:, None] > LOGGING[x].cumsum(1)).sum(1)
    return x, a, (rng.random(rounds) < RATES[x, a]).astype(np.int64)


def test_every_estimator_is_its_equation():
    x, a, r = many(200)
    value = policy_value(logged(x, a, r), POLICY[x], model=WRONG[x], samples=20)
    expected = estimates(x, a, r, WRONG)
    assert {name: value.estimates[name].value for name in value.estimates} == pytest.approx(
        {name: expected[name] for name in ("ips", "snips", "dm", "dr")}
    )
    weights = POLICY[x, a] / LOGGING[x, a]
    assert value.effective_sample_size == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert value.mean_weight == pytest.approx(weights.mean())
    assert value.max_weight == weights.max()
    assert value.rewarded_rounds == ((weights > 0) & (r == 1)).sum()


def test_doubly_robust_is_the_direct_method_plus_the_weighted_errors_of_its_model():
    x, a, r = many(300)
    value = policy_value(logged(x, a, r), POLICY[x], model=WRONG[x], samples=1)
    errors = policy_value(logged(x, a, r - WRONG[x, a]), POLICY[x], samples=1)
    parts = value.estimates["dm"].value + errors.estimates["ips"].value
    assert value.estimates["dr"].value == pytest.approx(parts)


def test_snips_of_a_constant_reward_is_that_constant_with_no_spread_and_ips_is_not():
    x, a, _ = many(100)
    value = policy_value(logged(x, a, np.full(100, 3)), POLICY[x], samples=50)
    snips = value.estimates["snips"]
    assert (snips.value, snips.low, snips.high) == pytest.approx((3, 3, 3))
    assert snips.standard_error == pytest.approx(0, abs=1e-12)
    assert abs(value.estimates["ips"].value - 3) > 0.1


def test_the_logging_policy_itself_has_weights_of_one():
    x, a, r = many(500)
    rounds = logged(x, a, r)
    value = policy_value(rounds, LOGGING[x], logging=LOGGING[x], seed=3)
    mean = logged_value(rounds, seed=3)
    assert value.estimates["ips"] == mean
    assert mean.value == r.mean()
    assert value.effective_sample_size == pytest.approx(500)
    assert mean.standard_error == pytest.approx(r.std(ddof=1) / 500**0.5)
    assert mean.normal_high - mean.value == pytest.approx(1.959964 * mean.standard_error)


def test_bootstrap_ends_are_percentiles_of_the_estimator_on_resamples():
    x, a, r = many(60)
    value = policy_value(logged(x, a, r), POLICY[x], samples=200, seed=5, level=0.9)
    weights = POLICY[x, a] / LOGGING[x, a]
    drawn = bootstrap_means(np.stack([weights * r, weights], axis=1), samples=200, seed=5)
    for name, values in (("ips", drawn[:, 0]), ("snips", drawn[:, 0] / drawn[:, 1])):
        found = value.estimates[name]
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.95])))


@pytest.mark.parametrize("name", ["ips", "snips", "dr"])
def test_both_intervals_cover_the_truth_as_often_as_they_claim(name):
    hits = np.zeros(2)
    for seed in range(150):
        x, a, r = many(300, seed=seed)
        found = policy_value(logged(x, a, r), POLICY[x], model=WRONG[x], samples=150).estimates[name]
        hits += [found.low <= VALUE <= found.high, found.normal_low <= VALUE <= found.normal_high]
    assert (hits >= 133).all()  # 95 % of 150 claimed; below 133 with chance 0.001


ROUNDS = LoggedRounds(
    actions=np.array([0, 1, 2]), propensities=np.array([0.2, 0.5, 0.3]), rewards=np.array([1.0, 0.0, 1.0])
)
EVEN = np.full((3, 3), 1 / 3)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("propensities", 0.0, "a propensity must be in (0, 1], got 0.0 in round 1 (counted from 0)"),
        ("propensities", 1.5, "a propensity must be in (0, 1], got 1.5 in round 1 (counted from 0)"),
        ("propensities", np.nan, "a propensity must be in (0, 1], got nan in round 1 (counted from 0)"),
        ("rewards", np.inf, "a reward must be finite, got inf in round 1 (counted from 0)"),
        ("actions", -1, "an action must be a number from 0 on, got -1 in round 1 (counted from 0)"),
    ],
)
def test_rounds_refuse_what_no_log_can_hold(column, value, message):
    values = {"actions": ROUNDS.actions, "propensities": ROUNDS.propensities, "rewards": ROUNDS.rewards}[column].copy()
    values[1] = value
    with pytest.raises(DataError) as error:
        replace(ROUNDS, **{column: values})
    assert str(error.value) == message


def test_rounds_need_columns_of_one_length():
    with pytest.raises(DataError, match="at least one round; got 3, 2 and 3"):
        replace(ROUNDS, propensities=ROUNDS.propensities[:2])
    with pytest.raises(DataError, match="at least one round; got 0, 0 and 0"):
        ROUNDS.select(slice(0, 0))


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (EVEN[:2], {}, "policy has 2 rows, but there are 3 rounds; give one for each"),
        (EVEN * 2, {}, "policy: row 0 is no distribution over actions (minimum 0.66"),
        (np.array([[1.5, -0.5, 0.0]] * 3), {}, "policy: row 0 is no distribution over actions (minimum -0.5"),
        (np.array([[np.nan, 0.5, 0.5]] * 3), {}, "policy: row 0 is no distribution over actions (minimum nan"),
        (np.full((3, 2), 0.5), {}, "round actions go up to 2, but the policy has 2 actions"),
        (np.array([[0.0, 1, 0], [1, 0, 0], [1, 0, 0]]), {}, "the policy gives no logged action any probability"),
        (EVEN, {"model": EVEN[:, :2]}, "model has shape (3, 2), but the policy (3, 3); give q of every action"),
        (EVEN, {"model": EVEN * np.nan}, "model: an expected reward is not finite"),
        (EVEN, {"logging": EVEN}, "logging gives the action of round 0 the probability 0.33"),
        (EVEN, {"logging": np.full((3, 2), 0.5)}, "logging has 2 actions, but the policy 3"),
        (
            EVEN,
            {"logging": np.array([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5], [0.3, 0.4, 0.3]])},
            "missing support: in 2 of 3 rounds the policy may do what the logging policy never does, with 0.222 of",
        ),
    ],
)
def test_a_policy_is_refused_with_the_reason(policy, settings, message):
    with pytest.raises(DataError) as error:
        policy_value(ROUNDS, policy, **settings)
    assert str(error.value).startswith(message)


def test_a_clip_must_be_above_zero():
    with pytest.raises(ValueError, match="clip must be above 0, or none, got 0.0"):
        policy_value(ROUNDS, EVEN, clip=0.0)
    assert importance_weights(ROUNDS, EVEN) == pytest.approx([5 / 3, 2 / 3, 10 / 9])
