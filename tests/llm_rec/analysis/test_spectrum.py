"""Spectra against a full SVD and closed forms."""

import numpy as np
import pytest
import torch

from llm_rec.analysis.spectrum import (
    effective_rank,
    information_abundance,
    mean_cosine,
    participation_ratio,
    principal_plane,
    singular_values,
    spectrum,
)


def vectors(items: int = 200, dim: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scales = torch.linspace(3.0, 0.1, dim)
    return torch.randn(items, dim, generator=generator) * scales + 0.7


def test_singular_values_equal_a_full_decomposition():
    matrix = vectors().double()
    np.testing.assert_allclose(singular_values(matrix), np.linalg.svd(matrix.numpy(), compute_uv=False), rtol=1e-9)


def test_an_isotropic_spectrum_counts_every_dimension_and_a_line_counts_one():
    flat, line = np.ones(8), np.array([4.0, 0.0, 0.0])
    for measure in (information_abundance, effective_rank, participation_ratio):
        assert measure(flat) == pytest.approx(8.0)
        assert measure(line) == pytest.approx(1.0)
        assert measure(np.zeros(3)) == 0.0


def test_a_shared_mean_collapses_the_uncentred_spectrum_only():
    shifted = vectors() + 100.0
    assert spectrum(shifted, centre=False).effective_rank < 2
    assert spectrum(shifted).effective_rank == pytest.approx(spectrum(vectors()).effective_rank, rel=1e-4)
    assert spectrum(shifted).mean_cosine > 0.99


def test_the_sampled_mean_cosine_is_close_to_that_of_all_pairs():
    matrix = vectors(80)
    unit = torch.nn.functional.normalize(matrix.double(), dim=1)
    exact = (unit @ unit.T).fill_diagonal_(0).sum() / (80 * 79)
    assert mean_cosine(matrix, pairs=200_000) == pytest.approx(float(exact), abs=5e-3)
    assert mean_cosine(torch.zeros(3, 2)) == 0.0


def test_variance_shares_belong_to_the_coordinates():
    matrix = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.0, -2.0]])
    np.testing.assert_allclose(spectrum(matrix).variance_share, [0.2, 0.0, 0.8])


def test_the_principal_plane_keeps_the_two_largest_variances():
    matrix = vectors()
    points = principal_plane(matrix)
    expected = singular_values((matrix - matrix.mean(0)).double())[:2]
    np.testing.assert_allclose(np.sqrt((points**2).sum(axis=0)), expected, rtol=1e-5)
    np.testing.assert_allclose(principal_plane(matrix), points)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("bad", [torch.ones(1, 3), torch.tensor([[1.0], [torch.nan]])])
def test_too_few_or_broken_vectors_are_an_error(bad):
    with pytest.raises(ValueError, match=f"a spectrum needs at least 2 finite vectors, got {len(bad)}"):
        spectrum(bad)
