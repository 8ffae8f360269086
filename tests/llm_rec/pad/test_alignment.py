import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.codec import from_plain, to_plain
from llm_rec.pad.alignment import (
    CoralConfig,
    InfoNCEConfig,
    LinearMMDConfig,
    NoAlignmentConfig,
    alignment_loss,
    coral,
    first_occurrences,
    infonce,
    pick_masked,
    pick_rows,
)
from llm_rec.pad.mmd import MultiKernelMMDConfig, RandomFeatureMMDConfig

EVERY = [
    MultiKernelMMDConfig(),
    MultiKernelMMDConfig(kernel="laplacian"),
    RandomFeatureMMDConfig(),
    LinearMMDConfig(),
    LinearMMDConfig(cosine=True),
    InfoNCEConfig(),
    CoralConfig(),
    NoAlignmentConfig(),
]


def sides(rows=6, dim=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, dim, generator=generator), torch.randn(rows, dim, generator=generator) + 1


@pytest.mark.parametrize("config", EVERY, ids=lambda c: type(c).__name__)
def test_every_alignment_ignores_masked_rows_and_reaches_both_sides(config):
    texts, ids = (side.requires_grad_() for side in sides())
    mask = torch.tensor([True, True, False, True, True, False])
    torch.manual_seed(0)
    expected = alignment_loss(config, texts[mask], ids[mask])
    torch.manual_seed(0)
    value = alignment_loss(config, texts, ids, mask)
    torch.testing.assert_close(value, expected)
    if isinstance(config, NoAlignmentConfig):
        assert float(value) == 0.0
        return
    for gradient in torch.autograd.grad(value, (texts, ids)):
        assert float(gradient[~mask].abs().sum()) == 0.0
        assert bool((gradient[mask].abs().sum(1) > 0).all())


@pytest.mark.parametrize("config", EVERY[:-1], ids=lambda c: type(c).__name__)
def test_weight_scales_the_term(config):
    texts, ids = sides()
    values = []
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        scaled = from_plain(type(config), {**to_plain(config), "weight": weight})
        values.append(float(alignment_loss(scaled, texts, ids)))
    assert values[1] == pytest.approx(3 * values[0], rel=1e-5)


def test_infonce_equals_two_cross_entropies():
    texts, ids = sides()
    unit = [side / side.norm(dim=1, keepdim=True) for side in (texts, ids)]
    logits = unit[0] @ unit[1].T / 0.1
    own = torch.arange(6)
    expected = (torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(infonce(texts, ids, 0.1), expected)


def test_coral_equals_the_distance_of_covariances():
    texts, ids = sides()
    expected = (texts.T.cov() - ids.T.cov()).square().sum() / (4 * 16)
    torch.testing.assert_close(coral(texts, ids), expected)
    torch.testing.assert_close(coral(texts, texts + 7), torch.tensor(0.0), atol=1e-9, rtol=0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_first_occurrences_name_each_distinct_item_once(values):
    rows = torch.tensor(values)
    mask = first_occurrences(rows)
    distinct = rows.unique()
    assert rows[mask].sort().values.tolist() == distinct[distinct > 0].tolist()
    assert int(mask.sum()) == int((distinct > 0).sum())


@pytest.mark.parametrize("limit", [None, 3, 5, 50])
def test_picked_rows_are_distinct_and_within_the_limit(limit):
    rows = torch.tensor([3, 0, 3, 7, 1, 0, 7, 9, 2])
    positions, mask = pick_rows(rows, limit)
    picked = rows[positions[mask]]
    assert len(picked) == min(5, limit or 5)
    assert len(picked.unique()) == len(picked)
    assert 0 not in picked
    first = first_occurrences(rows)
    fixed, fixed_mask = pick_masked(first, limit)
    assert len(fixed) == min(9, limit or 9)  # known without the values
    assert int(fixed_mask.sum()) == min(5, limit or 5)
    assert set(rows[fixed[fixed_mask]].tolist()) <= {1, 2, 3, 7, 9}


def test_picked_rows_change_from_draw_to_draw():
    torch.manual_seed(0)
    first = first_occurrences(torch.arange(1, 101))
    draws = {tuple(pick_masked(first, 5)[0].sort().values.tolist()) for _ in range(5)}
    assert len(draws) > 1


def test_wrong_temperature_is_named():
    with pytest.raises(ValueError, match="temperature must be positive, got 0.0"):
        InfoNCEConfig(temperature=0.0)
