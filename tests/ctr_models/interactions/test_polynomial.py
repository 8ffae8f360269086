"""xDeepInt's polynomial network against a loop over terms; degrees and subspaces."""

import pytest
import torch

from ctr_models.interactions.polynomial import PolynomialConfig, PolynomialNet


def textbook(module, config, number, row):
    """X_l[n] = X_(l-1)[n] * sum_m W_l[m, n] X_0[m] (+ X_(l-1)[n]), n over fields and parts."""
    fields, dim = row.shape
    size = dim // config.num_subspaces
    start = [[row[i, s * size : (s + 1) * size] for s in range(config.num_subspaces)] for i in range(fields)]
    start = [part for parts in start for part in parts]
    x, orders = start, [start]
    for layer in range(config.num_layers):
        weight = module.weight[number, layer]
        factors = [sum(weight[m, n] * start[m] for m in range(len(start))) for n in range(len(start))]
        x = [a * f + (a if config.residual else 0) for a, f in zip(x, factors, strict=True)]
        orders.append(x)
    kept = orders[-1:] if config.residual else orders
    tables = [torch.cat(order).view(fields, dim) for order in kept]
    return torch.cat([table.sum(1) if config.reduce_dim else table.flatten() for table in tables])


@pytest.mark.parametrize("num_subspaces", [1, 2, 4])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("reduce_dim", [True, False])
def test_network_equals_the_loop(build, agree, num_subspaces, residual, reduce_dim):
    config = PolynomialConfig(num_layers=2, num_subspaces=num_subspaces, residual=residual, reduce_dim=reduce_dim)
    module = build(PolynomialNet, config, 2, 3, 4)
    agree(module, lambda number, row: textbook(module, config, number, row), (2, 3, 3, 4))


def test_without_residual_the_order_l_has_degree_l(build):
    module = build(PolynomialNet, PolynomialConfig(residual=False), 1, 3, 4)
    fields = torch.randn(1, 5, 3, 4, dtype=torch.float64)
    degrees = torch.arange(1, 5, dtype=torch.float64).repeat_interleave(3)
    torch.testing.assert_close(module(1.7 * fields), module(fields) * 1.7**degrees)


def test_one_subspace_crosses_equal_coordinates_alone(build):
    for num_subspaces, crosses in ((1, False), (4, True)):
        config = PolynomialConfig(num_layers=1, num_subspaces=num_subspaces, reduce_dim=False)
        module = build(PolynomialNet, config, 1, 3, 4)
        fields = torch.randn(1, 1, 3, 4, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(module(fields)[0, 0, 0], fields)
        assert bool((gradient[..., 1:] != 0).any()) == crosses


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="num_layers must be at least 1, got 0"):
        PolynomialConfig(num_layers=0)
    with pytest.raises(ValueError, match="num_subspaces must be at least 1, got 0"):
        PolynomialConfig(num_subspaces=0)
    with pytest.raises(ValueError, match="dim 4 cannot be shared by num_subspaces 3; choose a divisor"):
        PolynomialNet(PolynomialConfig(num_subspaces=3), 1, 5, 4)
