"""Search: brute force in loops, ties, padding, edges of number types."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.sequences.search import Search, best, dot_scores, exact_search, masked, newest, take

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def brute(scores, mask, k):
    """Columns of one row: events before padding, high scores before low ones, new before old."""
    order = sorted(range(len(scores)), key=lambda i: (not mask[i], -float(scores[i]) if mask[i] else 0.0, -i))
    return order[:k]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_the_best_are_those_of_a_full_sort_whatever_the_ties(data, dtype):
    length = data.draw(st.integers(1, 7))
    numbers = st.sampled_from([-float("inf"), -60000.0, -1.5, -0.0, 0.0, 1e-7, 1.5, 60000.0])
    row = st.lists(numbers, min_size=length, max_size=length)
    scores = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=3)), dtype=dtype)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=length, max_size=length))).expand(scores.shape)
    k = data.draw(st.integers(1, 9))
    found = best(scores.unsqueeze(0), mask, k)
    assert found.indices[0].tolist() == [brute(s, m, k) for s, m in zip(scores, mask, strict=True)]
    assert found.real[0].tolist() == [[bool(m[i]) for i in brute(s, m, k)] for s, m in zip(scores, mask, strict=True)]


def test_equal_scores_give_the_newest_events():
    scores = torch.zeros(1, 1, 40)
    assert best(scores, torch.ones(1, 40, dtype=torch.bool), 3).indices.tolist() == [[[39, 38, 37]]]
    assert best(scores.double(), torch.ones(1, 40, dtype=torch.bool), 3).indices.tolist() == [[[39, 38, 37]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_comes_after_the_worst_event(dtype):
    low = torch.finfo(dtype).min
    scores = torch.tensor([[[9.0, 9.0, low, -3.0]]], dtype=dtype)
    found = best(scores, torch.tensor([[False, False, True, True]]), 3)
    assert found.indices.tolist() == [[[3, 2, 1]]]
    assert found.real.tolist() == [[[True, True, False]]]
    assert found.scores.tolist() == [[[-3.0, low, low]]]


def test_scores_found_have_gradient_and_padding_none():
    scores = torch.tensor([[[1.0, 5.0, 2.0]]], requires_grad=True)
    found = best(scores, torch.tensor([[True, False, True]]), 3)
    found.scores.sum().backward()
    assert scores.grad.tolist() == [[[1.0, 0.0, 1.0]]]


@pytest.mark.parametrize("k", [1, 4, 11, 20])
def test_exact_search_is_brute_force_over_dot_products_with_a_bias(k):
    assert isinstance(exact_search, Search)
    torch.manual_seed(0)
    query, keys, bias = torch.randn(2, 3, 5), torch.randn(2, 3, 11, 5), torch.randn(1, 3, 11)
    mask = torch.rand(3, 11) < 0.6
    found = exact_search(query, keys, mask, k, bias)
    for table in range(2):
        for row in range(3):
            scores = [float(query[table, row] @ key + b) for key, b in zip(keys[table, row], bias[0, row], strict=True)]
            assert found.indices[table, row].tolist() == brute(scores, mask[row], k)
    torch.testing.assert_close(
        exact_search(query, keys, mask, k).scores[..., 0].max(), dot_scores(query, keys)[mask.expand(2, -1, -1)].max()
    )


def test_the_newest_matches_come_first_then_the_newest_others_then_padding():
    matches = torch.tensor([[True, True, False, True, False], [True, True, True, True, True]])
    mask = torch.tensor([[False, True, True, True, True], [False, False, False, False, False]])
    assert newest(matches, mask, 5).tolist() == [[3, 1, 4, 2, 0], [4, 3, 2, 1, 0]]
    assert newest(matches, mask, 9).shape == (2, 5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_scores_are_finite_in_every_type(dtype):
    found = masked(torch.tensor([1.0, 2.0], dtype=dtype), torch.tensor([True, False]))
    assert found.dtype == dtype
    assert torch.isfinite(found).all()


def test_columns_are_taken_from_each_row():
    values = torch.arange(24).view(2, 4, 3)
    indices = torch.tensor([[3, 0], [1, 1]])
    assert torch.equal(take(values, indices), torch.stack([values[0, [3, 0]], values[1, [1, 1]]]))
    assert torch.equal(take(values[..., 0], indices), torch.stack([values[0, [3, 0], 0], values[1, [1, 1], 0]]))


def test_a_search_for_nothing_is_refused():
    with pytest.raises(ValueError, match="^k must be at least 1, got 0$"):
        best(torch.zeros(1, 1, 2), torch.ones(1, 2, dtype=torch.bool), 0)
    with pytest.raises(ValueError, match="^k must be at least 1, got -1$"):
        newest(torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool), -1)
