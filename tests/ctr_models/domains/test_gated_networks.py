"""PEPNet's gates, AdaSparse's pruner, HiNet's attention."""

from dataclasses import replace

import pytest
import torch

from ctr_models.domains.adasparse import AdaSparseConfig
from ctr_models.domains.hinet import HiNetConfig
from ctr_models.domains.model import DomainModelConfig, build_domain_model
from ctr_models.domains.pepnet import Gate, PEPNetConfig
from ctr_models.domains.routing import EveryHead
from ctr_models.domains.scenario_hmoe import ScenarioHMoEConfig
from ctr_models.layers import MLPConfig
from ctr_models.schema import Categorical, Schema
from tests.ctr_models.domains.cases import config_of
from tests.ctr_models.domains.worlds import DOMAINS, EXPERT, batch, build, sources

# --- PEPNet --------------------------------------------------------------------------------------------------------


def test_a_gate_whose_network_gives_zero_is_one():
    gate = Gate(1, 6, 4, 3, 2.0)
    for parameter in gate.last.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(gate(torch.randn(1, 5, 6), EveryHead(1)), torch.ones(1, 5, 3))


def test_gates_lie_between_zero_and_gamma():
    gate = Gate(2, 6, 4, 3, 3.0)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=5.0)
    values = gate(torch.randn(1, 50, 6), EveryHead(2))
    assert values.min() >= 0
    assert 2.5 < values.max() <= 3


def test_stopped_inputs_get_no_gradient_from_the_gates():
    """Of EPNet's gate: the domain's vector gets one, the embeddings beside it none."""
    model, rows = build(config_of("pepnet")), batch()
    body = model.body
    fields = body.sources[0](rows)[0].detach().requires_grad_()
    e = fields.flatten(1).unsqueeze(0)
    gate = body.embedding_gate(torch.cat([fields[:, body.domain].unsqueeze(0), e.detach()], 2), EveryHead(1))
    (gradient,) = torch.autograd.grad(gate.sum(), fields)
    assert gradient[:, body.domain].ne(0).any()
    others = [place for place in range(fields.shape[1]) if place != body.domain]
    assert gradient[:, others].abs().max() == 0


def test_gates_that_are_all_one_leave_a_tower_for_each_domain():
    model, rows = build(config_of("pepnet")), batch()
    for gate in (model.body.embedding_gate, *model.body.tower_gates):
        for parameter in gate.last.parameters():
            torch.nn.init.zeros_(parameter)
    x = model.body.sources[0](rows)[0].flatten(1).unsqueeze(0)
    routing = model.routing(model.domains_of(rows))
    for tower in model.body.towers:
        x = tower(x, routing)
    torch.testing.assert_close(model.features(rows).vectors[:, 0], x[0])


def test_prior_fields_are_checked_and_default_to_all_with_ids():
    assert build(DomainModelConfig(body=PEPNetConfig(hidden=EXPERT))).body.prior == [0, 1, 3]
    assert build(config_of("pepnet")).body.prior == [0, 3]
    with pytest.raises(ValueError) as error:
        build(DomainModelConfig(body=PEPNetConfig(prior_fields=("age",))))
    assert (
        str(error.value) == "prior_fields names 'age', which is no field with ids; there are ['item', 'page', 'user']"
    )


@pytest.mark.parametrize(("body", "name"), [(PEPNetConfig(), "PEPNet"), (AdaSparseConfig(), "AdaSparse")])
def test_models_that_read_the_domain_need_one(body, name):
    plain = Schema(fields=(Categorical(name="user", size=9),))
    with pytest.raises(ValueError) as error:
        build_domain_model(DomainModelConfig(body=body), plain, build_sources=sources)
    assert str(error.value) == f"{name} reads the vector of the row's domain; name the schema's domain field"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate_dim": 0}, "gate_dim must be at least 1, got 0"),
        ({"gamma": 0.0}, "gamma must be above 0, got 0.0"),
        ({"hidden": MLPConfig(widths=())}, "hidden must have at least one layer, whose output a gate multiplies"),
    ],
)
def test_wrong_settings_of_pepnet_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        PEPNetConfig(**settings)
    assert str(error.value) == message


# --- AdaSparse -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "expected"),
    [("scaling", [2 * 0.0474, 1.0, 2 * 0.9526]), ("binary", [0.0, 1.0, 1.0]), ("fusion", [0.0, 1.0, 2 * 0.9526])],
)
def test_factors_of_three_numbers(form, expected):
    body = build(DomainModelConfig(body=AdaSparseConfig(hidden=EXPERT, form=form))).body
    v = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    factors = body.factors(v)
    torch.testing.assert_close(factors, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)
    (gradient,) = torch.autograd.grad(factors.sum(), v)
    soft = v.detach().sigmoid()
    torch.testing.assert_close(gradient, (1 if form == "binary" else 2) * soft * (1 - soft))  # also where it cuts


def test_the_sparsity_loss_is_zero_inside_its_range_and_pulls_towards_it():
    body = build(DomainModelConfig(body=AdaSparseConfig(hidden=EXPERT, sparsity_weight=2.0))).body
    inside = body._sparsity(torch.full((1, 5, 4), 0.8))
    assert float(inside) == 0
    factors = torch.full((1, 5, 4), 1.0, requires_grad=True)
    loss = body._sparsity(factors)
    assert float(loss.detach()) == pytest.approx(2.0 * 0.2 * 0.2**2)
    assert (torch.autograd.grad(loss, factors)[0] > 0).all()  # nothing is pruned, so factors shall fall


def test_the_sparsity_loss_is_of_training_alone_and_not_of_scaling():
    model = build(config_of("adasparse"))
    assert model.outputs(batch()).losses == {}
    assert set(model.train().outputs(batch()).losses) == {"sparsity"}
    assert build(config_of("adasparse_scaling")).train().outputs(batch()).losses == {}


def test_the_domain_decides_which_neurons_live():
    model, rows = build(config_of("adasparse")), batch(5, only=0)
    other = replace(rows, ids=rows.ids.clone())
    other.ids[:, 1] += 1
    assert not torch.equal(model.features(rows).vectors, model.features(other).vectors)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.0}, "beta must be above 0, got 0.0"),
        ({"alpha": -1.0}, "alpha must be above 0, got -1.0"),
        ({"sparsity": (0.5, 0.2)}, "sparsity must be a range within [0, 1], got (0.5, 0.2)"),
        ({"sparsity_weight": -1.0}, "sparsity_weight must be finite and not negative, got -1.0"),
        ({"hidden": MLPConfig(widths=())}, "hidden must have at least one layer, whose neurons the pruner weighs"),
    ],
)
def test_wrong_settings_of_adasparse_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        AdaSparseConfig(**settings)
    assert str(error.value) == message


# --- HiNet ---------------------------------------------------------------------------------------------------------


def test_a_scenario_pays_no_attention_to_itself():
    model, rows = build(config_of("hinet")), batch()
    weights = model.gate_weights(rows)
    assert weights.shape == (1, 40, DOMAINS)
    own = weights[0, torch.arange(40), model.domains_of(rows)]
    assert own.abs().max() == 0
    torch.testing.assert_close(weights.sum(2), torch.ones(1, 40, dtype=torch.float64))


def test_one_scenario_takes_nothing_of_others():
    model = build(config_of("hinet"), domains=1)
    assert model.features(batch(domains=1)).vectors[:, 0, 2 * 5 :].abs().max() == 0
    assert model.gate_weights(batch(domains=1)) is None


def test_wrong_settings_of_hinet_are_named():
    with pytest.raises(ValueError, match=r"^num_sub_experts must be at least 1, got 0$"):
        HiNetConfig(num_sub_experts=0)
    with pytest.raises(ValueError, match=r"^an expert needs at least one hidden layer$"):
        HiNetConfig(expert=MLPConfig(widths=()))


# --- scenario HMoE -------------------------------------------------------------------------------------------------


def test_scores_of_all_scenarios_count_but_teach_their_own_towers_alone():
    model, rows = build(config_of("scenario_hmoe")).train(), batch(30, only=1)
    before = model(rows)
    before.square().sum().backward()
    towers = list(model.body.towers.parameters())
    assert all(p.grad[[0, 2]].abs().max() == 0 for p in (*towers, *model.head_parameters()))
    assert all(p.grad[1].ne(0).any() for p in towers)
    with torch.no_grad():
        model.body.towers.last.bias[2] += 1.0
    assert (model(rows) > before).all()


def test_wrong_settings_of_scenario_hmoe_are_named():
    with pytest.raises(ValueError, match=r"^num_experts must be at least 2, got 1$"):
        ScenarioHMoEConfig(num_experts=1)
    with pytest.raises(ValueError, match=r"^an expert needs at least one hidden layer$"):
        ScenarioHMoEConfig(expert=MLPConfig(widths=()))
