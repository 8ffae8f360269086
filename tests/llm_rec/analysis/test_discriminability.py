"""Clusters of what reaches the head against labels."""

import math

import numpy as np
import pytest
import torch

from llm_rec.analysis.discriminability import cluster_information, normalised_information
from llm_rec.analysis.mutual_information import Cells


def blobs(rows=600, seed=0):
    """Four far blobs whose click rates are 0.9, 0.9, 0.1, 0.1."""
    generator = torch.Generator().manual_seed(seed)
    blob = torch.arange(rows) % 4
    centres = 10 * torch.eye(4, 6)
    features = centres[blob] + 0.1 * torch.randn(rows, 6, generator=generator)
    clicked = torch.rand(rows, generator=generator) < torch.tensor([0.9, 0.9, 0.1, 0.1])[blob]
    return features, clicked.numpy(), blob.numpy()


def test_clusters_that_are_the_blobs_say_what_the_blobs_say():
    features, clicked, blob = blobs()
    (found,) = cluster_information(features, clicked, clusters=(4,), num_seeds=3)
    table = np.zeros((4, 2))
    np.add.at(table, (blob, clicked.astype(int)), 1)
    shares = table / table.sum()
    margins = shares.sum(1), shares.sum(0)
    information = (shares * np.log(shares / np.outer(*margins))).sum()
    entropies = [-(part * np.log(part)).sum() for part in margins]
    assert found.information == pytest.approx(information)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert found.corrected == pytest.approx(information - 3 / (2 * 600))
    assert found.nmi == pytest.approx(2 * information / sum(entropies))


def test_more_clusters_keep_the_information_and_none_has_more_than_the_label():
    features, clicked, _ = blobs()
    found = cluster_information(features, clicked, clusters=(1, 4, 30), num_seeds=2)
    assert [record.clusters for record in found] == [1, 4, 30]
    assert found[0].information == found[0].nmi == 0
    assert found[1].information <= found[2].information <= math.log(2)
    assert found[2].corrected < found[2].information


def test_noise_has_none_after_the_correction():
    generator = torch.Generator().manual_seed(0)
    features, clicked = torch.randn(3000, 5, generator=generator), np.random.default_rng(0).random(3000) < 0.3
    (found,) = cluster_information(features, clicked, clusters=(10,))
    assert found.information > 0
    assert abs(found.corrected) < 2e-3


def test_rows_beyond_those_fitted_are_clustered_too_and_seeds_repeat():
    features, clicked, _ = blobs(4000)
    every = cluster_information(features, clicked, clusters=(4,), num_seeds=2)
    some = cluster_information(features, clicked, clusters=(4,), num_seeds=2, fit_rows=200)
    assert some[0].information == pytest.approx(every[0].information)
    assert cluster_information(features, clicked, clusters=(4,), num_seeds=2) == every
    assert cluster_information(features, clicked, clusters=(9,), num_seeds=1)[0].deviation == 0


def test_it_agrees_with_an_independent_library():
    peers = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 7, 500)
    labels = rng.random(500) < 0.1 + codes / 10
    expected = peers.normalized_mutual_info_score(labels, codes)
    assert normalised_information(Cells.of(codes, labels)) == pytest.approx(expected)
    assert normalised_information(Cells.of(np.zeros(4, dtype=np.int64), np.zeros(4, dtype=np.int64))) == 0


def test_refusals_name_the_value_and_the_repair():
    features, clicked, _ = blobs(40)
    for wrong in ((), (0, 2), (2, 41)):
        with pytest.raises(ValueError, match=r"clusters must lie in 1\.\.40, the rows to fit on, got \["):
            cluster_information(features, clicked, clusters=wrong)
    with pytest.raises(ValueError, match=r"clusters must lie in 1\.\.10, the rows to fit on, got \[20\]"):
        cluster_information(features, clicked, clusters=(20,), fit_rows=10)
    with pytest.raises(ValueError, match="num_seeds must be at least 1, got 0"):
        cluster_information(features, clicked, num_seeds=0)
    with pytest.raises(ValueError, match="40 rows are all of one label; take rows with and without clicks"):
        cluster_information(features, clicked | True, clusters=(2,))
    with pytest.raises(ValueError, match="features must be finite; the model gives NaN or infinite vectors"):
        cluster_information(features / 0, clicked, clusters=(2,))
