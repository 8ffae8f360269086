"""What a policy would have earned, from rounds that another policy logged: IPS, SNIPS, direct method, doubly robust.

    V(pi) = E_x sum_a pi(a | x) E[r | x, a],    w = pi(a | x) / p,    a and r logged, p the logged action's propensity
    IPS    mean of w r                                        (Horvitz and Thompson, 1952)
    SNIPS  sum of w r / sum of w                              (Swaminathan and Joachims, 2015)
    DM     mean of sum_a pi(a | x) q(x, a)                    q: a model's expected reward
    DR     DM + mean of w (r - q(x, a))                       (Dudik et al., arXiv 1103.4601)

IPS and DR are unbiased when propensities are true and every action that pi takes could have been logged; SNIPS is
consistent; DM is as wrong as its model. q must come from other rounds than those it is used on, or DR is biased too.
Rounds are taken as independent; where several rows of a log belong to one visit, intervals are too narrow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from llm_rec.errors import DataError
from llm_rec.metrics.significance import bootstrap_means

Estimator = Literal["ips", "snips", "dm", "dr"]
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class LoggedRounds:
    """What was done, how likely it was under the policy that did it, and what came of it; action numbers from 0.

    Raises `DataError` for propensities outside (0, 1], values that are not finite and columns of different lengths.
    """

    actions: Int64[np.ndarray, "actions"]
    propensities: Float64[np.ndarray, "propensities"]
    rewards: Float64[np.ndarray, "rewards"]

    def __post_init__(self) -> None:
        sizes = {len(self.actions), len(self.propensities), len(self.rewards)}
        if len(sizes) > 1 or not len(self.actions):
            raise DataError(
                f"rounds need one action, propensity and reward each, and at least one round; got {len(self.actions)}, "
                f"{len(self.propensities)} and {len(self.rewards)}"
            )
        _refuse(~((self.propensities > 0) & (self.propensities <= 1)), self.propensities, "a propensity", "in (0, 1]")
        _refuse(~np.isfinite(self.rewards), self.rewards, "a reward", "finite")
        _refuse(self.actions < 0, self.actions, "an action", "a number from 0 on")

    def __len__(self) -> int:
        return len(self.actions)

    def select(self, rows: slice | np.ndarray) -> "LoggedRounds":
        """Some of the rounds."""
        return LoggedRounds(
            actions=self.actions[rows], propensities=self.propensities[rows], rewards=self.rewards[rows]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A value with its two intervals: percentile bootstrap over rounds (`low`, `high`), and value +- z standard errors
    (`normal_low`, `normal_high`; of SNIPS by the delta method). The ends of a bootstrap without any resample that has
    the estimate (SNIPS of resamples without weight) are NaN.

    `clipping_bias` is the value minus that with unclipped weights on the same rounds. Its expectation is the bias of
    clipping where the unclipped estimator has none (IPS, DR); it is as noisy as the large weights that were clipped.
    """

    value: float
    standard_error: float
    low: float
    high: float
    normal_low: float
    normal_high: float
    clipping_bias: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyValue:
    """Estimates by estimator, and what they rest on. The intervals of DM know nothing of the error of its model.

    `effective_sample_size` is (sum w)^2 / sum w^2 of the weights used. `mean_weight` is that of unclipped weights; its
    expectation is 1 when propensities are true and nothing that the policy does was impossible. `rewarded_rounds` have
    a reward other than 0 and weight: with a handful of them no interval here can be trusted, with none IPS, SNIPS and
    their bootstrap intervals are 0 whatever the policy is worth.
    """

    estimates: dict[Estimator, Estimate]
    rounds: int
    effective_sample_size: float
    mean_weight: float
    max_weight: float
    rewarded_rounds: int
    clipped_rounds: int


def importance_weights(
    rounds: LoggedRounds,
    policy: Float[np.ndarray, "rounds actions"],
    *,
    logging: Float[np.ndarray, "logged actions_logged"] | None = None,
) -> Float64[np.ndarray, "rounds"]:
    """pi(a | x) / p of the logged actions. `policy` has the probability of every action in every round.

    Raises `DataError` when rows of `policy` are no distributions, an action is none of its columns, or support is
    missing: the policy gives no logged action any probability, or (with `logging`, the distributions that rounds were
    drawn from, which must agree with the propensities) something that it does could not be logged.

    >>> rounds = LoggedRounds(actions=np.array([0, 1]), propensities=np.array([0.5, 0.25]), rewards=np.array([1.0, 0]))
    >>> importance_weights(rounds, np.array([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [2.0, 2.0]
    """
    exact = check_distributions(policy, len(rounds), "policy")
    if rounds.actions.max() >= exact.shape[1]:
        raise DataError(f"round actions go up to {rounds.actions.max()}, but the policy has {exact.shape[1]} actions")
    if logging is not None:
        _check_support(rounds, exact, check_distributions(logging, len(rounds), "logging"))
    weights: np.ndarray = _of_logged(exact, rounds) / rounds.propensities
    if not weights.any():
        raise DataError(
            "the policy gives no logged action any probability, so the rounds say nothing of it; log with a policy "
            "that may do what this one does"
        )
    return weights


def policy_value(
    rounds: LoggedRounds,
    policy: Float[np.ndarray, "rounds actions"],
    *,
    model: Float[np.ndarray, "modelled actions_modelled"] | None = None,
    logging: Float[np.ndarray, "logged actions_logged"] | None = None,
    clip: float | None = None,
    samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PolicyValue:
    """IPS and SNIPS of `policy`, with `model` (q of every action in every round) DM and DR too.

    `clip`: weights above it become it. That bounds the variance and biases IPS towards 0 by the mean of (w - clip)+ r,
    DR by the mean of (w - clip)+ (r - q); see `Estimate.clipping_bias`. All estimators share the resamples. The same
    errors as `importance_weights`.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be above 0, or none, got {clip}")
    weights = importance_weights(rounds, policy, logging=logging)
    used = weights if clip is None else np.minimum(weights, clip)
    columns = _columns(rounds, policy, model, used)
    means = bootstrap_means(np.stack(list(columns.values()), axis=1), samples=samples, seed=seed)
    drawn = dict(zip(columns, means.T, strict=True))
    bare = columns if clip is None else _columns(rounds, policy, model, weights)
    names: tuple[Estimator, ...] = ("ips", "snips") if model is None else ("ips", "snips", "dm", "dr")
    return PolicyValue(
        estimates={name: _estimate(name, columns, drawn, bare, level) for name in names},
        rounds=len(rounds),
        effective_sample_size=float(used.sum() ** 2 / (used**2).sum()),
        mean_weight=float(weights.mean()),
        max_weight=float(weights.max()),
        rewarded_rounds=int(((weights > 0) & (rounds.rewards != 0)).sum()),
        clipped_rounds=0 if clip is None else int((weights > clip).sum()),
    )


def logged_value(rounds: LoggedRounds, *, samples: int = 1000, level: float = 0.95, seed: int = 0) -> Estimate:
    """What the logging policy earned: the mean reward, with the same two intervals. IPS with all weights 1."""
    columns = {"ips": rounds.rewards}
    drawn = {"ips": bootstrap_means(rounds.rewards[:, None], samples=samples, seed=seed)[:, 0]}
    return _estimate("ips", columns, drawn, columns, level)


def check_distributions(
    probabilities: Float[np.ndarray, "rows actions"], rows: int, name: str
) -> Float64[np.ndarray, "rows actions"]:
    """The same in float64; `DataError` unless each of `rows` rows is a distribution over actions."""
    if len(probabilities) != rows:
        raise DataError(f"{name} has {len(probabilities)} rows, but there are {rows} rounds; give one for each")
    exact = probabilities.astype(np.float64)
    sums = exact.sum(axis=1)
    fine = np.isfinite(exact).all(axis=1) & (exact >= 0).all(axis=1) & (np.abs(sums - 1) < SUM_TOLERANCE)
    if not fine.all():
        row = int(np.flatnonzero(~fine)[0])
        raise DataError(
            f"{name}: row {row} is no distribution over actions (minimum {exact[row].min()}, sum {sums[row]}); "
            "probabilities must be finite, not negative, and sum to 1"
        )
    return exact


def _columns(
    rounds: LoggedRounds,
    policy: Float[np.ndarray, "rounds actions"],
    model: Float[np.ndarray, "modelled actions_modelled"] | None,
    weights: Float64[np.ndarray, "rounds"],
) -> Mapping[str, Float64[np.ndarray, "rounds"]]:
    """What estimators are means of, or a ratio of two means."""
    columns = {"ips": weights * rounds.rewards, "weight": weights}
    if model is not None:
        if model.shape != policy.shape:
            raise DataError(f"model has shape {model.shape}, but the policy {policy.shape}; give q of every action")
        if not np.isfinite(model).all():
            raise DataError("model: an expected reward is not finite (NaN or infinite); check how it was fitted")
        direct = (policy.astype(np.float64) * model.astype(np.float64)).sum(axis=1)
        columns["dm"] = direct
        columns["dr"] = direct + weights * (rounds.rewards - _of_logged(model.astype(np.float64), rounds))
    return columns


def _estimate(
    name: Estimator,
    columns: Mapping[str, Float64[np.ndarray, "rounds"]],
    drawn: Mapping[str, Float64[np.ndarray, "samples"]],
    bare: Mapping[str, Float64[np.ndarray, "rounds"]],
    level: float,
) -> Estimate:
    if name == "snips":
        value, unclipped = (c["ips"].mean() / c["weight"].mean() for c in (columns, bare))
        influence = (columns["ips"] - value * columns["weight"]) / columns["weight"].mean()
        known = drawn["weight"] > 0  # a resample without weight has no such estimate
        values = drawn["ips"][known] / drawn["weight"][known]
    else:
        value, unclipped = (c[name].mean() for c in (columns, bare))
        influence, values = columns[name], drawn[name]
    rounds, tail = len(influence), (1 - level) / 2
    error = float(influence.std(ddof=1) / rounds**0.5) if rounds > 1 else float("inf")
    half = NormalDist().inv_cdf(1 - tail) * error
    low, high = np.quantile(values, [tail, 1 - tail]) if len(values) else (np.nan, np.nan)
    return Estimate(
        value=float(value),
        standard_error=error,
        low=float(low),
        high=float(high),
        normal_low=float(value - half),
        normal_high=float(value + half),
        clipping_bias=float(value - unclipped),
    )


def _check_support(
    rounds: LoggedRounds, policy: Float64[np.ndarray, "rounds actions"], logging: Float64[np.ndarray, "rounds others"]
) -> None:
    if logging.shape != policy.shape:
        raise DataError(f"logging has {logging.shape[1]} actions, but the policy {policy.shape[1]}")
    other = np.flatnonzero(~np.isclose(_of_logged(logging, rounds), rounds.propensities, rtol=1e-4, atol=0))
    if len(other):
        row = int(other[0])
        raise DataError(
            f"logging gives the action of round {row} the probability {_of_logged(logging, rounds)[row]}, but its "
            f"propensity is {rounds.propensities[row]}"
        )
    lost = np.where(logging == 0, policy, 0).sum(axis=1)
    if lost.any():
        raise DataError(
            f"missing support: in {int((lost > 0).sum())} of {len(rounds)} rounds the policy may do what the logging "
            f"policy never does, with {lost.mean():.3g} of its probability over all; its value there is unknown"
        )


def _of_logged(values: Float64[np.ndarray, "rounds actions"], rounds: LoggedRounds) -> Float64[np.ndarray, "rounds"]:
    return np.take_along_axis(values, rounds.actions[:, None], axis=1)[:, 0]


def _refuse(bad: Bool[np.ndarray, "rounds"], values: np.ndarray, what: str, rule: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(f"{what} must be {rule}, got {values[row]} in round {row} (counted from 0)")
