"""Features of (context, action) of a logged bandit, for Bayesian logistic regression, and policies over its rounds.

    phi = [1, position, user values, item, item values, item number, user values x item values]

All but the number are indicators, so a weight is the log odds of a value or of a pair of values. What only users and
positions have moves a click rate and no order of items; the pairs are what makes a policy look at the user.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from llm_rec.data.sources.open_bandit import POSITIONS, BanditItems, BanditLog
from llm_rec.errors import DataError
from llm_rec.exploration.logistic import BayesianLogistic, fit_logistic
from llm_rec.exploration.policies import PolicyConfig, action_probabilities
from llm_rec.exploration.posterior import PosteriorConfig


@dataclass(frozen=True, eq=False)
class BanditFeatures:
    """`users` are the values of each user feature that have an indicator; other values have none, and are all zeros.
    `actions` are the features of each item by itself, `paired` its indicators that form pairs with those of users.
    """

    users: tuple[tuple[str, ...], ...]
    actions: Float64[Tensor, "actions features"]
    paired: Float64[Tensor, "actions values"]

    @classmethod
    def of(cls, log: BanditLog) -> "BanditFeatures":
        """Over the values of `log` and its items."""
        items, number = log.items, len(log.items)
        indicators = _indicators(items.features, [len(values) for values in items.values])
        own = torch.cat([torch.eye(number, dtype=torch.float64), indicators, _standardised(items)], dim=1)
        return cls(log.user_values, own, indicators)

    @property
    def dim(self) -> int:
        users = sum(map(len, self.users))
        return 1 + POSITIONS + users + self.actions.shape[1] + users * self.paired.shape[1]

    def contexts(self, log: BanditLog) -> Float64[Tensor, "rounds users"]:
        """Indicators of the user values of each round."""
        return _indicators(self._aligned(log), [len(values) for values in self.users])

    def logged(self, log: BanditLog) -> Float64[Tensor, "rounds features"]:
        """phi of what was shown."""
        positions = torch.eye(POSITIONS, dtype=torch.float64)[torch.from_numpy(log.positions)]
        chosen = torch.from_numpy(log.actions)
        return self._joined(positions, self.contexts(log), self.actions[chosen], self.paired[chosen])

    def all_actions(
        self, positions: Int64[np.ndarray, "rounds"], contexts: Float64[Tensor, "rounds users"]
    ) -> Float64[Tensor, "rounds actions features"]:
        """phi of every action in every round."""
        actions = len(self.actions)
        at = torch.eye(POSITIONS, dtype=torch.float64)[torch.from_numpy(positions)].repeat_interleave(actions, 0)
        users, rounds = contexts.repeat_interleave(actions, 0), len(contexts)
        rows = self._joined(at, users, self.actions.repeat(rounds, 1), self.paired.repeat(rounds, 1))
        return rows.view(rounds, actions, -1)

    def _joined(self, positions: Tensor, users: Tensor, actions: Tensor, paired: Tensor) -> Float64[Tensor, "rows dim"]:
        pairs = (users.unsqueeze(2) * paired.unsqueeze(1)).flatten(1)
        return torch.cat([torch.ones_like(users[:, :1]), positions, users, actions, pairs], dim=1)

    def _aligned(self, log: BanditLog) -> Int64[np.ndarray, "rounds columns"]:
        """Numbers of the values as here; -1 for a value without an indicator."""
        if len(log.user_values) != len(self.users):
            raise DataError(f"the log has {len(log.user_values)} user features, but there are {len(self.users)} here")
        columns = []
        for place, (known, given) in enumerate(zip(self.users, log.user_values, strict=True)):
            numbers = {value: number for number, value in enumerate(known)}
            columns.append(np.array([numbers.get(value, -1) for value in given])[log.users[:, place]])
        return np.stack(columns, axis=1)


def fit_bandit(features: BanditFeatures, log: BanditLog, config: PosteriorConfig) -> BayesianLogistic:
    """Clicks of `log` on its features; the prior of the intercept is centred on the log odds of the click rate, with
    half a click added on both sides.
    """
    clicks = float(log.clicks.sum())
    centre = torch.zeros(features.dim, dtype=torch.float64)
    centre[0] = float(np.log((clicks + 0.5) / (len(log) - clicks + 0.5)))
    labels = torch.from_numpy(log.clicks)
    return fit_logistic(features.logged(log), labels, config, prior_mean=centre)


@dataclass(frozen=True, eq=False)
class BanditBeliefs:
    """Distinct contexts of a log with what is believed of every action there: rounds share them by `context_of`."""

    features: BanditFeatures
    model: BayesianLogistic
    positions: Int64[np.ndarray, "contexts"]
    contexts: Float64[Tensor, "contexts users"]
    context_of: Int64[np.ndarray, "rounds"]

    @classmethod
    def of(cls, features: BanditFeatures, model: BayesianLogistic, log: BanditLog) -> "BanditBeliefs":
        keys = np.concatenate([log.positions[:, None], features.contexts(log).numpy()], axis=1)
        distinct, context_of = np.unique(keys, axis=0, return_inverse=True)
        positions, contexts = distinct[:, 0].astype(np.int64), torch.from_numpy(distinct[:, 1:])
        return cls(features, model, positions, contexts, context_of.reshape(-1).astype(np.int64))

    def click_rates(self) -> Float64[np.ndarray, "rounds actions"]:
        """The model's q: sigmoid of the mean logit."""
        rates = [
            torch.sigmoid(self.features.all_actions(self.positions[part], self.contexts[part]) @ self.model.mean)
            for part in self._slabs()
        ]
        found: np.ndarray = torch.cat(rates).numpy()[self.context_of]
        return found

    def probabilities(self, policy: PolicyConfig, seed: int) -> Float64[np.ndarray, "rounds actions"]:
        """How likely `policy` is to show each action in each round. Random numbers depend on `seed` alone."""
        found = []
        for part in self._slabs():
            generator = torch.Generator().manual_seed(seed)  # every slab starts the same stream of draws
            beliefs = self.model.beliefs(self.features.all_actions(self.positions[part], self.contexts[part]))
            found.append(action_probabilities(policy, beliefs, generator).probabilities)
        probabilities: np.ndarray = torch.cat(found).numpy()[self.context_of]
        return probabilities

    def _slabs(self) -> list[slice]:
        """Parts of the contexts whose features fit into a quarter of a gigabyte."""
        at_once = max(1, 2**25 // (self.features.dim * len(self.features.actions)))
        return [slice(start, start + at_once) for start in range(0, len(self.positions), at_once)]


def shown_shares(log: BanditLog) -> Float64[np.ndarray, "positions actions"]:
    """How often a log shows each item at each position: the policy that made it, averaged over its time and users."""
    shares = np.zeros((POSITIONS, len(log.items)))
    np.add.at(shares, (log.positions, log.actions), 1.0)
    if not (shares.sum(axis=1) > 0).all():
        raise DataError("a position was never filled in this log, so there are no shares of its items")
    shares /= shares.sum(axis=1, keepdims=True)
    return shares


def _indicators(codes: Int64[np.ndarray, "rows columns"], sizes: list[int]) -> Float64[Tensor, "rows values"]:
    """One indicator a value of each column; -1 has none."""
    rows = [np.eye(size + 1)[codes[:, place]][:, :size] for place, size in enumerate(sizes)]
    return torch.from_numpy(np.concatenate(rows, axis=1))


def _standardised(items: BanditItems) -> Float64[Tensor, "actions 1"]:
    spread = items.numbers.std() or 1.0
    return torch.from_numpy((items.numbers - items.numbers.mean()) / spread)[:, None]
