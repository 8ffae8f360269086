import dataclasses

import pytest
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.interactions import presets
from ctr_models.interactions.network import FlattenConfig
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel, CTRModelConfig, build_ctr_model
from ctr_models.schema import Categorical, Schema
from ctr_models.towers import TowerConfig
from tests.ctr_models.interactions.worlds import HIDDEN, IDS, TinyLinear, TinySource, tiny_batch, tiny_model


def test_concatenation_then_one_linear_map_is_the_sum_of_towers() -> None:
    model, batch = tiny_model(presets.dcn_v2(dim=3, num_layers=2, hidden=HIDDEN)), tiny_batch()
    cross, deep = model.towers
    fields = model.sources(batch)
    outputs = torch.cat([cross.interactions[0](fields), deep.hidden(deep.interactions[0](fields))], 2)[0]
    weight = torch.cat([cross.head.weight, deep.head.weight], 1)[0]
    torch.testing.assert_close(model(batch), outputs @ weight + model.bias)


def test_parallel_crosses_start_with_the_head_of_the_concatenation() -> None:
    """DCN's head is one Xavier map of [cross; deep]; two maps with a start of their own each would be larger."""
    deep = MLPConfig(widths=(300,))
    config = presets.dcn_v2(dim=100, num_layers=1, hidden=deep)
    torch.manual_seed(0)
    heads = [tower.head.weight for tower in CTRModel(config, TinySource(1, 100)).towers]
    assert [head.shape[1] for head in heads] == [400, 300]
    joint = (2 / (400 + 300 + 1)) ** 0.5
    for head in heads:
        torch.testing.assert_close(head.std(), torch.tensor(joint), rtol=0.15, atol=0)
    torch.manual_seed(0)
    own = dataclasses.replace(config, joint_head=False)
    alone = [tower.head.weight for tower in CTRModel(own, TinySource(1, 100)).towers]
    torch.testing.assert_close(heads[0], alone[0] * (401 / 701) ** 0.5)
    torch.testing.assert_close(heads[1], alone[1] * (301 / 701) ** 0.5)


def test_interactions_of_a_tower_lie_side_by_side() -> None:
    pair = (FlattenConfig(), presets.fm(dim=3).towers[0].interactions[0])
    model = tiny_model(CTRModelConfig(towers=(TowerConfig(interactions=pair),), dim=3))
    fields = model.sources(tiny_batch())
    both = torch.cat([fields.flatten(2), model.towers[0].interactions[1](fields)], 2)
    torch.testing.assert_close(model(tiny_batch()), both[0] @ model.towers[0].head.weight[0] + model.bias)


@pytest.mark.parametrize("combine", ["mean", "sum", "concat"])
def test_sets_are_combined_before_the_shared_head(combine) -> None:
    config = CTRModelConfig(towers=(TowerConfig(set_layers=HIDDEN, combine=combine),), dim=3, num_tables=2)
    model = tiny_model(config)
    tower = model.towers[0]
    sets = tower.set_layers(model.sources(tiny_batch()).flatten(2))
    joined = {"mean": sets.mean(0), "sum": sets.sum(0), "concat": torch.cat([sets[0], sets[1]], 1)}[combine]
    torch.testing.assert_close(model(tiny_batch()), joined @ tower.head.weight[0] + model.bias)


def test_parameters_are_split_into_tables_layers_and_orders() -> None:
    model = tiny_model(dataclasses.replace(presets.pfl(dim=3, hidden=HIDDEN), linear="weight"))
    split = model.split_parameters()
    assert {id(p) for p in split.embeddings} == {id(model.sources.weight), id(model.linear.weight)}
    assert {id(p) for p in split.orders} == {id(p) for p in model.towers[0].interactions[0].aggregator.weights}
    every = [id(p) for group in split for p in group]
    assert sorted(every) == sorted(id(p) for p in model.parameters())


def test_a_model_is_built_from_a_schema_by_the_builders_of_its_tables() -> None:
    schema = Schema(fields=tuple(Categorical(name=f"f{i}", size=IDS) for i in range(4)))
    asked = []

    def sources(given: Schema, dim: int, num_tables: int) -> TinySource:
        asked.append((given, dim, num_tables))
        return TinySource(num_tables, dim)

    def linear(given: Schema, num_outputs: int) -> TinyLinear:
        asked.append((given, num_outputs))
        return TinyLinear(num_outputs)

    model = build_ctr_model(presets.hofm(dim=3, order=3), schema, build_sources=sources, build_linear=linear)
    assert asked == [(schema, 3, 2), (schema, 1)]
    assert model(tiny_batch()).shape == (3, 1)
    asked.clear()
    build_ctr_model(presets.lr(), schema, build_sources=sources, build_linear=linear)
    assert asked == [(schema, 1)]


@pytest.mark.parametrize("preset", [presets.dcn_v2(dim=3, hidden=HIDDEN), presets.pfl(dim=3, hidden=HIDDEN)])
def test_a_few_steps_lower_the_loss(preset) -> None:
    model = tiny_model(preset, dtype=torch.float32).train()
    batch = tiny_batch(64)
    labels = (batch.ids[:, 0] > batch.ids[:, 1]).float().unsqueeze(1)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(batch), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    assert losses[-1] < 0.5 * losses[0]


def test_a_model_is_exported_and_gives_the_same_logits() -> None:
    model = tiny_model(presets.xdeepfm(dim=3, hidden=HIDDEN), dtype=torch.float32)
    fields = model.sources(tiny_batch()).detach()
    exported = torch.export.export(model.towers[0], (fields,)).module()
    torch.testing.assert_close(exported(fields), model.towers[0](fields))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "a model without towers needs linear 'weight', got 'none'"),
        ({"towers": (TowerConfig(),), "dim": 0}, "dim must be at least 1, got 0"),
        ({"towers": (TowerConfig(),), "num_tables": 0}, "num_tables must be at least 1, got 0"),
        (
            {"towers": (TowerConfig(),), "num_tables": 2, "linear": "vector"},
            "linear 'vector' is for one table, got num_tables 2",
        ),
        (
            {"towers": (TowerConfig(head="sum"),), "num_outputs": 2},
            "num_outputs 2 needs linear heads: a sum gives one logit",
        ),
    ],
)
def test_wrong_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError) as error:
        CTRModelConfig(**settings)
    assert str(error.value) == message


def test_parts_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="^a tower needs at least one interaction; FlattenConfig"):
        TowerConfig(interactions=())
    with pytest.raises(ValueError, match="^linear is 'weight' in the config but the part is NoneType$"):
        CTRModel(presets.fm(dim=3), TinySource(1, 3))
    with pytest.raises(ValueError, match="^linear is 'vector' in the config but linear_vectors is NoneType$"):
        CTRModel(presets.fwfm(dim=3, linear="vector"), TinySource(1, 3))
    with pytest.raises(ValueError, match="^towers read field vectors: pass sources$"):
        CTRModel(presets.dnn(dim=3), None)
    model = CTRModel(presets.dnn(dim=3, hidden=MLPConfig(widths=(2,))), TinySource(2, 3))
    with pytest.raises(ValueError) as error:
        model(tiny_batch())
    assert str(error.value) == "the sources give (num_tables, dim) (2, 3) but the config says (1, 3)"


def test_rows_without_any_column_still_get_the_bias() -> None:
    model = tiny_model(presets.lr())
    empty = FeatureBatch(tiny_batch().ids[:0], torch.zeros(0, 0), torch.zeros(0, 0), torch.zeros(0, 1))
    assert model(empty).shape == (0, 1)
