"""Vectors read through a look-up equal the tables behind it."""

import numpy as np
import pytest
import torch
from torch import nn

from llm_rec.analysis.role_vectors import PartLayout, read_role_vectors
from llm_rec.analysis.target_attention import attention_scores

ITEMS, BRANDS, CATEGORIES, POSITIONS, TABLES = 7, 4, 5, 6, 2
DIMS = (4, 2, 3)  # item, brand, category


class Tables(nn.Module):
    """Item, brand, category, and the position beside them, added, or left out; padding is zero."""

    def __init__(self, combine):
        super().__init__()
        torch.manual_seed(0)
        self.combine = combine
        self.fields = nn.ParameterList(
            torch.randn(TABLES, size, dim) for size, dim in zip((ITEMS, BRANDS, CATEGORIES), DIMS, strict=True)
        )
        self.position = nn.Parameter(torch.randn(TABLES, POSITIONS + 1, sum(DIMS) if combine == "add" else 2))

    def forward(self, ids, positions):
        parts = [table[:, ids[..., field]] * ids[..., field, None].ne(0) for field, table in enumerate(self.fields)]
        vectors = torch.cat(parts, -1) * ids[..., :1].ne(0)
        places = self.position[:, positions].expand(-1, len(ids), -1, -1)
        if self.combine == "concat":
            vectors = torch.cat([vectors, places], -1)
        elif self.combine == "add":
            vectors = vectors + places
        return vectors[:, :, 0], vectors[:, :, 1:]


def layout(combine):
    widths = (*DIMS, 2) if combine == "concat" else DIMS
    return PartLayout(widths=widths, field=2, num_fields=3, combine=combine)


@pytest.mark.parametrize("table", [0, 1])
@pytest.mark.parametrize("combine", ["concat", "add", "none"])
def test_they_are_the_rows_of_the_tables(combine, table):
    model = Tables(combine)
    found = read_role_vectors(model, layout(combine), num_ids=CATEGORIES, num_positions=POSITIONS, table=table)
    expected = model.fields[2][table].detach().numpy().copy()
    expected[0] = 0
    assert np.allclose(found.category, expected, atol=1e-6)
    assert np.allclose(found.target_category, expected, atol=1e-6)
    width = {"concat": slice(0, 2), "add": slice(6, 9), "none": slice(0, 0)}[combine]
    positions = model.position[table, :, width].detach().numpy()
    assert np.allclose(found.position, positions)
    assert np.allclose(found.target_position, positions[0])


def test_maps_of_each_part_are_read_with_it():
    """Projections: what a candidate is mapped by differs from what an event is."""
    model = Tables("concat")
    maps = [torch.block_diag(*(torch.randn(dim, dim) for dim in (*DIMS, 2))) for _ in range(2)]

    def projected(ids, positions):
        target, events = model(ids, positions)
        return target @ maps[0], events @ maps[1]

    found = read_role_vectors(projected, layout("concat"), num_ids=CATEGORIES, num_positions=POSITIONS)
    history = np.array([[3, 1, 4]])
    ids = torch.tensor([[[1, 0, 2], [1, 0, 3], [1, 0, 1], [1, 0, 4]]])
    target, events = (part[0, 0].detach().double() for part in projected(ids, torch.tensor([[0, 3, 2, 1]])))
    semantic, time = slice(6, 9), slice(9, 11)
    expected = events[:, semantic] @ target[semantic] / 3**0.5 + events[:, time] @ target[time] / 2**0.5
    assert np.allclose(attention_scores(found, np.array([2]), history), expected.numpy(), atol=1e-5)


def test_the_category_must_be_a_field_of_the_history_with_a_part():
    for field, number, parts in ((0, 2, 3), (2, 2, 3), (1, 3, 2)):
        with pytest.raises(ValueError, match=f"after the item, and have a part: field {field} of {number}"):
            PartLayout(widths=(4,) * parts, field=field, num_fields=number, combine="concat")
