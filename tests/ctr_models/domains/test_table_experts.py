"""Tables with experts of their own: HeteroMoE and AME."""

from dataclasses import replace

import pytest
import torch

from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.table_experts import HeteroMoEConfig, TableExpertConfig
from ctr_models.embeddings import EmbeddingTable
from ctr_models.layers import MLPConfig
from tests.ctr_models.domains.cases import DIMS, MIXED, config_of
from tests.ctr_models.domains.worlds import DIM, TASKS, batch, build


def linear(activation):
    layers = MLPConfig(widths=(5,), activation=activation)
    return DomainModelConfig(body=HeteroMoEConfig(experts=(TableExpertConfig(layers=layers),) * 3, merge="sum"))


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_without_a_non_linear_layer_several_tables_are_one_wider_table(activation):
    """sum_t e_t W_t = [e_1 .. e_T] [W_1; ..; W_T]: one embedding; with ReLU it is not."""
    model, rows = build(linear(activation)), batch()
    vectors = model.body.sources[0](rows)  # (tables batch fields dim)
    wide = vectors.permute(1, 0, 2, 3).flatten(1)
    layer = model.body.experts[0].layers.layers[0].linear
    single = wide @ layer.weight.flatten(0, 1) + layer.bias.sum(0)
    found = model.features(rows).vectors[:, 0]
    assert torch.allclose(found, single) == (activation == "none")


@pytest.mark.parametrize("by", ["domain", "task"])
def test_gate_weights_sum_to_one_for_every_head(by):
    model = build(config_of("ame", by))
    weights = model.gate_weights(batch())
    assert weights.shape == (1 if by == "domain" else TASKS, 40, 6)
    torch.testing.assert_close(weights.sum(2), torch.ones(weights.shape[:2], dtype=torch.float64))


def test_tables_have_their_own_dims_and_all_learn_from_each_task():
    model = build(config_of("ame", "task")).train()
    tables = [module for module in model.modules() if isinstance(module, EmbeddingTable)]
    assert [(table.dim, table.num_tables) for table in tables] == [(2, 1), (4, 1), (3, 1)]
    for task in range(TASKS):
        model.zero_grad()
        model(batch())[:, task].square().sum().backward()
        assert all(table.embedding.weight.grad.ne(0).any() for table in tables)


def test_the_number_of_tables_is_free_of_the_number_of_tasks():
    assert len(DIMS) != TASKS
    assert build(config_of("ame", "task"))(batch()).shape == (40, TASKS)


def test_equal_experts_share_one_product_and_tables_of_one_dim_one_gather():
    model = build(config_of("hetero"))
    assert [len(list(experts.layers.layers[0].linear.weight)) for experts in model.body.experts] == [2, 1]
    assert [(s.sources[0].dim, s.sources[0].num_tables) for s in model.body.sources] == [(DIM, len(MIXED))]


def test_a_table_of_the_models_own_dim_by_name_is_read_by_the_same_gather():
    plain = TableExpertConfig(layers=MLPConfig(widths=(5,)))
    model = build(DomainModelConfig(body=HeteroMoEConfig(experts=(plain, replace(plain, dim=DIM)))))
    assert len(model.body.sources) == 1
    assert model(batch()).shape == (40, 1)


def test_static_weights_start_equal():
    body = HeteroMoEConfig(experts=MIXED, merge="static")
    model = build(DomainModelConfig(body=body))
    torch.nn.init.zeros_(model.body.static)
    torch.testing.assert_close(model.gate_weights(batch()), torch.full((1, 40, 3), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("merge", ["gate", "static", "mean", "sum"])
def test_one_table_has_weight_one_without_parameters(merge):
    body = HeteroMoEConfig(experts=(TableExpertConfig(layers=MLPConfig(widths=(5,))),), merge=merge)
    model = build(DomainModelConfig(body=body))
    assert torch.equal(model.gate_weights(batch()), torch.ones(1, 40, 1, dtype=torch.float64))
    assert model.body.gate is None
    assert model.body.static is None


@pytest.mark.parametrize(
    ("build_config", "message"),
    [
        (lambda: HeteroMoEConfig(experts=()), "experts must name at least one table"),
        (
            lambda: HeteroMoEConfig(experts=(TableExpertConfig(), TableExpertConfig(layers=MLPConfig(widths=(3,))))),
            "experts must end in one width to be merged, got [3, 64]",
        ),
        (
            lambda: TableExpertConfig(layers=MLPConfig(widths=())),
            "an expert needs at least one layer after its interaction, or its table adds nothing",
        ),
        (lambda: TableExpertConfig(num_experts=0), "num_experts must be at least 1, got 0"),
        (lambda: TableExpertConfig(dim=0), "dim must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(build_config, message):
    with pytest.raises(ValueError) as error:
        build_config()
    assert str(error.value) == message
