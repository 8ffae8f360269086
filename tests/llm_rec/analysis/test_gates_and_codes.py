"""Gate weights by bucket and code usage against loops."""

import numpy as np
import pytest

from llm_rec.analysis.codes import code_usage, perplexity
from llm_rec.analysis.gates import gate_by_bucket


def test_gate_means_equal_a_loop_and_empty_buckets_are_nan():
    rng = np.random.default_rng(0)
    weights, buckets = rng.random((50, 3)), rng.integers(1, 5, 50)
    means = gate_by_bucket(weights, buckets, 5)
    for bucket in range(1, 5):
        np.testing.assert_allclose(means[bucket - 1], weights[buckets == bucket].mean(axis=0))
    assert np.isnan(means[4]).all()


def test_a_bucket_out_of_range_is_an_error():
    with pytest.raises(ValueError, match=r"buckets must lie in 1\.\.2, got values from 0 to 3"):
        gate_by_bucket(np.ones((2, 1)), np.array([0, 3]), 2)


def test_usage_counts_every_item_once_per_book():
    codes = np.random.default_rng(0).integers(0, 7, (90, 3))
    usage = code_usage(codes, (7, 7, 9))
    assert [len(book) for book in usage] == [7, 7, 9]
    assert [int(book.sum()) for book in usage] == [90, 90, 90]
    assert usage[1][3] == (codes[:, 1] == 3).sum()


def test_codes_outside_their_book_are_an_error():
    with pytest.raises(ValueError, match=r"book 1 has codes 0\.\.2, got values from 1 to 3"):
        code_usage(np.array([[0, 1], [0, 3]]), (1, 3))


def test_another_number_of_books_is_an_error():
    with pytest.raises(ValueError, match="codes have 2 books but 3 codebook sizes were given"):
        code_usage(np.zeros((4, 2), dtype=np.int64), (1, 1, 1))


def test_perplexity_of_uniform_use_is_the_number_of_codes():
    assert perplexity(np.full(16, 3)) == pytest.approx(16.0)
    assert perplexity(np.zeros(4, dtype=np.int64)) == 0.0
