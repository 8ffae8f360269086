"""STAR: partitioned statistics, factors that start as nothing, a logit without an activation."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ctr_models.domains.model import DomainModelConfig, build_domain_model
from ctr_models.domains.star import PartitionedNorm, STARConfig
from ctr_models.layers import MLPConfig
from tests.ctr_models.domains.worlds import DOMAINS, batch, build, schema, sources

CONFIG = DomainModelConfig(body=STARConfig(auxiliary=MLPConfig(widths=(4,))))


def fresh():
    """Factors at their start, shared weights drawn."""
    torch.manual_seed(0)
    config = replace(CONFIG, dim=4, tower=MLPConfig(widths=(5,)))
    return build_domain_model(config, schema(), build_sources=sources).double()


def test_factors_at_their_start_are_the_shared_network():
    model, rows = fresh().eval(), batch()
    fields = model.body.sources[0](rows)[0].flatten(1)
    h = fields * (1 + 1e-5) ** -0.5
    for layer in model.heads.layers:
        last = layer is model.heads.layers[-1]
        h = h @ layer.weight[0] + layer.bias[0]
        h = h if last else h.relu()
    auxiliary = model.body.auxiliary
    hidden = (fields @ auxiliary.layers[0].weight[0] + auxiliary.layers[0].bias[0]).relu()
    expected = h + hidden @ auxiliary.last.weight[0] + auxiliary.last.bias[0]
    torch.testing.assert_close(model(rows), expected)


def test_the_logit_of_the_star_has_both_signs():
    model = build(replace(CONFIG, body=STARConfig(auxiliary=None)))
    logits = model(batch(200))
    assert logits.min() < 0 < logits.max()


@pytest.mark.parametrize("training", [True, False])
def test_each_domain_is_normalised_as_by_a_batch_norm_of_its_own(training):
    torch.manual_seed(0)
    norm = PartitionedNorm(3, 4).double()
    alone = [nn.BatchNorm1d(4, affine=False).double() for _ in range(3)]
    for seed in range(3):
        torch.manual_seed(seed)
        domains = torch.arange(40) % 3
        rows = torch.randn(40, 4, dtype=torch.float64) * (1 + domains[:, None]) + domains[:, None]
        norm(rows, domains), [own(rows[domains == s]) for s, own in enumerate(alone)]
    norm.train(training), [own.train(training) for own in alone]
    found = norm(rows, domains)
    for s, own in enumerate(alone):
        torch.testing.assert_close(found[domains == s], own(rows[domains == s]))
        torch.testing.assert_close(norm.running_mean[s], own.running_mean)
        torch.testing.assert_close(norm.running_var[s], own.running_var)


def test_a_domain_with_one_row_or_none_keeps_its_statistics():
    norm, domains = PartitionedNorm(3, 4), torch.tensor([0, 0, 0, 1])
    out = norm(torch.randn(4, 4) + 5, domains)
    assert norm.running_mean[0].ne(0).all()
    assert norm.running_mean[1:].abs().max() == 0
    assert torch.equal(norm.running_var[1:], torch.ones(2, 4))
    assert out[3].abs().max() == 0


def test_evaluation_takes_the_running_statistics_of_each_domain():
    model, rows = build(CONFIG), batch(60)
    before = model(rows)
    model.body.norm.running_mean[1] += 1.0
    moved = (model(rows) != before).squeeze(1)
    assert torch.equal(moved, model.domains_of(rows) == 1)


def test_statistics_of_a_frozen_backbone_stay_bit_equal():
    model, rows = build(CONFIG).train(), batch(60)
    model.body.eval()
    kept = {name: value.clone() for name, value in model.named_buffers()}
    model(rows).sum().backward()
    assert all(torch.equal(value, kept[name]) for name, value in model.named_buffers())


def test_heads_are_the_factors():
    model = build(CONFIG)
    names = {name for name, p in model.named_parameters() if any(p is own for own in model.head_parameters())}
    assert {name.rsplit(".", 1)[1] for name in names} == {"factor", "shift"}
    assert all(len(parameter) == DOMAINS for parameter in model.head_parameters())
    assert any(model.heads.layers[0].weight is p for p in model.backbone_parameters())


def test_a_star_of_tasks_or_with_slopes_is_refused():
    with pytest.raises(ValueError, match=r"^STAR is a model of domains; set by 'domain'$"):
        build(replace(CONFIG, by="task"))
    config = replace(CONFIG, tower=MLPConfig(widths=(4,), activation="prelu"))
    with pytest.raises(ValueError, match="^a star has no PReLU: its slopes would be no product of shared and own"):
        build_domain_model(config, schema(), build_sources=sources)
