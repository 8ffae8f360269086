"""Crocodile: its gate, its tables, and what is left with every switch off."""

from dataclasses import replace

import pytest
import torch

from ctr_models.domains.covariance import cross_expert_covariance
from ctr_models.domains.crocodile import CrocodileConfig
from ctr_models.domains.mixture import ExpertMixtureConfig
from ctr_models.domains.model import DomainModelConfig
from ctr_models.embeddings import EmbeddingTable
from ctr_models.layers import MLPConfig
from tests.ctr_models.domains.cases import CASES, config_of
from tests.ctr_models.domains.worlds import DOMAINS, EXPERT, batch, build


def of(**settings):
    return DomainModelConfig(body=replace(CASES["crocodile"], **settings))


@pytest.mark.parametrize("name", ["crocodile", "crocodile_scalar", "crocodile_shared_gate", "crocodile_off"])
def test_weights_sum_to_one_over_experts_for_every_dimension(name):
    model, rows = build(config_of(name)), batch()
    weights = model.heads.weights(model.features(rows), model.routing(model.domains_of(rows)))
    per_dimension = name in ("crocodile", "crocodile_shared_gate")
    assert weights.shape == (1, 40, model.config.body.num_experts, 5 if per_dimension else 1)
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[:, :, 0]))


def test_tables_of_the_prior_are_its_own_and_learn_from_the_gate_alone():
    model, rows = build(config_of("crocodile")).train(), batch()
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    assert [(table.dim, table.num_tables, table.num_fields) for table in tables] == [(4, 3, 3), (2, 1, 3)]
    model(rows).square().sum().backward()
    assert tables[1].embedding.weight.grad.ne(0).any()
    features = model.features(rows)
    (vectors,) = torch.autograd.grad(features.vectors.sum(), tables[1].embedding.weight, allow_unused=True)
    assert vectors is None
    stopped = build(of(stop_prior_gradient=True)).train()
    stopped(rows).square().sum().backward()
    prior = [module for module in stopped.modules() if isinstance(module, EmbeddingTable)][1]
    assert prior.embedding.weight.grad is None


def test_with_every_switch_off_it_is_mmoe_with_domains_for_tasks():
    model, rows = build(config_of("crocodile_off")), batch()
    mmoe = build(DomainModelConfig(body=ExpertMixtureConfig(num_shared=3, expert=EXPERT)))
    level = mmoe.body.levels[0]
    mmoe.body.sources.load_state_dict(model.body.sources.state_dict())
    level.shared.load_state_dict(model.body.experts.state_dict())
    mmoe.heads.towers.load_state_dict(model.heads.towers.state_dict())
    with torch.no_grad():
        level.gate.last.weight.copy_(model.heads.gate.last.weight)
        level.gate.last.bias.zero_()
    torch.testing.assert_close(model(rows), mmoe(rows))
    assert model.train().outputs(rows).losses == {}


def test_a_scalar_gate_mixes_as_mmoe_does():
    model, rows = build(config_of("crocodile_scalar")), batch()
    features, routing = model.features(rows), model.routing(model.domains_of(rows))
    weights = model.heads.weights(features, routing)[..., 0]
    mixed = torch.einsum("vbe,bed->vbd", weights, features.vectors)
    expected = model.heads.towers(mixed, routing)[0]
    torch.testing.assert_close(model(rows), expected)


def test_the_covariance_loss_is_that_of_the_outputs_in_training_alone():
    model, rows = build(config_of("crocodile")), batch()
    assert model.outputs(rows).losses == {}
    found = model.train().outputs(rows)
    torch.testing.assert_close(found.losses["decorrelation"], 2e-5 * cross_expert_covariance(found.experts))
    found.losses["decorrelation"].backward()
    assert model.body.sources[0].sources[0].embedding.weight.grad.ne(0).any()  # through the experts


def test_all_experts_and_tables_are_shared_by_all_domains():
    for domain in range(DOMAINS):
        model = build(config_of("crocodile")).train()
        model(batch(30, only=domain)).square().sum().backward()
        assert all(p.grad.flatten(1).ne(0).any(1).all() for p in model.body.experts.parameters())


def test_a_gate_for_each_domain_goes_with_the_heads_and_one_for_all_does_not():
    each, shared = build(config_of("crocodile")), build(config_of("crocodile_shared_gate"))
    assert any(p is each.heads.gate.last.weight for p in each.head_parameters())
    assert any(p is shared.heads.gate.last.weight for p in shared.backbone_parameters())
    assert len(shared.heads.gate.last.weight) == 1


def test_prior_fields_are_checked():
    with pytest.raises(ValueError) as error:
        build(of(prior_fields=("nobody",)))
    assert str(error.value) == (
        "prior_fields names 'nobody', which is no field with ids; there are ['item', 'page', 'user']"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_experts": 0}, "num_experts must be at least 1, got 0"),
        ({"expert": MLPConfig(widths=())}, "an expert needs at least one hidden layer"),
        ({"prior_dim": 0}, "prior_dim must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        CrocodileConfig(**settings)
    assert str(error.value) == message
