"""Sinkhorn against the plain, undamped iteration in float64."""

import pytest
import torch

from semantic_ids.sinkhorn import centred_costs, grouped_sinkhorn, sinkhorn
from semantic_ids.vectors import seeded


def naive(costs, epsilon, iterations):
    plan = torch.exp(-costs / epsilon)
    rows, codes = plan.shape
    plan = plan / plan.sum(1, keepdim=True)
    for _ in range(iterations):
        plan = plan / plan.sum(0, keepdim=True) * rows / codes
        plan = plan / plan.sum(1, keepdim=True)
    return plan


def test_equals_the_naive_iteration():
    costs = torch.rand(12, 5, generator=seeded(0), dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(costs, epsilon=0.2, iterations=30), naive(costs, 0.2, 30))


def test_groups_are_independent_of_each_other():
    costs = torch.rand(12, 5, generator=seeded(1), dtype=torch.float64)
    groups = torch.tensor([0, 2, 1, 0, 2, 1, 0, 0, 1, 2, 0, 1])
    together = grouped_sinkhorn(costs, groups, 3, epsilon=0.1, iterations=20)
    for group in range(3):
        torch.testing.assert_close(together[groups == group], naive(costs[groups == group], 0.1, 20))


def test_marginals_and_no_overflow_at_the_published_epsilon():
    costs = centred_costs(100 * torch.rand(64, 8, generator=seeded(2)), torch.zeros(64, dtype=torch.int64), 1)
    plan = sinkhorn(costs, epsilon=0.003, iterations=2000)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(1), torch.ones(64))
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 8.0), atol=0.2, rtol=0)


def test_costs_are_centred_inside_each_group():
    costs = torch.tensor([[0.0, 4.0], [2.0, 2.0], [10.0, 30.0]])
    centred = centred_costs(costs, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(centred, torch.tensor([[-1.0, 1.0], [0.0, 0.0], [-1.0, 1.0]]), atol=1e-5, rtol=0)


def test_epsilon_must_be_positive():
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        sinkhorn(torch.zeros(2, 2), epsilon=0.0)
