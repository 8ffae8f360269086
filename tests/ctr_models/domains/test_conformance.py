"""What every model of several domains or tasks promises."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from safetensors.torch import load, save
from torch.nn import functional as F

from ctr_models.domains.body import BodyConfig
from ctr_models.domains.model import DomainModelConfig, build_domain_model, split_heads
from ctr_models.domains.presets import PRESETS
from ctr_models.domains.routing import EveryHead
from ctr_models.embeddings import EmbeddingTable
from ctr_models.schema import RESERVED
from llm_rec.codec import from_plain, to_plain
from tests.ctr_models.domains.cases import BODIES, CASES, DOMAIN, EVERY, SOME, config_of
from tests.ctr_models.domains.naive import naive_logits
from tests.ctr_models.domains.worlds import DOMAINS, TASKS, batch, build, gradients, schema, sources


@pytest.fixture(params=SOME, name="config", ids="-".join)
def fixture_config(request):
    return config_of(*request.param)


@pytest.fixture(params=EVERY, name="any_config", ids="-".join)
def fixture_any_config(request):
    return config_of(*request.param)


def test_every_member_of_the_union_is_here():
    assert {type(config) for config in CASES.values()} == set(get_args(BodyConfig))


def test_settings_come_back_from_plain_values(any_config):
    assert from_plain(DomainModelConfig, to_plain(any_config)) == any_config


def test_logits_have_the_promised_shape(config):
    model, rows = build(config), batch()
    outputs = model.outputs(rows)
    assert outputs.logits.shape == (40, 1 if config.by == "domain" else TASKS)
    assert model.num_heads == (DOMAINS if config.by == "domain" else TASKS)
    assert outputs.experts is None or outputs.experts.shape[1] == 40
    assert torch.equal(model(rows), outputs.logits)
    assert all(loss.shape == () for loss in outputs.losses.values())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["star", "star_alone"])
def test_stars_train_by_the_statistics_of_a_loop_over_domains(name, training):
    agree(build(config_of(name)).train(training), batch(9, seed=3))


def test_logits_and_gradients_are_those_of_a_loop_over_rows_heads_and_experts(any_config):
    agree(build(any_config), batch(9, seed=3))


def agree(model, rows):
    """With the naive form, in value and in the gradient of every parameter."""
    found, expected = model(rows), naive_logits(model, rows)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    mine, theirs = gradients((found * weights).sum(), model), gradients((expected * weights).sum(), model)
    for name, gradient in mine.items():
        torch.testing.assert_close(gradient, theirs[name], msg=lambda text, name=name: f"{name}: {text}")


def test_no_rows_give_no_logits(config):
    model = build(config)
    assert model(batch(0)).shape == (0, 1 if config.by == "domain" else TASKS)


def test_rows_do_not_touch_in_evaluation_and_a_batch_of_one_works(config):
    model, rows = build(config), batch()
    logits = model(rows)
    for row in (0, 7):
        one = replace(
            rows, **{name: getattr(rows, name)[row : row + 1] for name in ("ids", "numbers", "dense", "labels")}
        )
        torch.testing.assert_close(model(one), logits[row : row + 1])


def test_a_batch_of_one_trains_with_finite_gradients(config):
    model = build(config).train()
    model(batch(1)).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_domain_without_rows_leaves_everything_finite(config):
    model = build(config).train()
    outputs = model.outputs(batch(6, only=1))
    (outputs.logits.sum() + sum(outputs.losses.values())).backward()
    assert torch.isfinite(outputs.logits).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_gradient_reaches_every_parameter_of_every_set(any_config):
    model, rows = build(any_config).train(), batch(120)
    outputs = model.outputs(rows)
    ((outputs.logits * torch.randn_like(outputs.logits)).sum() + sum(outputs.losses.values())).backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        moved = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad.unsqueeze(1)
        tables = "sources" in path
        assert moved.ne(0).any() if tables else moved.ne(0).any(1).all(), path


def test_saved_and_loaded_is_bit_equal(config):
    model, rows = build(config), batch()
    again = build(config, seed=1)
    assert not torch.equal(again(rows), model(rows))
    again.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(again(rows), model(rows))


def test_heads_go_on_from_features_bit_by_bit(config):
    for dtype in (torch.float64, torch.float32):
        model, rows = build(config, dtype=dtype), batch(300)
        features = model.features(rows)
        assert all(len(tensor) == 300 for tensor in features)
        kept = type(features)(*(tensor.detach().clone() for tensor in features))
        assert torch.equal(model.from_features(kept, model.domains_of(rows)), model(rows))


def test_parameters_of_backbone_and_heads_are_a_partition(config):
    model = build(config)
    backbone, heads = model.backbone_parameters(), model.head_parameters()
    assert sorted(map(id, [*backbone, *heads])) == sorted(map(id, model.parameters()))
    assert all(len(parameter) == model.num_heads for parameter in heads)
    assert {id(p) for p in model.table_parameters()} <= {id(p) for p in backbone}
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    assert {id(table.embedding.weight) for table in tables} <= {id(p) for p in model.table_parameters()}
    one = model.head_parameters(1)
    assert all(torch.equal(view, parameter[1]) for view, parameter in zip(one, heads, strict=True))


@pytest.mark.parametrize("name", DOMAIN)
def test_a_head_cut_out_of_its_model_scores_the_rows_of_its_domain(name):
    model, rows = build(config_of(name)), batch(30, only=2)
    features, expected = model.features(rows), model(rows)
    for parameter in model.head_parameters():
        parameter.data = parameter.data[2:]
    torch.testing.assert_close(model.heads(features, EveryHead(1)), expected)


def test_features_depend_on_no_head(config):
    model, rows = build(config).train(), batch()
    leaves = model.head_parameters()
    value = sum(tensor.square().sum() for tensor in model.features(rows))
    assert all(grad is None for grad in torch.autograd.grad(value, leaves, allow_unused=True))


@pytest.mark.parametrize("name", DOMAIN)
def test_rows_of_one_domain_move_its_head_alone(name):
    model = build(config_of(name)).train()
    model(batch(30, only=1)).square().sum().backward()
    for parameter in model.head_parameters():
        assert parameter.grad[1].ne(0).any()
        assert parameter.grad[[0, 2]].abs().max() == 0


@pytest.mark.parametrize("name", DOMAIN)
def test_steps_on_rows_of_one_domain_leave_other_heads_bit_equal(name):
    """Fresh moments, no weight decay: Adam moves nothing whose gradient is zero. The backbone is frozen."""
    model = build(config_of(name), dtype=torch.float32).train()
    model.body.eval()
    backbone = [parameter.detach().clone() for parameter in model.backbone_parameters()]
    heads = [[view.clone() for view in model.head_parameters(head)] for head in range(DOMAINS)]
    optimizer = torch.optim.Adam(model.head_parameters(), 0.1)
    for seed in range(3):
        optimizer.zero_grad()
        model(batch(20, seed, only=2)).square().sum().backward()
        optimizer.step()
    for head, before in enumerate(heads):
        same = [torch.equal(old, new) for old, new in zip(before, model.head_parameters(head), strict=True)]
        assert not any(same) if head == 2 else all(same)
    assert all(torch.equal(old, new) for old, new in zip(backbone, model.backbone_parameters(), strict=True))


@pytest.mark.parametrize("name", BODIES)
def test_a_few_steps_lower_the_loss(name):
    model, rows = build(config_of(name), dtype=torch.float32).train(), batch(64)
    labels = (rows.ids[:, 2:] > 3).float()
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    losses = []
    for _ in range(20):
        outputs = model.outputs(rows)
        loss = F.binary_cross_entropy_with_logits(outputs.logits, labels)
        optimizer.zero_grad()
        (loss + sum(outputs.losses.values())).backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", DOMAIN)
def test_tiles_and_masks_give_equal_logits_and_gradients(name):
    sort, mask = build(config_of(name)).train(), build(config_of(name, dispatch="mask")).train()
    rows = batch(100)
    found, wanted = (model.outputs(rows) for model in (sort, mask))
    torch.testing.assert_close(found.logits, wanted.logits)
    for outputs in (found, wanted):
        (outputs.logits.square().sum() + sum(outputs.losses.values())).backward()
    for (path, mine), theirs in zip(sort.named_parameters(), mask.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=lambda text, path=path: f"{path}: {text}")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", DOMAIN)
def test_a_split_of_the_root_gives_the_same_bits(name, training):
    rows = batch(300)
    root = build(config_of(name, heads="root"), dtype=torch.float32)
    assert all(len(parameter) == 1 for parameter in root.head_parameters())
    split = split_heads(root)
    assert split.config.heads == "own"
    assert all(len(parameter) == DOMAINS for parameter in split.head_parameters())
    assert {id(p) for p in split.parameters()}.isdisjoint({id(p) for p in root.parameters()})
    root, split = root.train(training), split.train(training)
    assert torch.equal(split(rows), root(rows))


@pytest.mark.parametrize("name", DOMAIN)
def test_a_split_model_is_one_that_its_config_builds(name):
    split = split_heads(build(config_of(name, heads="root")))
    built = build_domain_model(split.config, schema(), build_sources=sources).double().eval()
    built.load_state_dict(split.state_dict())
    assert torch.equal(built(batch()), split(batch()))
    with pytest.raises(ValueError, match="^this model has a head for each domain already; build it with heads 'root'"):
        split_heads(split)


@pytest.mark.parametrize("name", DOMAIN)
def test_one_domain_runs_and_its_root_is_its_model(name):
    own, rows = build(config_of(name), domains=1), batch(20, domains=1)
    root = build(config_of(name, heads="root"), domains=1)
    root.load_state_dict(own.state_dict())
    assert own(rows).shape == (20, 1)
    torch.testing.assert_close(own(rows), naive_logits(own, rows))
    assert torch.equal(root(rows), own(rows))


def test_autocast_to_bfloat16_is_finite_and_close(config):
    model, rows = build(config, dtype=torch.float32), batch(60)
    exact = model(rows)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(rows)
    assert torch.isfinite(rounded).all()
    assert (rounded.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_at_its_own_size_and_comes_back_from_plain_values(name):
    config = PRESETS[name]()
    model = build_domain_model(config, schema(), build_sources=sources)
    assert model(batch(5)).shape == (5, 1 if config.by == "domain" else TASKS)
    assert from_plain(DomainModelConfig, to_plain(config)) == config


def test_unknown_domains_are_scored_by_the_first_head():
    model, rows = build(config_of("shared_bottom")), batch(6, only=0)
    unknown = replace(rows, ids=rows.ids.clone())
    unknown.ids[:, 1] = RESERVED - 1
    with torch.no_grad():
        for table in (module for module in model.modules() if isinstance(module, EmbeddingTable)):
            weight, start = table.embedding.weight, table.rows["page"].start
            weight[start + RESERVED - 1] = weight[start + RESERVED]  # the unknown page gets the vector of the first
    assert torch.equal(model(unknown), model(rows))


def test_a_root_of_tasks_is_refused():
    with pytest.raises(ValueError, match="^a root head is for domains: tasks have a label each, and no head can give"):
        config_of("mmoe", "task", heads="root")
