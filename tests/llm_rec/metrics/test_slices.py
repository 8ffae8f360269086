"""Slices of targets and their summaries."""

import numpy as np
import pytest

from llm_rec.data.frequency import FrequencyBuckets
from llm_rec.metrics.slices import target_slices
from llm_rec.metrics.summary import summarise

COUNTS = np.array([0, 0, 1, 4, 5, 9, 10, 200])


def test_slices_cut_at_the_documented_counts():
    slices = target_slices(np.arange(1, 8), COUNTS)
    found = {name: (np.flatnonzero(mask) + 1).tolist() for name, mask in slices.items()}
    assert found == {
        "all": [1, 2, 3, 4, 5, 6, 7],
        "unseen": [1],
        "1-4": [2, 3],
        "lt5": [1, 2, 3],
        "lt10": [1, 2, 3, 4, 5],
        "warm": [6, 7],
    }


def test_every_target_is_in_exactly_one_bucket():
    targets = np.array([7, 7, 1, 3, 5])
    slices = target_slices(targets, COUNTS, FrequencyBuckets.fit(COUNTS, number=4))
    masks = np.stack([slices[f"bucket_{b}"] for b in range(1, 5)])
    assert masks.sum(axis=0).tolist() == [1] * 5
    assert masks[0].tolist() == [True, True, False, False, False]


def test_a_target_that_is_no_item_row_is_an_error():
    with pytest.raises(ValueError, match=r"targets are item rows 1\.\.7, got values from 0 to 8"):
        target_slices(np.array([0, 8]), COUNTS)


def test_summaries_hold_count_mean_and_interval_of_their_own_targets():
    rng = np.random.default_rng(0)
    metrics = {"recall@10": (rng.random(300) < 0.3).astype(float), "mrr": rng.random(300)}
    half = np.arange(300) < 150
    summary = summarise(metrics, {"all": np.ones(300, dtype=bool), "half": half, "none": half & ~half})
    assert summary["half"].count == 150
    assert summary["half"].mean["mrr"] == pytest.approx(metrics["mrr"][half].mean())
    for metric in metrics:
        assert summary["half"].low[metric] < summary["half"].mean[metric] < summary["half"].high[metric]
    width = {name: summary[name].high["mrr"] - summary[name].low["mrr"] for name in ("all", "half")}
    assert width["all"] < width["half"]
    assert (summary["none"].count, summary["none"].mean) == (0, {})
    alone = summarise({name: values[half] for name, values in metrics.items()}, {"x": np.ones(150, dtype=bool)})
    assert alone["x"] == summary["half"]
