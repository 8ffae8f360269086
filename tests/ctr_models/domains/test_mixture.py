"""Which experts and tables a head reads and which it may teach."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ctr_models.domains.mixture import ExpertMixtureConfig
from ctr_models.domains.model import DomainModelConfig
from ctr_models.interactions.presets import dnn
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel
from tests.ctr_models.domains.cases import CASES, config_of
from tests.ctr_models.domains.worlds import DIM, DOMAINS, TASKS, batch, build, schema, sources

EXPERT = MLPConfig(widths=(6, 5))


def table_gradient(model):
    """(tables, rows, dim) of the id fields."""
    weight = model.body.sources[0].sources[0].embedding.weight
    return weight.grad.unflatten(1, (-1, DIM)).transpose(0, 1)


def specific_gradients(model, head):
    copies = model.config.body.num_specific
    return [p.grad[head * copies : (head + 1) * copies] for p in model.body.levels[-1].specific.parameters()]


@pytest.mark.parametrize("name", ["stem", "stem_al"])
@pytest.mark.parametrize("task", range(TASKS))
def test_the_loss_of_a_task_has_exactly_no_gradient_in_tables_and_experts_of_others(name, task):
    model, rows = build(config_of(name, "task")).train(), batch(50)
    F.binary_cross_entropy_with_logits(model(rows)[:, task], rows.labels[:, task].double()).backward()
    for other in range(TASKS):
        moved = [table_gradient(model)[other], *specific_gradients(model, other)]
        assert all(gradient.ne(0).any() if other == task else gradient.abs().max() == 0 for gradient in moved)
    if name == "stem":
        assert table_gradient(model)[TASKS].ne(0).any()


@pytest.mark.parametrize("name", ["stem", "me_ple", "cgc"])
@pytest.mark.parametrize("domain", range(DOMAINS))
def test_rows_of_a_domain_have_exactly_no_gradient_in_tables_and_experts_of_others(name, domain):
    model = build(config_of(name)).train()
    model(batch(30, only=domain)).square().sum().backward()
    copies = model.config.body.num_specific
    for other in range(DOMAINS):
        moved = specific_gradients(model, other)
        if name != "cgc":
            per_head = copies if name == "me_ple" else 1
            moved.append(table_gradient(model)[other * per_head : (other + 1) * per_head])
        assert all(gradient.ne(0).any() if other == domain else gradient.abs().max() == 0 for gradient in moved)


def test_with_levels_the_shared_stream_teaches_tables_of_other_tasks():
    model, rows = build(config_of("stem_levels", "task")).train(), batch(50)
    model(rows)[:, 0].square().sum().backward()
    assert table_gradient(model)[1].ne(0).any()


@pytest.mark.parametrize("by", ["domain", "task"])
@pytest.mark.parametrize("name", ["stem", "stem_levels", "stem_al"])
def test_the_stop_changes_no_value(name, by):
    stopped, rows = build(config_of(name, by)), batch()
    opened = build(DomainModelConfig(body=replace(CASES[name], foreign="open"), by=by))
    opened.load_state_dict(stopped.state_dict())
    assert torch.equal(opened(rows), stopped(rows))


def test_an_open_gate_teaches_foreign_experts():
    model, rows = build(config_of("stem_open", "task")).train(), batch(50)
    model(rows)[:, 0].square().sum().backward()
    assert table_gradient(model)[1].ne(0).any()


def test_the_gate_of_a_stopped_expert_is_trained():
    model = build(config_of("stem", "task")).train()
    model(batch(50))[:, 0].square().sum().backward()
    of_foreign = model.body.levels[0].gate.last.weight.grad[0][:, 1]
    assert of_foreign.ne(0).any()


def test_auxiliary_tasks_of_stem_al_see_their_own_experts_alone():
    model, rows = build(config_of("stem_al", "task")), batch()
    weights = model.gate_weights(rows)
    assert weights.shape == (TASKS, 40, 4)
    assert weights[0].min() > 0  # the main task
    assert weights[1, :, :2].abs().max() == 0
    torch.testing.assert_close(weights.sum(2), torch.ones(TASKS, 40, dtype=torch.float64))


def test_own_experts_alone_are_networks_apart():
    model, rows = build(config_of("own_alone")), batch()
    views = model.features(rows).vectors
    with torch.no_grad():
        for parameter in model.body.levels[0].specific.parameters():
            parameter[1] += 1.0
    moved = (model.features(rows).vectors != views).flatten(1).any(1)
    assert torch.equal(moved, model.domains_of(rows) == 1)


def test_one_gate_for_all_gives_all_heads_one_view():
    model = build(config_of("omoe", "task"))
    assert model.features(batch()).vectors.shape == (40, 1, 5)


def test_one_expert_of_one_domain_is_a_plain_network():
    model, rows = build(config_of("shared_bottom"), domains=1), batch(domains=1)
    plain = CTRModel(dnn(dim=DIM, hidden=MLPConfig(widths=(6, 5, 5))), sources(schema(1), DIM, 1)).double().eval()
    plain.sources.load_state_dict(model.body.sources[0].state_dict())
    layers, towers = model.body.levels[0].shared.layers, model.heads.towers
    state = [(layer.linear.weight, layer.linear.bias) for layer in layers]
    state.append((towers.layers[0].weight, towers.layers[0].bias))
    with torch.no_grad():
        for layer, (weight, bias) in zip(plain.towers[0].hidden.layers, state, strict=True):
            layer.linear.weight.copy_(weight)
            layer.linear.bias.copy_(bias)
        plain.towers[0].head.weight.copy_(towers.last.weight)
        plain.bias.copy_(towers.last.bias[0])
    torch.testing.assert_close(model(rows), plain(rows))


def test_sets_are_counted_by_table_rule():
    counts = {name: CASES[name].num_tables(3) for name in ("mmoe", "stem", "stem_al", "me_mmoe", "me_ple")}
    assert counts == {"mmoe": 1, "stem": 4, "stem_al": 3, "me_mmoe": 3, "me_ple": 7}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_levels": 0}, "num_levels must be at least 1, got 0"),
        ({"num_shared": 0}, "num_shared + num_specific must be at least 1, got 0"),
        ({"num_shared": -1, "num_specific": 2}, "num_shared must be at least 0, got -1"),
        (
            {"tables": "head"},
            "tables 'head' and foreign 'hidden' speak of experts of heads; set num_specific",
        ),
        (
            {"num_specific": 1, "expert": MLPConfig(widths=(4,), batch_norm=True)},
            "expert cannot have batch normalisation: a batch may hold no row or one of a domain",
        ),
        ({"gates": "one", "num_levels": 2}, "one gate for all heads is for one level of shared experts"),
        (
            {"num_shared": 0, "num_specific": 1, "num_levels": 2},
            "num_levels 2 needs shared experts, which read the shared stream",
        ),
        (
            {"num_specific": 1, "main": 0},
            "a main head needs foreign experts in sight, no shared expert and one level",
        ),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError) as error:
        ExpertMixtureConfig(**settings)
    assert str(error.value) == message


def test_a_main_head_that_is_none_is_named():
    body = replace(CASES["stem_al"], main=5)
    with pytest.raises(ValueError, match=r"^main must be one of the heads 0..2, got 5$"):
        build(DomainModelConfig(body=body))


def test_shared_experts_may_normalise_the_whole_batch():
    body = ExpertMixtureConfig(num_shared=2, expert=MLPConfig(widths=(4,), batch_norm=True))
    model, rows = build(DomainModelConfig(body=body)).train(), batch()
    assert torch.isfinite(model(rows)).all()
    assert model.body.levels[0].shared.layers[0].norm.running_mean.ne(0).any()
