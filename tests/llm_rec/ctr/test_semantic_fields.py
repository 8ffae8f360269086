"""Fields of codes and texts in a click model: identities between representations, widths, and the matrix of items."""

import numpy as np
import pytest
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import NormalInit, XavierJointInit
from ctr_models.interactions.presets import crossnet_v2
from ctr_models.schema import Categorical, Schema
from llm_rec.ctr.item_fields import CodeFields, ItemFieldsConfig, ItemTables, TextFields, copied_books, semantic_vectors
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.task import click_groups
from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import BucketGateConfig
from semantic_ids.code_table import CodeTable
from semantic_ids.fusion import GateFusionConfig, NoFusionConfig

ITEMS, DIM = 9, 4
SCHEMA = Schema(fields=(Categorical(name="user", size=5), Categorical(name="item", size=ITEMS + 2)))
CODES = CodeTable.from_codes(np.random.default_rng(0).integers(0, 3, (ITEMS, 2)), (3, 3))
EMBEDDINGS = np.r_[np.zeros((1, 6)), np.random.default_rng(1).normal(size=(ITEMS, 6))].astype(np.float32)
COUNTS = np.arange(ITEMS + 1)


def batch(items=range(ITEMS + 2)):
    ids = torch.tensor([[2, item] for item in items])
    none = torch.zeros(len(ids), 0)
    return FeatureBatch(ids=ids, numbers=none, dense=none, labels=torch.zeros(len(ids), 1), groups=None)


def fields(fusion, *, num_tables=1, codes=CODES, init=None):
    torch.manual_seed(0)
    return CodeFields(SCHEMA, "item", codes, fusion, DIM, num_tables, init=init)


def model(config):
    torch.manual_seed(0)
    method = ClickMethodConfig(model=crossnet_v2(dim=DIM), item_fields=config, init=NormalInit(std=0.1))
    return build_click_model(method, SCHEMA, ItemTables(COUNTS, CODES, EMBEDDINGS))


def test_fusion_off_is_the_concatenation_of_the_books_tables():
    module = fields(NoFusionConfig())
    found = module(batch())[0]
    for row in range(ITEMS):
        expected = [module.embedding.weight[1 + code + 4 * book] for book, code in enumerate(CODES.items[row].tolist())]
        assert torch.equal(found[row + 2], torch.stack(expected))
    assert not found[:2].any()  # padding and unknown


@pytest.mark.parametrize("num_tables", [1, 3])
def test_the_gate_keeps_a_field_a_book_and_scales_each_number_by_at_most_one(num_tables):
    gated, off = fields(GateFusionConfig(), num_tables=num_tables), fields(NoFusionConfig(), num_tables=num_tables)
    out, plain = gated(batch()), off(batch())
    assert out.shape == (num_tables, ITEMS + 2, 2, DIM)
    ratio = (out / plain)[:, 2:]
    assert ((ratio > 0) & (ratio < 1)).all()


def test_copies_of_one_book_have_tables_of_their_own():
    one = CodeTable.from_codes(CODES.items[:, :1], (3,))
    module = fields(NoFusionConfig(), codes=copied_books(one, 3))
    found = module(batch())[0, 2:]
    same = CODES.items[:, 0][:, None] == CODES.items[:, 0][None]
    for book in range(3):
        assert torch.equal((found[:, None, book] == found[None, :, book]).all(-1), torch.from_numpy(same))
    assert not torch.equal(found[:, 0], found[:, 1])
    assert module.embedding.weight.shape == (3 * (3 + 1), DIM)


def test_initial_scale_is_that_of_the_other_tables_and_padding_rows_are_zero():
    big = CodeTable.from_codes(np.random.default_rng(0).integers(0, 500, (ITEMS, 2)), (500, 500))
    weight = fields(NoFusionConfig(), codes=big, init=NormalInit(std=0.3)).embedding.weight
    assert weight.std().item() == pytest.approx(0.3, rel=0.05)
    assert not weight[[0, 501]].any()
    bound = (6 / (1000 + DIM)) ** 0.5
    uniform = fields(NoFusionConfig(), codes=big, init=XavierJointInit()).embedding.weight
    assert 0.95 * bound < uniform.abs().max().item() <= bound
    assert fields(NoFusionConfig(), codes=big).embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_text_fields_are_linear_maps_side_by_side_for_each_set():
    torch.manual_seed(0)
    module = TextFields(SCHEMA, "item", EMBEDDINGS, 3, DIM, num_tables=2)
    found = module(batch())
    assert found.shape == (2, ITEMS + 2, 3, DIM)
    maps = module.project.weight.view(2, 3, DIM, 6)
    expected = torch.einsum("tfdw,iw->tifd", maps, torch.from_numpy(EMBEDDINGS[1:]))
    torch.testing.assert_close(found[:, 2:], expected)
    assert not found[:, :2].any()
    assert sum(parameter.numel() for parameter in module.parameters()) == 2 * 3 * DIM * 6


@pytest.mark.parametrize(
    "config",
    [
        ItemFieldsConfig(fusion=GateFusionConfig()),
        ItemFieldsConfig(fusion=NoFusionConfig(), gate=BucketGateConfig(num_buckets=2)),
        ItemFieldsConfig(texts=True, text_fields=2),
    ],
)
def test_semantic_vectors_are_the_model_s_own_fields_of_all_items(config):
    built = model(config)
    vectors = semantic_vectors(built)
    assert vectors is not None
    assert vectors.shape == (ITEMS, 2 * DIM)
    fields_of_items = built.sources(batch(range(2, ITEMS + 2)))[0, :, 2:]
    torch.testing.assert_close(vectors, fields_of_items.flatten(1))  # the frequency gate starts at 1


def test_a_model_of_ids_alone_has_no_semantic_vectors():
    assert semantic_vectors(model(None)) is None


def test_fusions_and_gates_have_the_weight_decay_of_layers_not_of_tables():
    built = model(ItemFieldsConfig(fusion=GateFusionConfig(), gate=BucketGateConfig(num_buckets=2)))
    names = {id(parameter): name for name, parameter in built.named_parameters()}
    groups = click_groups(built, embedding_l2=0.5, dense_l2=0.25, tables="dense")
    decay = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert decay.keys() == set(names.values())
    tables = {name for name, value in decay.items() if value == 0.5}
    assert {name for name in tables if "embedding.weight" in name} == tables
    assert len(tables) == 2  # ids of the log, codes
    assert sum("fusion" in name for name in decay) == 4
    assert sum("gate.logits" in name for name in decay) == 1


def test_impossible_numbers_of_fields_are_named():
    with pytest.raises(ConfigError, match="code_copies and text_fields must be at least 1, got 0 and 2"):
        ItemFieldsConfig(fusion=NoFusionConfig(), code_copies=0, text_fields=2)
