"""Bayesian logistic regression: the optimum, its covariance, online learning near it, calibrated beliefs."""

import numpy as np
import pytest
import torch

from llm_rec.errors import ArtifactError, DataError
from llm_rec.exploration.logistic import BayesianLogistic, fit_logistic
from llm_rec.exploration.posterior import PosteriorConfig

CONFIG = PosteriorConfig(prior_precision=1.5)


def world(rows, dim=4, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    truth = scale * torch.randn(dim, generator=generator, dtype=torch.float64)
    return features, torch.bernoulli(torch.sigmoid(features @ truth), generator=generator), truth


def test_the_gradient_is_zero_at_the_mean_and_the_precision_is_the_hessian():
    features, labels, _ = world(300)
    weights = torch.rand(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    centre = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
    found = fit_logistic(features, labels, CONFIG, prior_mean=centre, weights=weights)

    def objective(mean):
        logits = features @ mean
        fit = weights * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return fit.sum() + 0.75 * (mean - centre).square().sum()

    mean = found.mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(mean), mean)
    torch.testing.assert_close(gradient, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-4)
    hessian = torch.autograd.functional.hessian(objective, found.mean)
    torch.testing.assert_close(found.posterior.precision, hessian)


def test_perfectly_separated_rows_converge_under_the_prior_and_far_starts_too():
    features = torch.tensor([[1.0, 5.0], [1.0, -5.0]] * 50)
    labels = torch.tensor([1.0, 0.0] * 50)
    found = fit_logistic(features, labels, PosteriorConfig(prior_precision=1e-3))
    assert found.mean.isfinite().all()
    assert found.mean[1] > 1
    far = fit_logistic(features, labels, PosteriorConfig(prior_precision=1e-3), prior_mean=torch.tensor([0.0, -9.0]))
    assert far.mean[1] > 1


def test_rare_clicks_keep_their_rate_when_the_intercept_is_centred_on_it():
    labels = torch.zeros(4000)
    labels[:8] = 1
    ones, strong = torch.ones(4000, 1), PosteriorConfig(prior_precision=10.0)
    rate = float(np.log(8 / 3992))
    centred = fit_logistic(ones, labels, strong, prior_mean=torch.tensor([rate]))
    assert torch.sigmoid(centred.mean).item() == pytest.approx(0.002, rel=1e-3)
    assert torch.sigmoid(fit_logistic(ones, labels, strong).mean).item() > 0.004


def test_learning_row_by_row_comes_near_to_the_fit_of_all_rows():
    features, labels, _ = world(2000, seed=5, scale=0.5)
    whole = fit_logistic(features, labels, CONFIG)
    online = fit_logistic(features[:0], labels[:0], CONFIG)
    assert torch.equal(online.mean, torch.zeros(4, dtype=torch.float64))
    for start in range(0, 2000, 10):
        online.observe(features[start : start + 10], labels[start : start + 10])
    spread = whole.posterior.variance(torch.eye(4)).sqrt()
    assert ((online.mean - whole.mean).abs() < spread).all()
    ratio = online.posterior.variance(features) / whole.posterior.variance(features)
    assert 0.85 < ratio.min() < ratio.max() < 1.15


def test_the_truth_lies_within_two_deviations_as_often_as_it_should():
    """Weights drawn from the prior itself: what a Bayesian interval promises."""
    config, inside = PosteriorConfig(prior_precision=1.0), []
    for seed in range(40):
        features, labels, truth = world(150, seed=seed)
        beliefs = fit_logistic(features, labels, config).beliefs(features[:20])
        inside += ((features[:20] @ truth - beliefs.mean).abs() < 1.96 * beliefs.std).tolist()
    assert 0.91 < np.mean(inside) < 0.98  # 0.95 of 800 dependent ones


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    features, labels, _ = world(50)
    fitted = fit_logistic(features, labels, CONFIG)
    fitted.save(tmp_path / "b")
    found = BayesianLogistic.load(tmp_path / "b")
    for one, other in zip(found.beliefs(features), fitted.beliefs(features), strict=True):
        assert torch.equal(one, other)
    (tmp_path / "b" / "logistic.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ArtifactError, match="not a saved regression"):
        BayesianLogistic.load(tmp_path / "b")


def test_labels_outside_0_to_1_are_refused():
    with pytest.raises(DataError, match=r"labels must lie in 0..1, got 0.0 to 2.0"):
        fit_logistic(torch.ones(2, 1), torch.tensor([0.0, 2.0]), CONFIG)
