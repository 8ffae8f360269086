"""Scores against loops, weights over the events found, and pooling."""

import math

import pytest
import torch

from ctr_models.sequences.attention import (
    DotScoreConfig,
    MLPScoreConfig,
    attention_weights,
    build_score,
    pool,
    pool_found,
    query_scales,
    take_events,
)


def vectors(width=5, tables=2, rows=3, length=7, seed=0):
    torch.manual_seed(seed)
    query = torch.randn(tables, rows, width, dtype=torch.float64, requires_grad=True)
    return query, torch.randn(tables, rows, length, width, dtype=torch.float64, requires_grad=True)


def each(query, keys, score):
    """A score of one candidate and one event, for all."""
    rows = [
        [[score(t, q, k) for k in ks] for q, ks in zip(qs, kss, strict=True)]
        for t, (qs, kss) in enumerate(zip(query, keys, strict=True))
    ]
    return torch.stack([torch.stack([torch.stack(row) for row in table]) for table in rows])


def agree(found, expected, leaves):
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), leaves), torch.autograd.grad((expected * weights).sum(), leaves)
    )


@pytest.mark.parametrize("time", [0, 2])
@pytest.mark.parametrize("scale", ["split", "joint", "repeated_time"])
def test_dot_scores_are_two_scaled_products(scale, time):
    query, keys = vectors()
    semantic = 5 - time

    def naive(table, q, k):
        first, last = q[:semantic] @ k[:semantic], q[semantic:] @ k[semantic:]
        again = last / math.sqrt(max(time, 1))
        match scale:
            case "split":
                return first / math.sqrt(semantic) + again
            case "joint":
                return (first + last) / math.sqrt(5)
            case "repeated_time":
                return (first + last) / math.sqrt(5) + again

    score = build_score(DotScoreConfig(scale=scale), 2, 5, time).double()
    score.scales = _exact(score, scale, time)
    agree(score(query, keys), each(query, keys, naive), [query, keys])


def _exact(score, scale, time):
    """The float32 buffer in double precision."""
    semantic, total, own = 5 - time, 1 / math.sqrt(5), 1 / math.sqrt(max(time, 1))
    rest = {"split": 1 / math.sqrt(semantic), "joint": total, "repeated_time": total}[scale]
    last = {"split": own, "joint": total, "repeated_time": total + own}[scale]
    exact = torch.tensor([rest] * semantic + [last] * time, dtype=torch.float64)
    torch.testing.assert_close(score.scales.double(), exact, atol=1e-7, rtol=1e-7)
    return exact


def test_split_and_joint_scaling_are_one_without_a_time_part_and_differ_with_one():
    assert torch.equal(query_scales("split", 6, 0), query_scales("joint", 6, 0))
    assert not torch.allclose(query_scales("split", 6, 3), query_scales("joint", 6, 3))
    equal_halves = query_scales("split", 6, 3) / query_scales("joint", 6, 3)
    torch.testing.assert_close(equal_halves, torch.full((6,), math.sqrt(2)))  # then they differ by one factor alone


@pytest.mark.parametrize("hidden", [(4,), (4, 3)])
@pytest.mark.parametrize("activation", ["prelu", "sigmoid"])
def test_the_mlp_score_is_the_network_of_four_parts_side_by_side(hidden, activation):
    query, keys = vectors()
    torch.manual_seed(1)
    score = build_score(MLPScoreConfig(hidden=hidden, activation=activation), 2, 5, 1).double()
    for parameter in score.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))

    def bend(x, table, number):
        if activation == "sigmoid":
            return x.sigmoid()
        return torch.where(x > 0, x, x * score.slopes[number].weight[table])

    def naive(table, q, k):
        x = torch.cat([q, k, q - k, q * k]) @ score.weight[table] + score.bias[table]
        for number, layer in enumerate(score.layers):
            x = bend(x, table, number) @ layer.weight[table] + layer.bias[table]
        return x[0] / 5

    agree(score(query, keys), each(query, keys, naive), [query, keys, *score.parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_sum_to_one_over_events_and_padding_weighs_exactly_nothing(dtype):
    scores = torch.tensor([[[9.0, 1.0, 3.0], [5.0, 5.0, 5.0], [-60000.0, -60000.0, 60000.0]]], dtype=dtype)
    real = torch.tensor([[[False, True, True], [False, False, False], [True, True, False]]])
    weights = attention_weights(scores, real)
    assert weights.dtype == dtype
    assert weights[0, 1].tolist() == [0.0, 0.0, 0.0]
    assert weights[~real].abs().max() == 0
    assert weights[0, 2].tolist() == [0.5, 0.5, 0.0]
    assert weights[0, 0, 2].item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.01)


def test_weights_of_a_row_without_events_have_finite_gradients():
    scores = torch.zeros(1, 1, 3, requires_grad=True)
    attention_weights(scores, torch.zeros(1, 1, 3, dtype=torch.bool)).sum().backward()
    assert scores.grad.abs().max() == 0


def test_pooling_of_found_rows_is_pooling_of_all_under_the_same_weights():
    _, events = vectors()
    indices = torch.tensor([[[2, 0], [6, 5], [1, 4]], [[3, 3], [0, 6], [2, 1]]])
    weights = torch.rand(2, 3, 2, dtype=torch.float64)
    full = torch.zeros(2, 3, 7, dtype=torch.float64).scatter_add(2, indices, weights)
    torch.testing.assert_close(pool_found(weights, events, indices), pool(full, events))
    assert torch.equal(take_events(events, indices)[1, 2, 0], events[1, 2, 2])


def test_layers_without_units_are_refused():
    with pytest.raises(ValueError, match=r"^hidden must hold at least one size, each at least 1, got \(\)$"):
        MLPScoreConfig(hidden=())
