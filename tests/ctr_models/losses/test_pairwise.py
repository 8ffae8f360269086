"""Tiled, listed and masked pairs give one loss and one gradient."""

import pytest
import torch

from ctr_models.losses import pairwise, pairwise_logistic
from tests.ctr_models.losses import naive


def batch(rows=400, lists=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, dtype=torch.float64, generator=generator).requires_grad_()
    labels = (torch.rand(rows, generator=generator) < 0.3).double()
    groups = None if lists is None else torch.randint(lists, (rows,), generator=generator)
    return logits, labels, groups


def cartesian(logits, labels):
    high, low = logits[labels == 1], logits[labels == 0]
    pairs = torch.cartesian_prod(torch.arange(len(high)), torch.arange(len(low)))
    return torch.nn.functional.softplus(low[pairs[:, 1]] - high[pairs[:, 0]], threshold=40).mean()


@pytest.mark.parametrize("tile", [None, 1, 7, 64, 256, 1000])
def test_tiles_of_any_size_equal_the_cartesian_product(tile):
    logits, labels, _ = batch()
    ours, full = pairwise_logistic(logits, labels, tile=tile), cartesian(logits, labels)
    assert ours.item() == pytest.approx(full.item(), abs=1e-13)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, full)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("reduction", ["pairs", "groups"])
def test_small_groups_list_their_pairs_and_large_ones_are_tiled(reduction):
    logits, labels, groups = batch(360)
    groups = torch.cat([torch.zeros(200), torch.arange(1, 161) // 8]).long()  # one group of about 60 * 140 pairs
    assert (labels[:200].sum() * (1 - labels[:200]).sum()).item() > pairwise._SMALL_GROUP
    shuffled = torch.randperm(360, generator=torch.Generator().manual_seed(0))
    labels, groups = labels[shuffled], groups[shuffled]
    ours = pairwise_logistic(logits, labels, groups, pair_reduction=reduction)
    loop = naive.pairwise(logits, labels, groups, reduction)
    assert ours.item() == pytest.approx(loop.item(), abs=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, loop)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("lists", [None, 1, 9, 300])
@pytest.mark.parametrize("reduction", ["pairs", "groups"])
def test_the_masked_form_of_accelerators_equals_the_selecting_form(lists, reduction):
    logits, labels, groups = batch(lists=lists)
    index = pairwise.lists_of(labels, groups)
    classes = pairwise.classes_of(labels, index)
    weights = pairwise._pair_weights(classes, reduction)
    for tile in (None, 33):
        masked = pairwise._masked(logits.detach(), classes, weights, None if groups is None else index.index, tile)
        chosen = pairwise.pair_terms(logits.detach(), labels, groups, reduction)
        torch.testing.assert_close(masked.loss, chosen.loss, rtol=0, atol=1e-13)
        torch.testing.assert_close(masked.gradient, chosen.gradient, rtol=0, atol=1e-14)


def test_mean_over_groups_differs_from_mean_over_pairs_when_groups_differ_in_size():
    logits, labels = torch.tensor([0.0, 1.0, 5.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    groups = torch.tensor([1, 1, 1, 1])
    assert pairwise_logistic(logits, labels, groups) == pairwise_logistic(
        logits, labels, groups, pair_reduction="groups"
    )
    groups, labels = torch.tensor([1, 1, 1, 2, 2]), torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    logits = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0])
    small, large = 0.6931472, 3.0485874  # softplus(0), softplus(3)
    assert pairwise_logistic(logits, labels, groups).item() == pytest.approx((2 * small + large) / 3)
    by_group = pairwise_logistic(logits, labels, groups, pair_reduction="groups")
    assert by_group.item() == pytest.approx((small + large) / 2)


def test_the_temperature_divides_logits():
    logits, labels, groups = batch(lists=5)
    scaled = pairwise_logistic(logits / 2, labels, groups)
    assert pairwise_logistic(logits, labels, groups, temperature=2.0).item() == pytest.approx(scaled.item())


def test_the_gradient_scales_with_what_comes_from_above():
    logits, labels, _ = batch(50)
    once = torch.autograd.grad(pairwise_logistic(logits, labels), logits)[0]
    thrice = torch.autograd.grad(3 * pairwise_logistic(logits, labels), logits)[0]
    torch.testing.assert_close(thrice, 3 * once)
    assert once[labels == 1].max() < 0 < once[labels == 0].min()
