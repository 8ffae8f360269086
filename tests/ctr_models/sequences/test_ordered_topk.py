"""The k best of a row are those of a stable sort from its end, however the row is cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ctr_models.sequences.ordered_topk import MISSING, TopK, ordered_topk, running_topk


def by_sorting(scores: Tensor, k: int) -> list[list[tuple[float, int]]]:
    """One row at a time, in plain Python."""
    rows = []
    for row in scores.tolist():
        order = sorted((i for i, s in enumerate(row) if s != -torch.inf), key=lambda i: (-row[i], -i))[:k]
        rows.append([(row[i], i) for i in order] + [(-torch.inf, MISSING)] * (k - len(order)))
    return rows


def pairs(found: TopK) -> list[list[tuple[float, int]]]:
    both = zip(found.scores.tolist(), found.indices.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in both]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [1, 3, 200, 1003])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_it_is_a_stable_sort_with_many_equal_scores(dtype: torch.dtype, length: int, k: int) -> None:
    generator = torch.Generator().manual_seed(length + k)
    rows = 6 if length < 1000 else 70  # so many that blocks are looked at first
    scores = torch.randint(-4, 4, (rows, length), generator=generator).to(dtype) / 2
    scores[torch.rand(rows, length, generator=generator) < 0.3] = -torch.inf
    scores[0] = -torch.inf
    found = ordered_topk(scores, k)
    assert pairs(found) == by_sorting(scores, k)
    assert found.indices.shape == (rows, k)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([-torch.inf, -1e30, -2.0, -0.0, 0.0, 1e-40, 0.5, 0.75, 3e38]), min_size=1, max_size=90),
    st.integers(1, 12),
    st.integers(1, 30),
)
def test_tiles_give_what_the_whole_row_gives(values: list[float], k: int, tile: int) -> None:
    scores = torch.tensor([values, values[::-1]])
    whole = ordered_topk(scores, k)
    assert pairs(whole) == by_sorting(scores, k)
    parts = running_topk(scores.split(tile, 1), k)
    assert pairs(parts) == pairs(whole)


def test_screening_keeps_what_follows_the_last_whole_block() -> None:
    scores = torch.zeros(70, 1007)
    scores[:, 1004:] = torch.tensor([3.0, 1.0, 2.0])
    assert ordered_topk(scores, 4).indices.tolist() == [[1004, 1006, 1005, 1003]] * 70


def test_zero_is_zero_whatever_its_sign() -> None:
    assert ordered_topk(torch.tensor([[-0.0, 0.0, -0.0]]), 3).indices.tolist() == [[2, 1, 0]]


def test_wrong_calls_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="^k must be at least 1, got 0$"):
        ordered_topk(torch.zeros(1, 2), 0)
    with pytest.raises(ValueError, match="^there is no tile of scores; give at least one$"):
        running_topk([], 2)
