"""Models of past events as click tasks and methods: loss parts, parameter groups, item fields, learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.embeddings import NormalInit
from ctr_models.losses import BCEConfig, CrossEntropyConfig, JRCConfig, click_loss
from ctr_models.model import CTRModelConfig
from ctr_models.optim import LazyAdam
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences import presets
from ctr_models.sequences.protocols import SequenceOutput
from ctr_models.towers import TowerConfig
from llm_rec.codec import from_plain, to_plain
from llm_rec.ctr.item_fields import CodeFields, ItemFieldsConfig, ItemTables, TextFields
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.sequence_method import dare_protocol
from llm_rec.ctr.task import ClickTask, click_groups
from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import BucketGateConfig
from llm_rec.metrics.classification import auc
from semantic_ids.code_table import CodeTable
from semantic_ids.fusion import GateFusionConfig, NoFusionConfig
from tests.ctr_models.sequences.worlds import ITEMS, SCHEMA, WITH_USER, batch

K = {"dim": 4, "max_length": 12, "top_k": 4}
DARE = presets.dare(**K)
CATALOG = ITEMS - 2
CODES = CodeTable.from_codes(np.random.default_rng(0).integers(0, 3, (CATALOG, 2)), (3, 3))
TEXTS = np.r_[np.zeros((1, 6)), np.random.default_rng(1).normal(size=(CATALOG, 6))].astype(np.float32)
TABLES = ItemTables(np.arange(CATALOG + 1), CODES, TEXTS)


def built(config=DARE, schema=SCHEMA, items=None, **settings):
    torch.manual_seed(0)
    method = ClickMethodConfig(model=config, init=NormalInit(std=0.5), **{"loss": CrossEntropyConfig(), **settings})
    return build_click_model(method, schema, items)


@pytest.mark.parametrize("loss", [BCEConfig(), CrossEntropyConfig(), JRCConfig()])
def test_the_loss_of_the_second_head_is_added_by_its_weight_and_logged(loss):
    model, given = built(loss=loss), batch()
    found = ClickTask(model, loss, auxiliary_weight=0.3).loss(given)
    outputs = model.outputs(given)
    main, second = (click_loss(loss, part, given.labels[:, 0]) for part in (outputs.logits, outputs.auxiliary))
    assert set(found.parts) == {"pointwise", "ranking", "auxiliary"}
    torch.testing.assert_close(found.total, main.total + 0.3 * second.total)
    torch.testing.assert_close(found.parts["auxiliary"], 0.3 * second.total.detach())
    assert set(ClickTask(model.eval(), loss).loss(given).parts) == {"pointwise", "ranking"}


class Predictor(nn.Module):
    """An encoder with a loss of its own: the mean of events, and how far it is from the candidate."""

    num_outputs, num_auxiliary = 1, 0

    def forward(self, sequence):
        mean = sequence.events.mean(2)
        loss = (mean - sequence.target).square().mean() if self.training else None
        return SequenceOutput(mean.unsqueeze(2), None, loss)


def test_the_loss_of_an_encoder_is_added_and_logged():
    config = replace(presets.tin(dim=4, max_length=12), towers=(TowerConfig(),))
    model, given = built(config), batch()
    model.sequence.encoder = Predictor()
    task = ClickTask(model, CrossEntropyConfig())
    trained = task.loss(given)
    assert set(trained.parts) == {"pointwise", "ranking", "encoder"}
    read = model.sequence.read(given)
    own = (read.events.mean(2) - read.target).square().mean()
    torch.testing.assert_close(trained.total, trained.parts["pointwise"] + own)
    assert set(ClickTask(model.eval(), CrossEntropyConfig()).loss(given).parts) == {"pointwise", "ranking"}


@pytest.mark.parametrize("tables", ["dense", "rowwise_adagrad", "lazy_adam"])
@pytest.mark.parametrize("name", ["dare", "twin_4e", "twin_projection", "din", "tin_released"])
def test_every_parameter_is_in_one_group(name, tables):
    model = built(replace(presets.preset(name), dim=4), WITH_USER, tables=tables)
    groups = click_groups(model, embedding_l2=0.5, dense_l2=0.25, tables=tables, decay_biases=False)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    kinds = {id(parameter): group.get("optimizer", "dense") for group in groups for parameter in group["params"]}
    for path, parameter in model.named_parameters():
        is_table = path.startswith(("sources", "linear", "sequence.events.rep", "sequence.events.att"))
        expected = 0.5 if is_table else 0.0 if path.endswith("bias") else 0.25
        assert decay[id(parameter)] == expected, path
        assert kinds[id(parameter)] == (tables if path.endswith("embedding.weight") else "dense"), path


def test_row_wise_tables_move_rows_of_the_events_found_and_no_others():
    model, given = built(presets.dare(**K, auxiliary=False), tables="lazy_adam"), batch()
    (table,) = model.sequence.events.attention.events.tables
    before = table.embedding.weight.detach().clone()
    ClickTask(model, CrossEntropyConfig()).loss(given).total.backward()
    LazyAdam([table.embedding.weight], lr=0.1).step()
    moved = (table.embedding.weight != before).any(1).nonzero().squeeze(1)
    found = model.sequence.read(given)
    items = torch.cat([found.event_ids[..., 0].flatten(), given.ids[:, 0]]).unique()
    assert set(moved[moved < ITEMS].tolist()) <= set(items.tolist()) - {0}
    assert len(moved) > 4


def test_the_protocol_of_dare_draws_every_weight_small_and_decays_no_bias():
    method = dare_protocol(presets.dare(dim=4))
    assert method.trainer.weight_decay == 2e-6
    assert from_plain(ClickMethodConfig, yaml.safe_load(yaml.safe_dump(to_plain(method)))) == method
    torch.manual_seed(0)
    model = build_click_model(method, SCHEMA)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert parameter.abs().max() < 0.06, name
    scale = dict(model.named_parameters())["towers.0.hidden.input_norm.weight"]
    assert scale.detach().std() == pytest.approx(0.01, rel=0.6)


@pytest.mark.parametrize("config", [DARE, presets.twin(**K), presets.tin(dim=4, max_length=12)])
def test_codes_and_texts_of_items_are_parts_of_candidates_and_events(config):
    wanted = ItemFieldsConfig(fusion=GateFusionConfig(), texts=True, text_fields=2)
    model = built(config, items=TABLES, item_fields=wanted)
    kinds = [type(module) for module in model.modules() if isinstance(module, CodeFields | TextFields)]
    roles = 2 if config is DARE else 1
    assert kinds == [CodeFields, TextFields] * roles
    assert model.sequence.events.layout.parts == 2 + 2 + 2 + (config.sequence.events.position == "concat")
    groups = click_groups(model, embedding_l2=0.5, dense_l2=0.25, tables="dense")
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    given = batch()
    read = model.sequence.read(given)
    (codes, texts) = model.sequence.events.representation.events.sources
    if config is not DARE and config.sequence.events.position == "add":
        return
    width = 4 * 2
    torch.testing.assert_close(read.target[0, :, 8 : 8 + width], codes.look_up(given.ids[:, 0])[0].flatten(1))
    torch.testing.assert_close(
        read.events[0, ..., 16:24], texts.look_up(read.event_ids[..., 0])[0].flatten(2) * read.mask.unsqueeze(-1)
    )
    ClickTask(model, CrossEntropyConfig()).loss(given).total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all((codes.embedding.weight.grad != 0).any(0))


def test_item_fields_that_a_sequence_cannot_read_are_named():
    gated = ItemFieldsConfig(fusion=NoFusionConfig(), gate=BucketGateConfig())
    with pytest.raises(
        ConfigError, match=r"item_fields\.gate is for ordinary fields; leave it out where a model reads"
    ):
        built(items=TABLES, item_fields=gated)
    with pytest.raises(
        ConfigError, match=r"item_fields\.field must be the first of the history \('item', 'category'\)"
    ):
        built(items=TABLES, item_fields=ItemFieldsConfig(field="category", texts=True))
    bare = ItemTables(TABLES.train_counts)
    with pytest.raises(ConfigError, match="item_fields.fusion reads semantic codes, and none were given"):
        built(items=bare, item_fields=ItemFieldsConfig(fusion=NoFusionConfig()))
    with pytest.raises(ConfigError, match="item_fields.texts reads text vectors, and none were given"):
        built(items=bare, item_fields=ItemFieldsConfig(texts=True))


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match=r"weight_init must be above 0, got 0\.0"):
        ClickMethodConfig(weight_init=0.0)
    with pytest.raises(ConfigError, match=r"auxiliary_weight must not be negative, got -1\.0"):
        ClickMethodConfig(auxiliary_weight=-1.0)
    with pytest.raises(ConfigError, match=r"method.model: the schema names no history fields"):
        built(schema=Schema(fields=(Categorical(name="item", size=5),)))


def planted(rows, seed, length=8):
    """A click means that the candidate's category occurs among the past events."""
    generator = torch.Generator().manual_seed(seed)
    categories = torch.randint(2, 12, (rows, length), generator=generator)
    items = torch.randint(2, 60, (rows, length), generator=generator)
    target = torch.randint(2, 12, (rows, 1), generator=generator)
    labels = (categories == target).any(1, keepdim=True).float()
    ids = torch.cat([torch.randint(2, 60, (rows, 1), generator=generator), target], 1)
    empty = torch.zeros(rows, 0)
    return FeatureBatch(ids, empty, empty, labels, None, HistoryBatch(torch.stack([items, categories], 2)))


@pytest.mark.parametrize("name", ["dare", "twin", "din"])
def test_a_match_in_the_past_is_learnt(name):
    schema = Schema(
        fields=(Categorical(name="item", size=60), Categorical(name="category", size=12)), history=("item", "category")
    )
    config = replace(presets.preset(name), dim=8)
    torch.manual_seed(0)
    model = build_click_model(
        ClickMethodConfig(model=config, loss=CrossEntropyConfig(), init=NormalInit(std=0.1)), schema
    )
    task, optimiser = ClickTask(model, CrossEntropyConfig()), torch.optim.Adam(model.parameters(), 0.01)
    for step in range(60):
        optimiser.zero_grad()
        task.loss(planted(256, step)).total.backward()
        optimiser.step()
    test = planted(1500, 10_000)
    with torch.no_grad():
        logits = model.eval()(test)
    assert auc((logits[:, 1] - logits[:, 0]).double().numpy(), test.labels[:, 0].numpy()) > 0.85


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_trains_and_scores_rows(name):
    """A step in which every weight gets a finite gradient; columns beyond max_length change no score."""
    config = presets.PRESETS[name](dim=4, max_length=12)
    model, given = built(config, WITH_USER), batch(WITH_USER)
    ClickTask(model.train(), CrossEntropyConfig()).loss(given).total.backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())
    wider = HistoryBatch(nn.functional.pad(given.history.ids, (0, 0, 3, 0)))
    model.eval()
    torch.testing.assert_close(model(given), model(replace(given, history=wider)), rtol=1e-4, atol=1e-5)


def test_a_config_without_a_sequence_is_as_it_was():
    assert "sequence" in to_plain(CTRModelConfig(linear="weight"))
    assert from_plain(CTRModelConfig, {"linear": "weight"}).history_length == 0
