"""Figures by domain equal those of each domain's rows; means are what they are called; pooled AUC can mislead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from llm_rec.metrics.classification import click_metrics
from llm_rec.metrics.click_intervals import figures, summarise_clicks
from llm_rec.metrics.domains import domain_metrics, domain_slices, is_domain_slice, with_means


def rows(seed=0, number=300, domains=3, users=12):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=number),
        rng.integers(2, size=number),
        rng.integers(domains, size=number),
        rng.integers(users, size=number),
    )


def test_a_model_that_knows_the_domain_alone_ranks_well_pooled_and_by_chance_within():
    domains = np.repeat([0, 1], 100)
    labels = np.r_[np.arange(100) < 5, np.arange(100) < 95].astype(int)
    found = domain_metrics(domains.astype(float), labels, domains, ["few", "many"], groups=np.arange(200) % 7)
    assert [metrics.auc for metrics in found.by_domain.values()] == [0.5, 0.5]
    assert (found.macro["auc"], found.weighted["auc"], found.worst["auc"]) == (0.5, 0.5, 0.5)
    assert found.pooled.auc == pytest.approx(0.95)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_rows_of_each_domain(seed):
    logits, labels, domains, groups = rows(seed)
    found = domain_metrics(logits, labels, domains, ["a", "b", "c"], groups=groups, num_buckets=5)
    for place, name in enumerate(("a", "b", "c")):
        inside = domains == place
        expected = click_metrics(logits[inside], labels[inside], groups=groups[inside], num_buckets=5)
        assert found.by_domain[name] == expected
        assert expected.auc == pytest.approx(roc_auc_score(labels[inside], logits[inside]), abs=1e-12)
    assert found.pooled == click_metrics(logits, labels, groups=groups, num_buckets=5)


@pytest.mark.parametrize("metric", ["auc", "gauc", "log_loss", "ece"])
def test_macro_weighted_and_worst_are_mean_mean_by_rows_and_extreme(metric):
    logits, labels, domains, groups = rows(5)
    found = domain_metrics(logits, labels, domains, ["a", "b", "c"], groups=groups)
    values = [figures(metrics)[metric] for metrics in found.by_domain.values()]
    counts = np.bincount(domains)
    assert found.macro[metric] == pytest.approx(np.mean(values), abs=1e-15)
    assert found.weighted[metric] == pytest.approx((counts * values).sum() / counts.sum(), abs=1e-15)
    assert found.worst[metric] == (max(values) if metric in ("log_loss", "ece") else min(values))


def test_a_domain_without_rows_or_without_both_classes_is_left_out_of_the_means():
    logits, labels = np.array([0.1, 0.9, 0.3, 0.2]), np.array([0, 1, 1, 1])
    found = domain_metrics(logits, labels, np.array([0, 0, 2, 2]), ["a", "b", "c"])
    assert list(found.by_domain) == ["a", "c"]
    assert found.by_domain["c"].auc is None
    assert found.macro["auc"] == 1.0
    assert "predicted_over_actual" not in found.macro


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_slices_part_the_rows(seed, number):
    _, _, domains, _ = rows(seed, 40, number)
    masks = domain_slices(domains, [str(place) for place in range(number)])
    np.testing.assert_array_equal(sum(mask.astype(int) for mask in masks.values()), 1)
    assert all(map(is_domain_slice, masks))


def test_numbers_without_a_name_are_refused():
    with pytest.raises(ValueError, match=r"domains are 0\.\.1, got values from 0 to 2"):
        domain_slices(np.array([0, 2]), ["a", "b"])


def test_summaries_get_means_over_domain_slices_alone_and_without_intervals():
    logits, labels, domains, groups = rows(7)
    masks = {"pooled": np.ones(len(labels), dtype=bool), **domain_slices(domains, ["a", "b", "c"], "task")}
    summaries = summarise_clicks(logits, labels, masks, groups, samples=5)
    found = with_means(summaries)
    assert list(found) == ["pooled", "task_a", "task_b", "task_c", "macro", "weighted", "worst"]
    expected = domain_metrics(logits, labels, domains, ["a", "b", "c"], groups=groups)
    assert found["macro"].mean == pytest.approx(expected.macro)
    assert found["worst"].mean == pytest.approx(expected.worst)
    assert found["worst"].low == {}
    assert found["macro"].count == len(labels)
    assert with_means({"pooled": summaries["pooled"]}) == {"pooled": summaries["pooled"]}
