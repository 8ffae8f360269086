"""Frequency buckets: the published rule against a scan, ties, unseen items, and the real table."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.data import FrequencyBuckets

MODES = ("equal_mass", "equal_items", "log")
counts_lists = st.lists(st.integers(0, 40), min_size=0, max_size=60)


def with_padding(counts):
    return np.array([0, *counts], dtype=np.int64)


def scan(counts, number):
    """The rule as a scan: walk down the ranking, close a slice when its own mass reaches total / number."""
    ranking = sorted(range(len(counts)), key=lambda row: (-counts[row], row))
    buckets = [0] * len(counts)
    bucket, mass, total = 1, 0, sum(counts)
    for item in ranking:
        if counts[item] == 0:
            buckets[item] = number
            continue
        buckets[item] = bucket
        mass += counts[item]
        if bucket < number and mass * number >= total:
            bucket, mass = bucket + 1, 0
    return buckets


@given(counts_lists, st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_equal_mass_equals_a_scan(counts, number):
    fitted = FrequencyBuckets.fit(with_padding(counts), number)
    assert fitted.buckets[1:].tolist() == scan(counts, number)


@given(counts_lists, st.integers(1, 12), st.sampled_from(MODES))
@settings(max_examples=200, deadline=None)
def test_every_mode_orders_by_count_and_puts_unseen_items_last(counts, number, mode):
    fitted = FrequencyBuckets.fit(with_padding(counts), number, mode)
    buckets = fitted.buckets[1:]
    assert fitted.buckets[0] == 0
    assert fitted.number == number
    assert (fitted.boundaries[0], fitted.boundaries[-1]) == (0, len(counts))
    assert (np.diff(fitted.boundaries) >= 0).all()
    ranking = sorted(range(len(counts)), key=lambda row: (-counts[row], row))
    assert (np.diff(buckets[ranking]) >= 0).all()
    assert set(buckets.tolist()) <= set(range(1, number + 1))
    assert all(bucket == number for bucket, count in zip(buckets, counts, strict=True) if count == 0)
    for bucket in range(1, number + 1):
        held = fitted.boundaries[bucket] - fitted.boundaries[bucket - 1]
        assert (buckets == bucket).sum() == held


def test_ties_go_to_the_lower_row():
    fitted = FrequencyBuckets.fit(with_padding([3, 3, 3, 3]), 2)
    assert fitted.buckets.tolist() == [0, 1, 1, 2, 2]
    assert FrequencyBuckets.fit(with_padding([1, 2, 2, 2]), 3, "equal_items").buckets.tolist() == [0, 3, 1, 2, 2]


def test_equal_items_shares_out_the_items_with_events():
    fitted = FrequencyBuckets.fit(with_padding([9, 8, 7, 6, 0, 0, 0]), 2, "equal_items")
    assert fitted.buckets.tolist() == [0, 1, 1, 2, 2, 2, 2, 2]


def test_log_steps_are_equal_in_log_counts():
    counts = [10**4 - 1, 10**3, 10**2, 10, 1, 0]  # log(1 + count) from 0 to 4 decades
    fitted = FrequencyBuckets.fit(with_padding(counts), 4, "log")
    assert fitted.buckets.tolist() == [0, 1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("mode", MODES)
def test_more_buckets_than_items_leaves_some_empty(mode):
    fitted = FrequencyBuckets.fit(with_padding([5, 0, 3]), 10, mode)
    assert fitted.number == 10
    assert fitted.buckets[2] == 10
    assert 1 <= fitted.buckets[1] < fitted.buckets[3] <= 10


@pytest.mark.parametrize("mode", MODES)
def test_catalog_without_any_train_event_is_all_last(mode):
    assert FrequencyBuckets.fit(with_padding([0, 0, 0]), 4, mode).buckets.tolist() == [0, 4, 4, 4]
    assert FrequencyBuckets.fit(with_padding([]), 4, mode).buckets.tolist() == [0]


def test_masses_are_within_five_percent_on_a_realistic_catalog():
    rng = np.random.default_rng(0)
    weights = 1 / (np.arange(1, 8_001) + 30) ** 0.9  # Zipf-Mandelbrot: no item holds a large share
    counts = rng.multinomial(90_000, weights / weights.sum())
    fitted = FrequencyBuckets.fit(with_padding(rng.permutation(counts)))
    shuffled = np.sort(counts)[::-1]
    masses = [shuffled[a:b].sum() for a, b in zip(fitted.boundaries[:-1], fitted.boundaries[1:], strict=True)]
    assert np.abs(np.array(masses) / 9_000 - 1).max() < 0.05


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="number of buckets must be at least 1, got 0"):
        FrequencyBuckets.fit(with_padding([1]), 0)
    with pytest.raises(ValueError, match="train counts must not be negative, got -2"):
        FrequencyBuckets.fit(with_padding([1, -2]))


@pytest.mark.real_data
def test_script_reproduces_the_published_boundaries_of_prime_pantry(tmp_path):
    root = os.environ.get("LLM_REC_DATA")
    if not root:
        pytest.skip("LLM_REC_DATA names no folder")
    script = Path(__file__).parents[3] / "scripts" / "pantry_buckets.py"
    command = [
        sys.executable,
        str(script),
        "--data",
        str(Path(root) / "amazon2018-prime-pantry"),
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "89,262 train events" in done.stdout
    assert (tmp_path / "table.json").is_file()
