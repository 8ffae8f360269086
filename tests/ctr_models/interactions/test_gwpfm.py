"""GwPFM (arXiv 2403.00793) against the enumeration of pairs, and its ends: FFM with a group a field, FM with one."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from ctr_models.interactions import presets
from ctr_models.interactions.functions import InteractionFunction
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.model import CTRModel
from tests.ctr_models.interactions.worlds import HIDDEN, TinySource

TABLES, BATCH, DIM = 2, 6, 3
LAYOUTS = {"mixed": (0, 1, 0, 2, 1, 1, 0), "one_each": (0, 1, 2, 3), "one": (0, 0, 0, 0, 0), "swapped": (1, 0, 1)}


def gwpfm(groups: tuple[int, ...], *, ones: bool = False) -> InteractionFunction:
    config = FunctionConfig(kind="weighted", sharing="group", groups=groups, selector="group", triangular=True)
    function = InteractionFunction(config, TABLES, len(groups), len(groups), DIM * (max(groups) + 1)).double()
    if not ones:
        with torch.no_grad():
            function.weights.left.normal_()
    return function


def parts(groups: tuple[int, ...], slices: int) -> Tensor:
    """One vector a field with `slices` part vectors."""
    torch.manual_seed(1)
    return torch.randn(TABLES, BATCH, len(groups), slices * DIM, dtype=torch.float64, requires_grad=True)


def enumerated(e: Tensor, r: Tensor, groups: tuple[int, ...]) -> Tensor:
    """t = sum over i < j of r_(g(i),g(j)) v_i^(g(j)) * v_j^(g(i)), pair by pair."""
    v = e.reshape(*e.shape[:3], -1, DIM)
    total = torch.zeros(TABLES, BATCH, DIM, dtype=torch.float64)
    for t in range(TABLES):
        for i, j in combinations(range(len(groups)), 2):
            p, q = groups[i], groups[j]
            total[t] = total[t] + r[t, p, q] * v[t, :, i, q] * v[t, :, j, p]
    return total


@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_sums_by_group_equal_the_enumeration_of_pairs(groups) -> None:
    function = gwpfm(groups)
    e = parts(groups, max(groups) + 1)
    symmetric = (function.weights.left + function.weights.left.transpose(1, 2)) / 2
    found, expected = function.pair_sum(e), enumerated(e, symmetric, groups)
    assert found.shape == (TABLES, BATCH, DIM)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights, leaves = torch.randn_like(found), [e, function.weights.left]
    mine = torch.autograd.grad((found * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS)
def test_gradients_are_right(groups) -> None:
    function = gwpfm(groups)
    torch.autograd.gradcheck(function.pair_sum, (parts(groups, max(groups) + 1)[:, :2].detach().requires_grad_(),))


def test_with_a_group_for_each_field_and_weights_of_1_it_is_ffm_before_the_sum() -> None:
    groups = LAYOUTS["one_each"]
    fields = len(groups)
    ffm = FunctionConfig(triangular=True, selector="field")
    reference = InteractionFunction(ffm, TABLES, fields, fields, DIM * (fields - 1)).double()
    e = parts(groups, fields)
    others = [[b for b in range(fields) if b != a] for a in range(fields)]  # FFM has no vector for the field itself
    v = e.reshape(TABLES, BATCH, fields, fields, DIM)
    narrow = torch.stack([v[:, :, a, others[a]] for a in range(fields)], 2).flatten(3)
    found, expected = gwpfm(groups, ones=True).pair_sum(e), reference.pair_sum(narrow)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.shape[-1] == DIM


def test_with_one_group_and_weights_of_1_it_is_fm_before_the_sum() -> None:
    groups = LAYOUTS["one"]
    e = parts(groups, 1)
    expected = (e.sum(2).square() - e.square().sum(2)) / 2
    torch.testing.assert_close(gwpfm(groups, ones=True).pair_sum(e), expected, rtol=0, atol=1e-12)


def test_both_entries_of_a_pair_of_groups_train_whatever_the_order_of_fields() -> None:
    groups = LAYOUTS["mixed"]
    function = gwpfm(groups)
    function.pair_sum(parts(groups, 3)).sum().backward()
    gradient = function.weights.left.grad
    torch.testing.assert_close(gradient, gradient.transpose(1, 2))
    assert (gradient != 0).sum() == TABLES * 8  # group 2 has one field, and so no pair of its own


def test_the_preset_gives_its_mlp_a_vector_and_starts_with_weights_of_1() -> None:
    config = presets.gwpfm((0, 1, 0, 2), slice_dim=5, hidden=HIDDEN)
    model = CTRModel(config, TinySource(1, config.dim), linear=lambda batch: torch.zeros(len(batch), 1))
    (network,) = model.towers[0].interactions
    assert network.width == 5
    assert (network.stack.first.weights.left == 1).all()
