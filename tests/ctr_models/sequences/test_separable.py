"""Cached keys and one vector of positions give the score that vectors with their positions give."""

import math
from typing import get_args

import pytest
import torch

from ctr_models.sequences.separable import Scaling, by_column, position_bias, semantic_factor, separable_scores


@pytest.mark.parametrize("scaling", get_args(Scaling))
def test_it_is_the_product_of_whole_vectors(scaling: Scaling) -> None:
    generator = torch.Generator().manual_seed(0)
    dim, width, length = 12, 5, 30
    targets, events = torch.randn(4, dim, generator=generator), torch.randn(length, dim, generator=generator)
    positions = torch.randn(length + 3, width, generator=generator)
    factor = semantic_factor(dim, width, scaling)
    found = separable_scores(targets, events, position_bias(positions, dim, scaling), factor)
    for candidate in range(4):
        for column in range(length):
            semantic = float(targets[candidate].double() @ events[column].double())
            place = float(positions[0].double() @ positions[length - column].double())
            if scaling == "split":
                wanted = semantic / math.sqrt(dim) + place / math.sqrt(width)
            else:
                wanted = (semantic + place) / math.sqrt(dim + width)
            assert float(found[candidate, column]) == pytest.approx(wanted, abs=1e-6)


def test_the_scalings_differ_unless_the_widths_are_those_of_one_vector() -> None:
    assert semantic_factor(16, 0, "split") == semantic_factor(16, 0, "joint") == 0.25
    assert semantic_factor(9, 7, "joint") == 0.25 != semantic_factor(9, 7, "split")


def test_an_appended_event_moves_positions_and_no_key() -> None:
    bias = torch.tensor([0.3, 0.2, 0.1])
    assert by_column(bias, 2).tolist() == bias[[1, 0]].tolist()
    assert by_column(bias, 3).tolist() == bias[[2, 1, 0]].tolist()
    with pytest.raises(ValueError, match="^there are 4 events but 3 positions; keep the newest 3 events$"):
        by_column(bias, 4)
