"""The posterior of a last layer against dense algebra: factors, variances, forgetting, and what comes from disk."""

import numpy as np
import pytest
import torch

from llm_rec.artifacts import write_json
from llm_rec.errors import ArtifactError, ConfigError, DataError
from llm_rec.exploration.posterior import LastLayerPosterior, PosteriorConfig, raised_factor

CONFIG = PosteriorConfig(prior_precision=0.7)


def rows(number, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, dim, generator=generator, dtype=torch.float64), torch.rand(
        number, generator=generator, dtype=torch.float64
    )


def precision(features, probabilities, weights=None, prior=0.7):
    """A of the spec, row by row."""
    total = prior * np.eye(features.shape[1])
    for i in range(len(features)):
        phi, p = features[i].numpy(), float(probabilities[i])
        total += p * (1 - p) * (1.0 if weights is None else float(weights[i])) * np.outer(phi, phi)
    return total


def test_variance_is_that_of_the_dense_solve():
    features, chances = rows(40)
    posterior = LastLayerPosterior(CONFIG, 5)
    posterior.update(features, chances)
    dense = precision(features, chances)
    torch.testing.assert_close(posterior.precision, torch.from_numpy(dense))
    fresh, _ = rows(7, seed=1)
    expected = [phi @ np.linalg.solve(dense, phi) for phi in fresh.numpy()]
    assert posterior.variance(fresh).tolist() == pytest.approx(expected)
    torch.testing.assert_close(posterior.variance(fresh.view(7, 1, 5))[:, 0], posterior.variance(fresh))
    assert posterior.solve(fresh[0]).numpy() == pytest.approx(np.linalg.solve(dense, fresh[0].numpy()))


def test_no_rows_leave_the_prior():
    posterior = LastLayerPosterior(CONFIG, 3)
    assert posterior.variance(torch.eye(3)).tolist() == pytest.approx([1 / 0.7] * 3)


@pytest.mark.parametrize("dim", [1, 2, 6, 40])
def test_a_rank_one_update_is_the_factor_of_the_raised_matrix(dim):
    features, chances = rows(60, dim)
    start = torch.linalg.cholesky(torch.from_numpy(precision(features, chances)))
    vector = features[0] * 3
    found = raised_factor(start, vector)
    torch.testing.assert_close(found, torch.linalg.cholesky(start @ start.T + torch.outer(vector, vector)))
    assert torch.equal(found, found.tril())
    torch.testing.assert_close(raised_factor(start, torch.zeros_like(vector)), start)


def test_rows_one_by_one_in_blocks_and_all_at_once_are_one_posterior():
    features, chances = rows(200, 8)
    weights = torch.rand(200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whole, single, blocks = (LastLayerPosterior(CONFIG, 8) for _ in range(3))
    whole.update(features, chances, weights)
    for i in range(200):
        single.update(features[i : i + 1], chances[i : i + 1], weights[i : i + 1])
    for start in range(0, 200, 7):
        part = slice(start, start + 7)
        blocks.update(features[part], chances[part], weights[part])
    expected = torch.from_numpy(precision(features, chances, weights))
    for posterior in (whole, single, blocks):
        torch.testing.assert_close(posterior.precision, expected, rtol=1e-12, atol=1e-12)


def test_more_rows_never_make_a_logit_less_sure():
    features, chances = rows(50)
    fresh, _ = rows(20, seed=2)
    posterior = LastLayerPosterior(CONFIG, 5)
    before = posterior.variance(fresh)
    for i in range(50):
        posterior.update(features[i : i + 1], chances[i : i + 1])
        after = posterior.variance(fresh)
        assert (after <= before + 1e-12).all()
        before = after


def test_decay_fades_what_rows_said_and_not_the_prior():
    features, chances = rows(3)
    posterior = LastLayerPosterior(PosteriorConfig(prior_precision=0.7, decay=0.5), 5)
    expected = 0.7 * np.eye(5)
    for i in range(3):
        posterior.update(features[i : i + 1], chances[i : i + 1])
        one = precision(features[i : i + 1], chances[i : i + 1]) - 0.7 * np.eye(5)
        expected = 0.5 * (expected - 0.7 * np.eye(5)) + one + 0.7 * np.eye(5)
    torch.testing.assert_close(posterior.precision, torch.from_numpy(expected))
    for _ in range(80):
        posterior.update(torch.zeros(1, 5), torch.full((1,), 0.5))
    assert posterior.variance(features).tolist() == pytest.approx((features.square().sum(1) / 0.7).tolist())


def test_inner_products_of_roots_are_covariances():
    features, chances = rows(30)
    posterior = LastLayerPosterior(CONFIG, 5)
    posterior.update(features, chances)
    beliefs = posterior.beliefs(torch.zeros(30), features)
    expected = features @ torch.linalg.inv(torch.from_numpy(precision(features, chances))) @ features.T
    torch.testing.assert_close(beliefs.root @ beliefs.root.T, expected)
    torch.testing.assert_close(beliefs.std.square(), expected.diagonal())


def test_what_is_saved_comes_back_bit_for_bit_and_knows_what_it_was_made_from(tmp_path):
    features, chances = rows(30)
    posterior = LastLayerPosterior(PosteriorConfig(prior_precision=2.0, decay=0.9), 5)
    posterior.update(features, chances)
    posterior.save(tmp_path / "p", {"model": "abc"})
    found = LastLayerPosterior.load(tmp_path / "p", {"model": "abc"})
    assert torch.equal(found.factor, posterior.factor)
    assert found.config == posterior.config
    with pytest.raises(ArtifactError, match="was made from model abc, but the model given here is xyz"):
        LastLayerPosterior.load(tmp_path / "p", {"model": "xyz"})
    with pytest.raises(ArtifactError, match="already exists"):
        posterior.save(tmp_path / "p")
    write_json(tmp_path / "p" / "posterior.json", {"prior_precision": -1.0})
    with pytest.raises(ArtifactError, match="not a saved posterior \\(prior_precision must be finite and above 0"):
        LastLayerPosterior.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prior_precision": 0.0}, "prior_precision must be finite and above 0, got 0.0"),
        ({"decay": 0.0}, "decay must lie in (0, 1], got 0.0"),
        ({"decay": 1.5}, "decay must lie in (0, 1], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        PosteriorConfig(**settings)
    assert str(error.value) == message


def test_rows_that_say_nothing_are_refused_and_change_nothing():
    posterior = LastLayerPosterior(CONFIG, 2)
    before = posterior.factor.clone()
    for features, chances, weights, message in (
        (torch.ones(1, 3), [0.5], None, "rows have 3 features, but the posterior has 2"),
        (torch.full((1, 2), torch.nan), [0.5], None, "a feature is not finite"),
        (torch.ones(1, 2), [1.5], None, "probabilities must lie in 0..1"),
        (torch.ones(1, 2), [torch.nan], None, "probabilities must lie in 0..1"),
        (torch.ones(1, 2), [0.5], torch.tensor([-1.0]), "weights must be finite and not negative"),
    ):
        with pytest.raises(DataError, match=message):
            posterior.update(features, torch.tensor(chances), weights)
    assert torch.equal(posterior.factor, before)
    with pytest.raises(ConfigError, match="a posterior needs at least 1 feature, got 0"):
        LastLayerPosterior(CONFIG, 0)
