"""Closed-form gradients against automatic differentiation, and the size of what negatives receive."""

import numpy as np
import pytest
import torch

from ctr_models.losses import (
    BCEConfig,
    JRCConfig,
    ListwiseConfig,
    PairwiseConfig,
    RegressionCompatibleConfig,
    ShiftedFocalConfig,
    click_loss,
    logit_gradients,
    negative_gradient_stats,
    num_outputs,
)
from tests.ctr_models.losses.test_click_losses import CONFIGS, world


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_closed_forms_equal_automatic_differentiation(config, grouped):
    for seed, rows in ((0, 60), (1, 1), (2, 5)):
        logits, labels, groups = world(rows, num_outputs(config), seed)
        groups = groups if grouped else None
        automatic = torch.autograd.grad(click_loss(config, logits, labels, groups).total, logits)[0]
        assert (logit_gradients(logits, labels, config, groups) - automatic).abs().max().item() < 5e-10


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_closed_forms_hold_for_a_batch_of_one_class(config, label):
    logits, labels, _ = world(4, num_outputs(config))
    labels = torch.full_like(labels, label)
    automatic = torch.autograd.grad(click_loss(config, logits, labels).total, logits)[0]
    assert (logit_gradients(logits, labels, config) - automatic).abs().max().item() < 5e-10
    assert torch.isfinite(torch.stack(negative_gradient_stats(logits, labels, config))).all()


def gaussian_logits(rows=4096 * 2, seed=0):
    """Positives around -2, negatives around -4.2, deviation 1.2: a model of sparse clicks (rate 0.256 of rows)."""
    rng = np.random.default_rng(seed)
    labels = rng.random(rows) < 0.25623
    logits = np.where(labels, -2.0, -4.2) + 1.2 * rng.standard_normal(rows)
    return torch.from_numpy(logits).view(2, 4096, 1), torch.from_numpy(labels).double().view(2, 4096)


def test_negatives_receive_the_published_magnitudes():
    """Golden numbers of the note for arXiv 2403.14144: batches of 4096; recomputed here by numpy from the formulas."""
    logits, labels = gaussian_logits()
    expected = {"bce": [], "pair": []}
    for s, y in zip(logits[:, :, 0].numpy(), labels.numpy(), strict=True):
        high, low = s[y == 1], s[y == 0]
        expected["bce"].append((1 / (1 + np.exp(-low))).mean() / 4096)
        expected["pair"].append((1 / (1 + np.exp(high[:, None] - low))).mean() / len(low))

    def measured(config):
        rows = zip(logits, labels, strict=True)
        return np.mean([negative_gradient_stats(s, y, config).mean.item() for s, y in rows])

    bce, pair = measured(BCEConfig(pos_weight=0.1)), measured(PairwiseConfig(alpha=0.0))
    assert bce == pytest.approx(np.mean(expected["bce"]), rel=1e-9)
    assert pair == pytest.approx(np.mean(expected["pair"]), rel=1e-9)
    assert bce == pytest.approx(6.9e-6, rel=0.03)
    assert pair == pytest.approx(5.7e-5, rel=0.06)
    assert measured(PairwiseConfig(alpha=0.5, pos_weight=0.1)) == pytest.approx(3.2e-5, rel=0.06)
    for config in (ListwiseConfig(pos_weight=0.1), RegressionCompatibleConfig(pos_weight=0.1)):
        assert measured(config) > 3 * bce


def test_the_first_step_of_bce_sends_one_half_over_the_batch():
    labels = (torch.arange(4096) % 4 == 0).float()
    stats = negative_gradient_stats(torch.zeros(4096, 1), labels, BCEConfig())
    assert stats.mean.item() == pytest.approx(0.5 / 4096)  # 1.22e-4; a run of the authors logs 1.24e-4
    assert stats.p10.item() == stats.p90.item() == pytest.approx(1.2207e-4, rel=1e-4)


def test_pairs_send_more_than_bce_exactly_where_the_positive_is_below_one_half():
    low = torch.tensor([-1.0], dtype=torch.float64)
    for high, more in ((-0.1, True), (0.1, False)):
        pair = torch.sigmoid(low - high)
        assert (pair > torch.sigmoid(low)).item() is more


def test_percentiles_are_those_of_negatives_alone():
    logits = torch.linspace(-3, 3, 22, dtype=torch.float64).unsqueeze(1)
    labels = (torch.arange(22) % 2 == 0).double()
    stats = negative_gradient_stats(logits, labels, ShiftedFocalConfig(gamma=1.0))
    size = logit_gradients(logits, labels, ShiftedFocalConfig(gamma=1.0))[:, 0].abs()
    expected = size[labels == 0].quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    torch.testing.assert_close(torch.stack([stats.p10, stats.p50, stats.p90]), expected)
    assert stats.mean.item() == pytest.approx(size[labels == 0].mean().item())
    assert stats.positive_mean.item() == pytest.approx(size[labels == 1].mean().item())


def test_missing_classes_have_statistics_of_zero():
    ones = negative_gradient_stats(torch.zeros(3, 2), torch.ones(3), JRCConfig())
    assert [value.item() for value in ones[:4]] == [0.0] * 4
    assert negative_gradient_stats(torch.zeros(3, 2), torch.zeros(3), JRCConfig()).positive_mean.item() == 0.0
