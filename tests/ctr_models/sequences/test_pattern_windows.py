import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.sequences.pattern_windows import (
    Anchors,
    all_windows,
    best_columns,
    gather_windows,
    id_windows,
    newest_columns,
    target_window,
)

EVENTS = torch.arange(1.0, 1 + 2 * 2 * 5 * 3).view(2, 2, 5, 3)  # 2 sets, 2 users, 5 columns
MASK = torch.tensor([[False, False, True, True, True], [True, True, True, True, True]])


def brute_force(scores: np.ndarray, mask: np.ndarray, top_k: int, radius: int) -> list[int]:
    """One row: candidates by score, the newest first, each kept unless a kept one is near."""
    kept: list[int] = []
    for column in sorted(np.flatnonzero(mask), key=lambda column: (-scores[column], -column)):
        if len(kept) < top_k and all(abs(column - other) > radius for other in kept):
            kept.append(int(column))
    return kept


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    length=st.integers(1, 12),
    top_k=st.integers(1, 6),
    radius=st.integers(0, 3),
    levels=st.integers(1, 6),
)
def test_best_columns_equal_brute_force_with_ties(seed: int, length: int, top_k: int, radius: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(levels, size=(2, 3, length)).astype(np.float32)
    mask = np.arange(length) >= random.integers(0, length + 1, size=(3, 1))
    anchors = best_columns(torch.from_numpy(scores), torch.from_numpy(mask), top_k, radius)
    for table in range(2):
        for row in range(3):
            found = anchors.columns[table, row][anchors.valid[table, row]].tolist()
            assert found == brute_force(scores[table, row], mask[row], top_k, radius)


def test_suppressed_anchors_lie_more_than_the_radius_apart() -> None:
    anchors = best_columns(torch.rand(1, 20, 50), torch.ones(20, 50, dtype=torch.bool), 8, radius=3)
    gaps = anchors.columns.sort(2).values.diff(dim=2)
    assert bool(anchors.valid.all())
    assert int(gaps.min()) > 3


def test_newest_columns_start_at_the_end() -> None:
    anchors = newest_columns(MASK, 4, 2)
    assert anchors.columns[1].tolist() == [[4, 3, 2, 1]] * 2
    assert anchors.valid[0].tolist() == [[True, True, True, False], [True] * 4]
    assert newest_columns(MASK, 9, 1).columns.shape == (1, 2, 5)


def test_windows_are_masked_at_the_left_edge_and_over_padding() -> None:
    anchors = Anchors(torch.tensor([2, 4]).expand(2, 2, 2), torch.ones(2, 2, 2, dtype=torch.bool))
    windows = gather_windows(EVENTS, MASK, anchors, 4)
    assert windows.mask[0].tolist() == [
        [[False, False, False, True], [False, True, True, True]],
        [[False, True, True, True], [True, True, True, True]],
    ]
    torch.testing.assert_close(windows.vectors[1, 1, 0], torch.cat([torch.zeros(1, 3), EVENTS[1, 1, :3]]))
    assert bool(windows.vectors[~windows.mask].eq(0).all())


def test_gathered_windows_equal_those_of_all_columns() -> None:
    every, columns = all_windows(EVENTS, MASK, 3), torch.tensor([[[4, 2], [0, 3]], [[3, 4], [1, 2]]])
    windows = gather_windows(EVENTS, MASK, Anchors(columns, torch.ones_like(columns, dtype=torch.bool)), 3)
    for table in range(2):
        for row in range(2):
            for place, column in enumerate(columns[table, row].tolist()):
                assert torch.equal(windows.vectors[table, row, place], every.vectors[table, row, column])
                assert torch.equal(windows.mask[table, row, place], every.mask[table, row, column])


def test_invalid_anchors_give_empty_windows() -> None:
    anchors = Anchors(torch.full((2, 2, 1), 4), torch.zeros(2, 2, 1, dtype=torch.bool))
    windows = gather_windows(EVENTS, MASK, anchors, 3)
    assert not windows.mask.any()
    assert not windows.vectors.any()


def test_id_windows_share_memory_with_the_padded_ids() -> None:
    windows = id_windows(torch.arange(1, 9).view(1, 4, 2), 3)
    assert windows[0, :, :, 0].tolist() == [[0, 0, 1], [0, 1, 3], [1, 3, 5], [3, 5, 7]]
    assert windows.untyped_storage().nbytes() == 6 * 2 * 8  # of 4 + 2 columns, not of 4 * 3 slots


@pytest.mark.parametrize("slots", [1, 2, 4, 8])
def test_the_target_takes_the_slot_of_the_anchor(slots: int) -> None:
    target = torch.randn(2, 2, 3)
    window = target_window(target, EVENTS, MASK, slots)
    assert window.vectors.shape == (2, 2, 1, slots, 3)
    assert torch.equal(window.vectors[:, :, 0, -1], target)
    assert bool(window.mask[:, :, :, -1].all())
    assert window.mask[0, :, 0].sum(1).tolist() == [min(slots, 4), min(slots, 6)]
    if slots > 1:
        assert torch.equal(window.vectors[:, :, 0, -2], EVENTS[:, :, -1])


def test_gradient_of_a_window_goes_to_its_events() -> None:
    events = EVENTS.double().requires_grad_()
    anchors = Anchors(torch.full((2, 2, 1), 3), torch.ones(2, 2, 1, dtype=torch.bool))
    gather_windows(events, MASK, anchors, 2).vectors.sum().backward()
    expected = torch.zeros(2, 2, 5, 3, dtype=torch.float64)
    expected[:, :, 2:4] = 1
    assert events.grad is not None
    assert torch.equal(events.grad, expected)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        best_columns(torch.zeros(1, 2, 5), MASK, 0)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        best_columns(torch.zeros(1, 2, 5), MASK, 1, radius=-1)
