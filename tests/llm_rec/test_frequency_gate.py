import numpy as np
import pytest
import torch

from llm_rec.codec import from_plain, to_plain
from llm_rec.frequency_gate import (
    BucketGate,
    BucketGateConfig,
    LogFrequencyGateConfig,
    UniformGateConfig,
    build_gate,
    paper_ends,
)

COUNTS = np.array([0, 50, 40, 30, 20, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0], dtype=np.int64)
EVERY = [BucketGateConfig(), BucketGateConfig(num_buckets=1), LogFrequencyGateConfig(), UniformGateConfig()]


def test_initial_weights_are_the_published_ones():
    gate = build_gate(BucketGateConfig(), COUNTS, paper_ends())
    assert isinstance(gate, BucketGate)
    table = gate.table()
    torch.testing.assert_close(table[1], torch.tensor([0.568, 0.013, 0.419]), atol=6e-4, rtol=0)
    torch.testing.assert_close(table[10], torch.tensor([0.404, 0.005, 0.591]), atol=6e-4, rtol=0)
    torch.testing.assert_close(gate.logits[:, 0], torch.linspace(1, 0, 11))
    torch.testing.assert_close(gate.logits[:, 1], torch.linspace(-4, -5, 11))
    torch.testing.assert_close(gate.logits[:, 2], torch.linspace(0, 1, 11))


@pytest.mark.parametrize("config", EVERY, ids=lambda c: type(c).__name__)
def test_weights_sum_to_one_for_every_item(config):
    gate = build_gate(config, COUNTS, paper_ends())
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter += torch.randn_like(parameter)
    rows = torch.arange(16).reshape(2, 8)
    weights = gate(rows)
    assert weights.shape == (2, 8, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8))


@pytest.mark.parametrize("config", EVERY, ids=lambda c: type(c).__name__)
def test_gradient_reaches_every_parameter_and_state_round_trips(config):
    gate = build_gate(config, COUNTS, paper_ends())
    rows = torch.arange(16)
    (gate(rows) * torch.arange(48.0).reshape(16, 3)).sum().backward() if list(gate.parameters()) else None
    assert all(p.grad is not None for p in gate.parameters())
    other = build_gate(config, np.zeros_like(COUNTS), paper_ends())
    other.load_state_dict(gate.state_dict())  # the buckets travel with the weights
    assert torch.equal(other(rows), gate(rows))
    assert from_plain(type(config), to_plain(config)) == config


def test_weights_depend_on_the_bucket_of_the_item_alone():
    gate = build_gate(BucketGateConfig(num_buckets=3), COUNTS, paper_ends())
    weights = gate(torch.arange(1, 16))
    assert isinstance(gate, BucketGate)
    torch.testing.assert_close(weights, gate.table()[gate.buckets[1:]])
    assert len(weights.unique(dim=0)) == 3


def test_one_bucket_weighs_all_items_alike_and_starts_half_way():
    weights = build_gate(BucketGateConfig(num_buckets=1), COUNTS, paper_ends())(torch.arange(1, 16))
    assert len(weights.unique(dim=0)) == 1
    raw = torch.tensor([0.5, -4.5, 0.5]).sigmoid()
    torch.testing.assert_close(weights[0], raw / raw.sum())


def test_log_frequency_starts_without_preference_by_frequency():
    weights = build_gate(LogFrequencyGateConfig(), COUNTS, paper_ends())(torch.arange(1, 16))
    assert len(weights.unique(dim=0)) == 1


def test_equal_counts_give_a_finite_log_frequency_gate():
    counts = np.array([0, 3, 3, 3], dtype=np.int64)
    assert torch.isfinite(build_gate(LogFrequencyGateConfig(), counts, paper_ends())(torch.arange(4))).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BucketGateConfig(num_buckets=0), "num_buckets must be at least 1, got 0"),
        (lambda: LogFrequencyGateConfig(hidden=0), "hidden must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
