"""Planted click worlds: rows whose click probability, and so the best possible AUC, is known.

Every value x of a field has a hidden sign s(x). A click depends on the product of the signs of two fields alone,

    logit(row) = bias + strength * s_1(x_1) * s_2(x_2),

and both signs of a field are equally frequent, so that no single value says anything: logistic regression stays near
chance, and every model of pairs can reach the best AUC. The other fields are noise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from llm_rec.metrics.classification import auc


@dataclass(frozen=True, eq=False)
class PlantedClicks:
    """Raw columns as texts, labels, the users that group rows, and the truth behind them."""

    columns: dict[str, list[str]]
    labels: Float32[np.ndarray, "rows"]
    users: Int64[np.ndarray, "rows"]
    probabilities: Float64[np.ndarray, "rows"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def best_auc(self) -> float:
        """Expected AUC of the true probabilities here: every row is a positive by p and a negative by 1 - p."""
        scores, p = np.tile(self.probabilities, 2), self.probabilities
        return auc(scores, np.repeat([1, 0], len(p)), np.concatenate([p, 1 - p]))


def planted_clicks(
    rows: int = 4000,
    *,
    num_fields: int = 4,
    num_values: int = 10,
    num_users: int = 50,
    strength: float = 2.0,
    bias: float = -0.5,
    seed: int = 0,
) -> PlantedClicks:
    """Draw a world with fields ``field_0``, ``field_1`` (the planted pair), ..., and ``user``; equal arguments give
    equal bytes. `num_values` must be even.

    >>> world = planted_clicks(1000)
    >>> sorted(world.columns), 0.8 < world.best_auc < 0.9
    (['field_0', 'field_1', 'field_2', 'field_3', 'user'], True)
    """
    if num_fields < 2 or num_values < 2 or num_values % 2:
        raise ValueError(f"num_fields must be at least 2 and num_values even, got {num_fields} and {num_values}")
    rng = np.random.default_rng(seed)
    values = rng.integers(num_values, size=(rows, num_fields))
    signs = rng.permuted(np.tile(np.resize([1, -1], num_values), (2, 1)), axis=1)
    product = signs[0, values[:, 0]] * signs[1, values[:, 1]]
    probabilities = 1 / (1 + np.exp(-(bias + strength * product)))
    users = rng.integers(num_users, size=rows)
    columns = {f"field_{i}": [f"v{value}" for value in values[:, i].tolist()] for i in range(num_fields)}
    columns["user"] = [f"u{user}" for user in users.tolist()]
    labels = (rng.random(rows) < probabilities).astype(np.float32)
    return PlantedClicks(columns, labels, users, probabilities)
