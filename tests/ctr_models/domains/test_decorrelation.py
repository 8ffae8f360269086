"""Losses that keep experts apart, beside loops over pairs and known values."""

import math

import pytest
import torch

from ctr_models.domains.covariance import CovarianceConfig, cross_expert_covariance
from ctr_models.domains.decorrelation import SimilarityConfig, decorrelation, pairwise_similarity

DOUBLE = torch.float64


def drawn(experts=5, rows=4096, dim=64, seed=0, dtype=torch.float32):
    return torch.randn(experts, rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def covariance_by_pairs(outputs, *, include_self=False):
    """The formula, pair by pair."""
    centred = outputs - outputs.mean(1, keepdim=True)
    experts, _, dim = outputs.shape
    total = outputs.new_zeros(())
    for p in range(experts):
        for q in range(p + 1 if include_self else p):
            total = total + (centred[p].T @ centred[q]).abs().sum()
    return total / dim**2


@pytest.mark.parametrize("include_self", [False, True])
def test_one_product_equals_the_loop_over_pairs_forward_and_backward(include_self):
    outputs = drawn(4, 30, 6, dtype=DOUBLE).requires_grad_()
    found = cross_expert_covariance(outputs, include_self=include_self)
    expected = covariance_by_pairs(outputs, include_self=include_self)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, outputs), torch.autograd.grad(expected, outputs))


def test_gradients_in_float64():
    outputs = drawn(3, 7, 2, dtype=DOUBLE).requires_grad_()
    assert torch.autograd.gradcheck(cross_expert_covariance, outputs)


def test_independent_experts_have_the_scale_of_ten_pairs():
    """E|sum of 4,095 products of normals| is sqrt(2 N / pi): 10 pairs give about 510; identical experts about 1,156."""
    assert float(cross_expert_covariance(drawn())) == pytest.approx(10 * math.sqrt(2 * 4096 / math.pi), rel=0.01)
    one = drawn(1).expand(5, -1, -1)
    diagonal, rest = 4096 / 64, math.sqrt(2 * 4096 / math.pi) * 63 / 64
    assert float(cross_expert_covariance(one)) == pytest.approx(10 * (diagonal + rest), rel=0.02)
    assert float(cross_expert_covariance(one)) == pytest.approx(1156, rel=0.02)


def test_fewer_rows_change_the_scale():
    """A row's share of the loss of independent experts is 11 times as large with 32 rows as with 4,096."""
    outputs = drawn()
    few = cross_expert_covariance(outputs, max_rows=32, reduction="mean")
    assert torch.equal(few, cross_expert_covariance(outputs[:, :32]) / 32)
    assert float(few) == pytest.approx(1.374, rel=0.03)
    assert float(cross_expert_covariance(outputs, reduction="mean")) == pytest.approx(0.124, rel=0.03)


def test_uncorrelated_columns_give_zero():
    columns = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], dtype=DOUBLE)
    assert float(cross_expert_covariance(columns.unsqueeze(2))) == 0
    assert float(cross_expert_covariance(columns.unsqueeze(2), include_self=True)) == 3 * 4


def test_a_constant_for_each_dimension_changes_nothing():
    outputs = drawn(3, 20, 4, dtype=DOUBLE)
    torch.testing.assert_close(
        cross_expert_covariance(outputs + drawn(3, 1, 4, seed=1, dtype=DOUBLE)), cross_expert_covariance(outputs)
    )


def test_the_mean_is_the_sum_by_rows_so_that_weights_convert():
    outputs = drawn(3, 20, 4, dtype=DOUBLE)
    by_sum = decorrelation(CovarianceConfig(weight=2e-5), outputs)
    by_mean = decorrelation(CovarianceConfig(weight=2e-5 * 20, reduction="mean"), outputs)
    torch.testing.assert_close(by_mean, by_sum)


def test_one_expert_one_row_and_no_row_give_zero():
    for shape in ((1, 5, 3), (4, 1, 3), (4, 0, 3)):
        assert float(cross_expert_covariance(torch.randn(shape))) == 0


def test_autocast_does_not_reach_the_product():
    outputs = drawn(3, 500, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = cross_expert_covariance(outputs)
    assert torch.equal(found, cross_expert_covariance(outputs))
    assert cross_expert_covariance(outputs.bfloat16()).dtype == torch.float32


def similarity_by_loop(outputs, measure):
    total = outputs.new_zeros(())
    experts, rows, dim = outputs.shape
    for p in range(experts):
        for q in range(p):
            if measure == "distance_correlation":
                total = total + distance_correlation(outputs[p], outputs[q])
                continue
            for row in range(rows):
                x, y = outputs[p, row], outputs[q, row]
                scale = dim if measure == "dot" else (x @ x).sqrt() * (y @ y).sqrt()
                total = total + ((x @ y) / scale).abs() / rows
    return total


def distance_correlation(x, y):
    def distance(z, i, j):
        return (z[i] - z[j]).norm() if i != j else z[i].sum() * 0

    def centred(z):
        distances = torch.stack([torch.stack([distance(z, i, j) for j in range(len(z))]) for i in range(len(z))])
        return distances - distances.mean(0) - distances.mean(1)[:, None] + distances.mean()

    a, b = centred(x), centred(y)
    return ((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()).sqrt()


@pytest.mark.parametrize("measure", ["dot", "cosine", "distance_correlation"])
def test_similarities_equal_their_definitions_forward_and_backward(measure):
    outputs = drawn(3, 8, 4, dtype=DOUBLE).requires_grad_()
    found, expected = pairwise_similarity(outputs, measure), similarity_by_loop(outputs, measure)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, outputs), torch.autograd.grad(expected, outputs))
    config = SimilarityConfig(measure=measure, weight=3.0, max_rows=5)
    torch.testing.assert_close(decorrelation(config, outputs), 3.0 * pairwise_similarity(outputs[:, :5], measure))


@pytest.mark.parametrize("measure", ["dot", "cosine", "distance_correlation"])
def test_a_dead_expert_leaves_gradients_finite(measure):
    outputs = drawn(3, 8, 4).requires_grad_()
    dead = torch.cat([outputs[:2], outputs[2:] * 0])
    (gradient,) = torch.autograd.grad(pairwise_similarity(dead, measure), outputs)
    assert torch.isfinite(gradient).all()


def test_distance_correlation_of_an_expert_with_its_scaled_shift_is_one():
    one = drawn(1, 12, 4, dtype=DOUBLE)
    assert float(pairwise_similarity(torch.cat([one, 3 * one + 5]), "distance_correlation")) == pytest.approx(1)


@pytest.mark.parametrize("config", [CovarianceConfig, SimilarityConfig])
def test_wrong_settings_are_named(config):
    with pytest.raises(ValueError, match=r"^weight must be finite and not negative, got -1.0$"):
        config(weight=-1.0)
    with pytest.raises(ValueError, match=r"^max_rows must be at least 2, got 1$"):
        config(max_rows=1)
