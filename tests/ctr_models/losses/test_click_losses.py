"""Every loss against loops in double precision: values and gradients, with and without groups, and at the edges."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models import losses
from ctr_models.losses import (
    BCEConfig,
    ClickLossConfig,
    CrossEntropyConfig,
    JRCConfig,
    ListwiseConfig,
    PairwiseConfig,
    RegressionCompatibleConfig,
    ShiftedFocalConfig,
    click_loss,
)
from llm_rec.codec import from_plain, to_plain
from tests.ctr_models.losses import naive

CONFIGS = [
    BCEConfig(pos_weight=0.3),
    CrossEntropyConfig(pos_weight=0.3),
    ShiftedFocalConfig(gamma=2.5, pos_weight=0.3),
    PairwiseConfig(alpha=0.7, pos_weight=0.3, temperature=1.7),
    PairwiseConfig(alpha=0.7, pos_weight=0.3, pair_reduction="groups", tile=3),
    ListwiseConfig(alpha=0.7, pos_weight=0.3),
    RegressionCompatibleConfig(alpha=0.7, pos_weight=0.3),
    JRCConfig(alpha=0.7, pos_weight=0.3),
]
RANKING = CONFIGS[3:]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossHolder:
    loss: ClickLossConfig


def world(rows=23, outputs=1, seed=0, lists=5):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, outputs, dtype=torch.float64, generator=generator) * 2).requires_grad_()
    labels = (torch.rand(rows, generator=generator) < 0.4).double()
    return logits, labels, torch.randint(lists, (rows,), generator=generator) * 1000 - 7


def reference(config, z, y, groups):
    score = z[:, -1] - z[:, 0] if z.shape[1] == 2 else z[:, 0]
    pointwise = naive.bce(score, y, config.pos_weight)
    match config:
        case BCEConfig() | CrossEntropyConfig():
            return pointwise
        case ShiftedFocalConfig():
            return naive.focal(score, y, config.gamma, config.pos_weight)
        case PairwiseConfig():
            ranking = naive.pairwise(score / config.temperature, y, groups, config.pair_reduction)
        case ListwiseConfig():
            ranking = naive.listwise(score, y, groups, config.pos_weight)
        case RegressionCompatibleConfig():
            ranking = naive.listwise(score, y, groups, config.pos_weight, torch.sigmoid)
        case JRCConfig():
            ranking = naive.jrc(z, y, groups, config.pos_weight)
    return config.alpha * pointwise + (1 - config.alpha) * ranking


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_loss_and_gradient_equal_a_loop(config, grouped):
    logits, labels, groups = world(outputs=losses.num_outputs(config))
    groups = groups if grouped else None
    ours, loop = click_loss(config, logits, labels, groups).total, reference(config, logits, labels, groups)
    assert ours.item() == pytest.approx(loop.item(), abs=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, loop)), rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(1, 12), lists=st.integers(1, 6), which=st.integers(0, 6))
def test_any_small_batch_equals_the_loop(seed, rows, lists, which):
    config = CONFIGS[which]
    logits, labels, groups = world(rows, losses.num_outputs(config), seed, lists)
    ours, loop = click_loss(config, logits, labels, groups).total, reference(config, logits, labels, groups)
    assert ours.item() == pytest.approx(loop.item(), abs=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, loop)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", RANKING, ids=repr)
def test_without_groups_the_batch_is_one_group(config):
    logits, labels, _ = world(outputs=losses.num_outputs(config))
    one = torch.full((len(labels),), 5)
    assert click_loss(config, logits, labels).total.item() == pytest.approx(
        click_loss(config, logits, labels, one).total.item(), abs=1e-14
    )


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("config", RANKING, ids=repr)
def test_a_batch_of_one_class_has_ranking_exactly_zero_and_stays_connected(config, grouped, rows, label):
    logits = torch.randn(rows, losses.num_outputs(config), requires_grad=True)
    parts = click_loss(config, logits, torch.full((rows,), label), torch.arange(rows) if grouped else None)
    assert parts.ranking.item() == 0.0
    assert torch.equal(torch.autograd.grad(parts.ranking, logits, retain_graph=True)[0], torch.zeros_like(logits))
    assert torch.isfinite(torch.autograd.grad(parts.total, logits)[0]).all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_focal_loss_of_one_class_is_finite(label):
    logits = torch.randn(3, requires_grad=True)
    loss = losses.shifted_focal(logits, torch.full((3,), label), gamma=2.0)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, logits)[0]).all()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_an_empty_batch_costs_nothing(config):
    logits = torch.zeros(0, losses.num_outputs(config), requires_grad=True)
    for groups in (None, torch.zeros(0, dtype=torch.int64)):
        assert click_loss(config, logits, torch.zeros(0), groups).total.item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_logits_of_200_do_not_overflow(config, dtype):
    signs = torch.tensor([1, -1, 1, -1, 1.0]).unsqueeze(1)
    columns = torch.tensor([-1.0, 1.0]) if losses.num_outputs(config) == 2 else torch.ones(1)
    logits = (200 * signs * columns).to(dtype).requires_grad_()
    labels = torch.tensor([0, 1, 1, 0, 0.0])
    for groups in (None, torch.tensor([1, 1, 2, 2, 2])):
        parts = click_loss(config, logits, labels, groups)
        gradient = torch.autograd.grad(parts.total, logits)[0]
        assert parts.total.dtype == torch.float32
        assert torch.isfinite(torch.stack(parts)).all()
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("config", RANKING, ids=repr)
def test_alpha_one_is_bce_exactly_and_alpha_zero_has_none_of_it(config):
    logits, labels, groups = world(outputs=losses.num_outputs(config))
    score = logits[:, -1] - logits[:, 0] if isinstance(config, JRCConfig) else logits[:, 0]
    only_bce = click_loss(type(config)(alpha=1.0, pos_weight=0.3), logits, labels, groups)
    assert torch.equal(only_bce.total, losses.weighted_bce(score, labels, pos_weight=0.3))
    only_ranking = click_loss(type(config)(alpha=0.0, pos_weight=0.3), logits, labels, groups)
    both = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (only_ranking[0], only_ranking[2])]
    assert torch.equal(*both)


def test_the_pair_term_ignores_pos_weight_and_the_others_hold_it_inside_the_logarithm():
    logits, labels, _ = world()
    pair = [click_loss(PairwiseConfig(pos_weight=w), logits, labels).ranking for w in (0.1, 1.0)]
    assert torch.equal(*pair)
    s, positive = logits[:, 0], labels == 1
    below = 0.1 * s[positive].exp().sum() + s[~positive].exp().sum()
    expected = (below.log() - s[positive]).mean()
    assert click_loss(ListwiseConfig(pos_weight=0.1), logits, labels).ranking.item() == pytest.approx(expected.item())


def test_soft_labels_of_bce_mix_the_two_hard_losses():
    logits = torch.tensor([0.3, -1.2], dtype=torch.float64)
    soft = losses.weighted_bce(logits, torch.full((2,), 0.25, dtype=torch.float64), pos_weight=0.5)
    hard = [losses.weighted_bce(logits, torch.full((2,), y, dtype=torch.float64), pos_weight=0.5) for y in (0.0, 1.0)]
    assert soft.item() == pytest.approx((0.75 * hard[0] + 0.25 * hard[1]).item())


def test_the_shifted_focal_loss_without_gamma_is_bce_and_keeps_the_mean_negative_weight_at_one():
    logits, labels, _ = world()
    flat = losses.shifted_focal(logits[:, 0], labels, gamma=0.0, pos_weight=0.3)
    assert flat.item() == pytest.approx(losses.weighted_bce(logits[:, 0], labels, pos_weight=0.3).item(), abs=1e-14)
    equal = torch.full((4,), 0.7, dtype=torch.float64)  # equal negatives: each weighs the mean, 1
    nothing = torch.zeros(4, dtype=torch.float64)
    assert losses.shifted_focal(equal, nothing, gamma=6.0).item() == pytest.approx(math.log1p(math.exp(0.7)), abs=1e-14)


def test_jrc_predicts_the_sigmoid_of_the_difference_and_with_alpha_one_is_cross_entropy():
    logits, labels, _ = world(outputs=2)
    torch.testing.assert_close(losses.probabilities(JRCConfig(), logits), logits.softmax(1)[:, 1])
    cross_entropy = torch.nn.functional.cross_entropy(logits, labels.long())
    assert click_loss(JRCConfig(alpha=1.0), logits, labels).total.item() == pytest.approx(cross_entropy.item())
    assert torch.equal(losses.probabilities(BCEConfig(), logits[:, :1]), logits[:, 0].sigmoid())


def test_effective_positive_rates_of_criteo():
    rates = [round(losses.effective_positive_rate(0.25623, w), 4) for w in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert rates == [0.0333, 0.0645, 0.1211, 0.1713, 0.2161, 0.2562]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_config_is_the_same_after_a_round_trip_through_json(config):
    plain = to_plain(LossHolder(loss=config))
    assert from_plain(LossHolder, json.loads(json.dumps(plain))) == LossHolder(loss=config)


def test_a_wrong_number_of_logits_is_an_error():
    with pytest.raises(ValueError, match="^JRCConfig needs 2 logits a row, got 1; build the model with num_outputs"):
        click_loss(JRCConfig(), torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ValueError, match="^BCEConfig needs 1 logits a row, got 2"):
        click_loss(BCEConfig(), torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BCEConfig(pos_weight=0.0), "pos_weight must be finite and above 0, got 0.0"),
        (lambda: JRCConfig(pos_weight=math.inf), "pos_weight must be finite and above 0, got inf"),
        (lambda: ListwiseConfig(alpha=1.5), "alpha must lie in 0..1, got 1.5"),
        (lambda: RegressionCompatibleConfig(alpha=-0.1), "alpha must lie in 0..1, got -0.1"),
        (lambda: ShiftedFocalConfig(gamma=-1.0), "gamma must be finite and not negative, got -1.0"),
        (lambda: PairwiseConfig(temperature=0.0), "temperature must be finite and above 0, got 0.0"),
        (lambda: PairwiseConfig(tile=0), "tile must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_errors(build, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_weights_of_rows_multiply_their_pointwise_terms_and_leave_ranking_alone(config):
    logits, labels, groups = world(rows=9, outputs=losses.num_outputs(config))
    weights = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) * 3

    def loss(given):
        return click_loss(config, logits, labels, groups, given)

    whole, found = loss(None), loss(weights)
    alone = torch.stack([loss(torch.eye(9, dtype=torch.float64)[row]).pointwise for row in range(9)])
    torch.testing.assert_close(loss(torch.ones(9, dtype=torch.float64)), whole, rtol=0, atol=1e-15)
    torch.testing.assert_close(alone.sum(), whole.pointwise)
    torch.testing.assert_close(found.pointwise, (alone * weights).sum())
    assert found.ranking == whole.ranking
    (mine,) = torch.autograd.grad(found.pointwise, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad((alone * weights).sum(), logits)
    torch.testing.assert_close(mine, theirs)
    if not isinstance(config, ShiftedFocalConfig):  # whose terms know of the other rows
        single = [click_loss(config, logits[row : row + 1], labels[row : row + 1]).pointwise for row in range(9)]
        torch.testing.assert_close(alone * 9, torch.stack(single))
