"""Schedules against their equations, over every update of a run."""

import math

import pytest

from llm_rec.training.schedule import learning_rate_factor


@pytest.mark.parametrize("warmup", [0, 1, 7, 100])
def test_inverse_square_root_is_t5s(warmup):
    """T5 (arXiv 1910.10683, section 3.1.2): 1 / sqrt(max(n, k)), here relative to its first value."""
    k = max(warmup, 1)
    for update in range(300):
        expected = (1 / math.sqrt(max(update + 1, k))) / (1 / math.sqrt(k))
        found = learning_rate_factor("inverse_sqrt", update, updates=300, warmup=warmup)
        assert found == pytest.approx(expected, rel=1e-12)


def test_inverse_square_root_of_tigers_numbers():
    """.01 for 10,000 steps, and .01 * sqrt(10,000 / 200,000) at the end."""
    rates = [
        0.01 * learning_rate_factor("inverse_sqrt", update, updates=200_000, warmup=10_000)
        for update in (0, 9_999, 39_999, 199_999)
    ]
    assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0022360679775])
