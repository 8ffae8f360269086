"""Policies over believed logits: what ranks the actions of a round, and how likely each one is to be done.

    greedy  sigma(mu)      UCB  sigma(mu + beta s)      Thompson sampling  sigma(mu + s eps), eps ~ N(0, 1)

Rounds are rows, actions columns; the action with the highest score is done, equal scores share.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from llm_rec.errors import ConfigError
from llm_rec.exploration.posterior import LogitBeliefs

_DRAWN_AT_ONCE = 1 << 22  # scores held at a time: 32 MiB


@dataclass(frozen=True, kw_only=True, slots=True)
class GreedyConfig:
    """The most probable click, no exploration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UCBConfig:
    """Optimism: `beta` standard deviations above the mean. 0 is greedy."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ConfigError(f"beta must be finite and not negative, got {self.beta}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ThompsonConfig:
    """A draw of every logit, then the best.

    `joint` draws weights, and with them all logits of a round together: what its actions have in common (an uncertain
    intercept) does not move their order. Otherwise every action draws by itself, which explores more. `samples` draws
    estimate the probabilities of actions.
    """

    joint: bool = True
    samples: int = 1000

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ConfigError(f"samples must be at least 1, got {self.samples}")


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformConfig:
    """Any action, equally likely."""


PolicyConfig: TypeAlias = GreedyConfig | UCBConfig | ThompsonConfig | UniformConfig


class ActionProbabilities(NamedTuple):
    """How likely each action is, and the standard error where that was estimated by draws (0 where it is exact).

    The error is that of (hits + 1) / (draws + 2): an action that was never drawn is not known to be impossible. Joint
    draws serve all rounds, so their errors go together and do not average out over rounds.
    """

    probabilities: Float64[Tensor, "rounds actions"]
    standard_errors: Float64[Tensor, "rounds actions"]


def action_scores(
    policy: PolicyConfig, beliefs: LogitBeliefs, generator: torch.Generator
) -> Float64[Tensor, "rounds actions"]:
    """What the actions of each round are ranked by: probabilities of a click, or random numbers for the uniform policy.

    `generator` is on the device of the beliefs. `ConfigError` for joint draws from beliefs without a root.
    """
    match policy:
        case GreedyConfig():
            return torch.sigmoid(beliefs.mean)
        case UCBConfig():
            return torch.sigmoid(beliefs.mean + policy.beta * beliefs.std)
        case ThompsonConfig():
            return torch.sigmoid(_draws(policy, beliefs, 1, generator)[0])
        case UniformConfig():
            shape, device = beliefs.mean.shape, beliefs.mean.device
            return torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        case _:
            assert_never(policy)


def ranked_actions(
    policy: PolicyConfig, beliefs: LogitBeliefs, generator: torch.Generator
) -> Int64[Tensor, "rounds actions"]:
    """Actions of each round, best first; of equal scores the first."""
    return action_scores(policy, beliefs, generator).argsort(dim=1, descending=True, stable=True)


def action_probabilities(
    policy: PolicyConfig, beliefs: LogitBeliefs, generator: torch.Generator
) -> ActionProbabilities:
    """The distribution over actions that `policy` chooses from in each round, as off-policy estimates need it.

    Exact but for Thompson sampling among three actions or more, which is estimated by `samples` draws.
    """
    match policy:
        case GreedyConfig():
            return _exact(_shared(beliefs.mean))
        case UCBConfig():
            return _exact(_shared(beliefs.mean + policy.beta * beliefs.std))
        case ThompsonConfig():
            return (
                _exact(_first_of_two(policy, beliefs))
                if beliefs.mean.shape[1] == 2
                else _drawn(policy, beliefs, generator)
            )
        case UniformConfig():
            return _exact(torch.full_like(beliefs.mean, 1 / beliefs.mean.shape[1]))
        case _:
            assert_never(policy)


def _draws(
    policy: ThompsonConfig, beliefs: LogitBeliefs, samples: int, generator: torch.Generator
) -> Float64[Tensor, "samples rounds actions"]:
    """Logits. With joint draws all rounds see the same weights in a sample."""
    mean = beliefs.mean
    if not policy.joint:
        noise = torch.randn(samples, *mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return mean + beliefs.std * noise
    root = _root(beliefs)
    noise = torch.randn(samples, root.shape[-1], generator=generator, dtype=mean.dtype, device=mean.device)
    return mean + torch.einsum("rak,sk->sra", root, noise)


def _drawn(policy: ThompsonConfig, beliefs: LogitBeliefs, generator: torch.Generator) -> ActionProbabilities:
    mean, samples = beliefs.mean, policy.samples
    hits = torch.zeros_like(mean)
    at_once = max(1, _DRAWN_AT_ONCE // max(mean.numel(), 1))
    for start in range(0, samples, at_once):
        best = _draws(policy, beliefs, min(at_once, samples - start), generator).argmax(2)
        hits.scatter_add_(1, best.T, torch.ones_like(best.T, dtype=hits.dtype))
    pulled = (hits + 1) / (samples + 2)
    return ActionProbabilities(hits / samples, (pulled * (1 - pulled) / samples).sqrt())


def _first_of_two(policy: ThompsonConfig, beliefs: LogitBeliefs) -> Float64[Tensor, "rounds 2"]:
    """P(first above second) is a normal distribution function of their distance over its deviation."""
    if policy.joint:
        root = _root(beliefs)
        spread = (root[:, 0] - root[:, 1]).norm(dim=1)
    else:
        spread = beliefs.std.norm(dim=1)
    distance = beliefs.mean[:, 0] - beliefs.mean[:, 1]
    sure = (distance.sign() + 1) / 2
    first = torch.where(spread > 0, torch.special.ndtr(distance / spread.clamp(min=1e-300)), sure)
    return torch.stack([first, 1 - first], dim=1)


def _root(beliefs: LogitBeliefs) -> Float64[Tensor, "rounds actions rank"]:
    if beliefs.root is None:
        raise ConfigError("joint draws need the root of the beliefs' covariance; set joint to False without one")
    return beliefs.root


def _shared(scores: Float64[Tensor, "rounds actions"]) -> Float64[Tensor, "rounds actions"]:
    best = (scores == scores.amax(1, keepdim=True)).double()
    return best / best.sum(1, keepdim=True)


def _exact(probabilities: Float64[Tensor, "rounds actions"]) -> ActionProbabilities:
    return ActionProbabilities(probabilities, torch.zeros_like(probabilities))
