"""The benchmark of domain models: naive forms give our values and gradients."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ctr_models.domains.covariance import cross_expert_covariance
from ctr_models.domains.networks import HeadMLP
from ctr_models.layers import MLPConfig
from llm_rec.metrics.classification import grouped_auc
from tests.scripts.loading import load

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    load("bench_ctr_forms")
    return load("bench_domains")


def test_help_names_the_options_every_script_has() -> None:
    command = [sys.executable, str(SCRIPTS / "bench_domains.py"), "--help"]
    env = {"PYTHONPATH": str(SCRIPTS.parent), "PATH": ""}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert {"--out", "--quick", "--threads"} <= set(shown.stdout.replace(",", " ").split())


def test_all_forms_of_towers_have_one_value_and_one_gradient(bench: ModuleType) -> None:
    torch.manual_seed(0)
    towers, rows = HeadMLP(MLPConfig(widths=(5, 4)), 4, 6, outputs=1), torch.randn(70, 6)
    domains = bench.drawn_domains(70, 4, 1)
    forms = [bench.routed(towers, domains, 4, dispatch) for dispatch in ("sort", "mask")]
    forms.append(bench.by_counts(towers, domains, 4))
    values = [form(rows) for form in forms]
    moved = [bench.both_ways(towers, rows, form) for form in forms]
    for other in (1, 2):
        torch.testing.assert_close(values[other], values[0])
        torch.testing.assert_close(moved[other], moved[0])


def test_domains_are_as_uneven_as_said(bench: ModuleType) -> None:
    counts = torch.bincount(bench.drawn_domains(100_000, 5, 0), minlength=5)
    assert (counts.diff() < 0).all()
    assert 40 < counts[0] / counts[-1] < 62


def test_the_loop_over_pairs_gives_the_covariance(bench: ModuleType) -> None:
    outputs = torch.randn(4, 50, 3, dtype=torch.float64)
    torch.testing.assert_close(bench.covariance_by_pairs(outputs), cross_expert_covariance(outputs))
    torch.testing.assert_close(
        bench.gradient(bench.covariance_by_pairs, outputs), bench.gradient(cross_expert_covariance, outputs)
    )


def test_lines_name_what_was_measured(bench: ModuleType) -> None:
    lines = [*bench.measure_towers((6, 5), 3, 40, 1, 0), *bench.measure_covariance(40, 1, 0)]
    assert [(line.what, line.against, line.higher_is_better) for line in lines] == [
        ("towers 6-5-1, 3 domains, batch 40", "every tower over all rows", False),
        ("towers 6-5-1, 3 domains, batch 40", "one product a domain", False),
        ("covariance of 5 experts, dim 64, batch 40", "one product a pair", False),
    ]


def test_the_last_phase_of_d_train_and_grouped_auc_are_measured(bench: ModuleType) -> None:
    lines = [*bench.measure_heads(600, 0), *bench.measure_grouped(1000, 0)]
    assert [line.against for line in lines] == [
        "features computed for every batch",
        "an epoch of computing them",
        "a group at a time",
    ]
    assert all(line.ours > 0 and line.peer > 0 for line in lines)


def test_the_loop_over_groups_gives_grouped_auc(bench: ModuleType) -> None:
    rng = np.random.default_rng(1)
    scores, labels, groups = rng.normal(size=300), rng.integers(2, size=300), rng.integers(40, size=300)
    expected = grouped_auc(scores, labels, groups).value
    assert bench.grouped_by_loop(scores, labels, groups) == pytest.approx(expected, abs=1e-12)
