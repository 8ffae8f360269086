"""Codes and texts of items as fields: found by the item's id, cold items too; gates by frequency; refusals."""

import numpy as np
import pytest
import torch

from ctr_models.embeddings import schema_vectors
from ctr_models.interactions import presets
from ctr_models.layers import MLPConfig
from ctr_models.schema import PADDING, UNKNOWN
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.item_fields import CodeFields, ItemFieldsConfig, ItemTables, with_item_fields
from llm_rec.ctr.log_rows import LogRowsConfig, write_log_rows
from llm_rec.ctr.method import ClickMethodConfig, build_click_model, train_clicks
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import BucketGateConfig, LogFrequencyGateConfig, UniformGateConfig, build_gate
from llm_rec.training import TrainerConfig
from semantic_ids.code_table import CodeTable
from semantic_ids.fusion import AttentionFusionConfig, GateFusionConfig, MLPFusionConfig, NoFusionConfig, SEFusionConfig

DIM, ITEMS = 4, 24
WORLD = planted_world(40, ITEMS, num_clusters=3, seed=1)
CODES = CodeTable.from_codes(np.random.default_rng(0).integers(0, 5, (ITEMS, 3)), (5, 5, 5))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("items") / "log"
    return write_log_rows(leave_one_out(WORLD.log), WORLD.catalog, path, LogRowsConfig(item_ids="catalog"))


def tables(log, *, codes=CODES, embeddings=True):
    counts = log.train_counts("item", label="label")[1:]
    counts[0] = 0
    return ItemTables(counts, codes, WORLD.embeddings if embeddings else None)


def batch_of(log):
    return to_batch(log.part("test"))


def items_of(log, batch):
    """Catalog rows (from 1) of a batch."""
    return (batch.ids[:, log.schema.id_columns["item"].start] - 1).numpy()


@pytest.mark.parametrize("num_tables", [1, 2])
def test_without_fusion_a_book_is_a_field_with_the_code_of_the_item(log, num_tables):
    fields = CodeFields(log.schema, "item", CODES, NoFusionConfig(), DIM, num_tables)
    batch = batch_of(log)
    items = items_of(log, batch)
    assert WORLD.unseen[items].any(), "cold items are among the rows"
    weight = fields.embedding.weight.detach()
    expected = torch.zeros(num_tables, len(items), 3, DIM)
    for row, item in enumerate(items.tolist()):
        for book in range(3):
            own = weight[book * 6 + 1 + int(CODES.codes[item, book])]  # a row of padding, then five codes a book
            expected[:, row, book] = own.view(num_tables, DIM)
    torch.testing.assert_close(fields(batch), expected, rtol=0, atol=0)


def test_padding_and_unknown_items_have_no_codes(log):
    fields = CodeFields(log.schema, "item", CODES, NoFusionConfig(), DIM)
    batch = batch_of(log)
    column = log.schema.id_columns["item"].start
    batch.ids[0, column], batch.ids[1, column] = PADDING, UNKNOWN
    assert not fields(batch)[:, :2].any()
    assert fields(batch)[:, 2:].any(-1).all()


@pytest.mark.parametrize(
    "fusion", [NoFusionConfig(), GateFusionConfig(), SEFusionConfig(), MLPFusionConfig(), AttentionFusionConfig()]
)
def test_every_fusion_trains_with_the_fields_of_the_log(log, fusion):
    config = ItemFieldsConfig(fusion=fusion, texts=True)
    method = ClickMethodConfig(
        model=presets.dcn_v2(dim=DIM, num_layers=1, hidden=MLPConfig(widths=(8,))),
        item_fields=config,
        trainer=TrainerConfig(epochs=1, monitor="auc", device="cpu"),
    )
    untrained = build_click_model(method, log.schema, tables(log))
    assert untrained.sources.num_fields == 2 + 3 + 1
    outputs = untrained(batch_of(log))
    outputs.sum().backward()
    assert all(parameter.grad is not None for parameter in untrained.parameters())
    first, second = (train_clicks(method, log, seed=0, items=tables(log)).model for _ in range(2))
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


def test_texts_are_the_projected_vectors_of_the_items(log):
    own = schema_vectors(log.schema, DIM)
    joined = with_item_fields(own, log.schema, ItemFieldsConfig(texts=True), tables(log), DIM, 1)
    batch = batch_of(log)
    vectors = torch.from_numpy(WORLD.embeddings)[torch.from_numpy(items_of(log, batch))]
    expected = joined.sources[1].project(vectors)
    torch.testing.assert_close(joined(batch)[0, :, 2], expected)
    torch.testing.assert_close(joined(batch)[:, :, :2], own(batch), rtol=0, atol=0)


@pytest.mark.parametrize("gate", [BucketGateConfig(num_buckets=3), LogFrequencyGateConfig(), UniformGateConfig()])
def test_a_gate_weighs_the_id_against_the_codes_by_frequency(log, gate):
    found = tables(log)
    torch.manual_seed(0)
    plain = with_item_fields(
        schema_vectors(log.schema, DIM), log.schema, ItemFieldsConfig(fusion=NoFusionConfig()), found, DIM, 1
    )
    torch.manual_seed(0)
    config = ItemFieldsConfig(fusion=NoFusionConfig(), gate=gate)
    gated = with_item_fields(schema_vectors(log.schema, DIM), log.schema, config, found, DIM, 1)
    batch = batch_of(log)
    for parameter in gated.gate.parameters():
        torch.nn.init.normal_(parameter)
    weights = 2 * gated.gate(torch.from_numpy(items_of(log, batch)))
    user, item, *codes = plain(batch)[0].unbind(1)
    expected = [user, item * weights[:, :1], *(code * weights[:, 1:] for code in codes)]
    torch.testing.assert_close(gated(batch)[0], torch.stack(expected, 1))


def test_an_untrained_gate_changes_nothing(log):
    found = tables(log)
    gate = build_gate(BucketGateConfig(), found.train_counts, [(0.0, 0.0), (0.0, 0.0)])
    assert torch.equal(2 * gate(torch.arange(ITEMS + 1)), torch.ones(ITEMS + 1, 2))


def test_what_does_not_fit_is_named(log, tmp_path):
    def build(config, given, schema=log.schema):
        return with_item_fields(schema_vectors(schema, DIM), schema, config, given, DIM, 1)

    fusion = ItemFieldsConfig(fusion=NoFusionConfig())
    with pytest.raises(ConfigError, match="a gate weighs ids against codes; set a fusion too"):
        ItemFieldsConfig(gate=BucketGateConfig())
    with pytest.raises(ConfigError, match=r"item_fields\.fusion reads semantic codes, and none were given; index"):
        build(fusion, tables(log, codes=None))
    with pytest.raises(ConfigError, match=r"item_fields\.texts reads text vectors, and none were given; encode"):
        build(ItemFieldsConfig(texts=True), tables(log, embeddings=False))
    with pytest.raises(ConfigError, match=r"item_fields\.field 'sku' is no field with ids; there are user, item"):
        build(ItemFieldsConfig(field="sku", fusion=NoFusionConfig()), tables(log))
    split = leave_one_out(WORLD.log)
    trained = write_log_rows(split, WORLD.catalog, tmp_path / "log", LogRowsConfig(item_ids="train", min_count=3))
    with pytest.raises(
        ConfigError, match=rf"has ids for \d+ items but the catalog has {ITEMS}; make the rows with item"
    ):
        build(fusion, tables(log), trained.schema)
