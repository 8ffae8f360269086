"""Ranking of events against sorting in Python: order, ties, padding, short histories."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.sequences.found import best_events, masked_softmax, nearest_events, newest_events, sortable, take_events

FLOATS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf")]), st.floats(width=32, allow_nan=False)
)


def ranked(scores, mask, top_k):
    """Columns of events by falling score, the newest first among equals."""
    columns = [column for column in range(len(scores)) if mask[column]]
    return sorted(columns, key=lambda column: (-scores[column], -column))[:top_k]


@settings(max_examples=60, deadline=None)
@given(row=st.lists(st.tuples(FLOATS, st.booleans()), min_size=1, max_size=12), top_k=st.integers(1, 14))
def test_the_best_are_those_of_a_full_sort_with_the_newest_first_among_equals(row, top_k):
    scores, mask = [score for score, _ in row], [real for _, real in row]
    found = best_events(torch.tensor([[scores]]), torch.tensor([mask]), top_k)
    expected = ranked(scores, mask, top_k)
    assert found.indices.shape[-1] == min(top_k, len(row))
    assert found.indices[0, 0, : len(expected)].tolist() == expected
    assert found.mask[0, 0].tolist() == [True] * len(expected) + [False] * (min(top_k, len(row)) - len(expected))


@settings(max_examples=60, deadline=None)
@given(row=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12), top_k=st.integers(1, 14))
def test_the_nearest_are_those_of_a_full_sort(row, top_k):
    distances, mask = [distance for distance, _ in row], [real for _, real in row]
    found = nearest_events(torch.tensor([[distances]], dtype=torch.int32), torch.tensor([mask]), top_k)
    expected = ranked([-distance for distance in distances], mask, top_k)
    assert found.indices[0, 0][found.mask[0, 0]].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(first=FLOATS, second=FLOATS)
def test_integers_keep_the_order_of_floats(first, second):
    low, high = sortable(torch.tensor([first, second])).tolist()
    assert (low < high) == (first < second)
    assert (low == high) == (first == second)


def test_newest_are_the_last_chosen_columns():
    found = newest_events(torch.tensor([[True, True, False, True], [False, True, False, False]]), 2)
    assert found.indices[0, 0].tolist() == [3, 1]
    assert found.indices[0, 1, 0] == 1
    assert found.mask.tolist() == [[[True, True], [True, False]]]


def test_every_table_has_its_own_order_and_may_have_its_own_mask():
    scores = torch.tensor([[[1.0, 3.0, 2.0]], [[3.0, 1.0, 2.0]]])
    own = torch.tensor([[[True, False, True]], [[True, True, True]]])
    assert best_events(scores, own, 2).indices.tolist() == [[[2, 0]], [[0, 2]]]


def test_rows_taken_are_those_at_the_columns_and_only_they_have_a_gradient():
    values = torch.arange(12.0).reshape(2, 1, 3, 2).requires_grad_()
    taken = take_events(values, torch.tensor([[[2, 0]], [[1, 1]]]))
    assert taken.tolist() == [[[[4, 5], [0, 1]]], [[[8, 9], [8, 9]]]]
    taken.sum().backward()
    assert values.grad[..., 0].tolist() == [[[1, 0, 1]], [[0, 2, 0]]]
    assert torch.equal(take_events(values, torch.tensor([[[2, 0]]]))[1], values[1][:, [2, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masked_softmax_is_softmax_of_what_is_real(dtype):
    scores = torch.tensor([[3.0, -60000.0, 5.0, 4.0], [1.0, 2.0, 3.0, 4.0]], dtype=dtype, requires_grad=True)
    mask = torch.tensor([[False, True, False, True], [False, False, False, False]])
    weights = masked_softmax(scores, mask)
    assert weights.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]
    assert weights.dtype == torch.promote_types(dtype, torch.float32)
    weights.sum().backward()
    assert torch.isfinite(scores.grad).all()
