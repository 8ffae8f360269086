"""Presets: sizes published or counted by hand, and names."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from ctr_models.embeddings import LinearTerm, schema_vectors
from ctr_models.model import CTRModelConfig, build_ctr_model
from ctr_models.schema import RESERVED, Categorical, Schema
from ctr_models.sequences import presets
from ctr_models.sequences.presets import PRESETS, preset
from llm_rec.codec import from_plain, to_plain

TAOBAO_ITEMS, TAOBAO_CATEGORIES = 4_068_790, 9_407


def parameters(config, outputs=2):
    """Of a model on the Taobao vocabulary, which is counted and not stored."""
    schema = Schema(
        fields=(
            Categorical(name="item", size=TAOBAO_ITEMS + RESERVED),
            Categorical(name="category", size=TAOBAO_CATEGORIES + RESERVED),
        ),
        history=("item", "category"),
    )
    with torch.device("meta"):
        model = build_ctr_model(
            replace(config, num_outputs=outputs), schema, build_sources=schema_vectors, build_linear=LinearTerm
        )
    return sum(parameter.numel() for parameter in model.parameters())


def test_dare_has_the_parameters_of_the_released_code_on_taobao():
    """130,641,591 were counted in the released code. It has one row before the values, padding; ours has a second one
    for unknown ids, in two fields of two tables.
    """
    unknown = 2 * 2 * 16
    assert parameters(presets.dare()) == 130_641_591 + unknown
    head = 2 * 144 + (144 * 200 + 200 + 1) + (200 * 80 + 80 + 1) + (80 * 2 + 2)
    auxiliary = 2 * 144 + (144 * 200 + 200 + 1) + (200 * 2 + 2)
    tables = 2 * 16 * (TAOBAO_ITEMS + 1 + TAOBAO_CATEGORIES + 1 + 2000)
    assert head + auxiliary + tables == 130_641_591


def test_the_other_variants_differ_by_their_tables_alone():
    table = 16 * (TAOBAO_ITEMS + RESERVED + TAOBAO_CATEGORIES + RESERVED + 2000)
    dare = parameters(presets.dare())
    assert parameters(presets.twin()) == parameters(presets.twin_hard()) == dare - table
    assert parameters(presets.twin_3e()) == dare + table
    assert parameters(presets.twin_4e()) == dare + 2 * table
    assert parameters(presets.twin_projection()) == dare - table + 4 * 3 * 16 * 16
    assert parameters(presets.din()) == dare - table + (4 * 48 * 36 + 36 + 1 + 36 + 1)
    assert parameters(presets.dare(attention_dims=(8,))) == dare - table // 2


def test_batch_norm_and_four_sigmoid_layers_are_those_of_tin():
    width = 2 * 64
    mlp = (3 * width * 80 + 80) + (80 * 40 + 40) + (40 + 1)
    tables = (64 + 1) * (TAOBAO_ITEMS + TAOBAO_CATEGORIES + 2 * RESERVED) + 431 * width
    assert parameters(presets.tin_released(), outputs=1) == tables + 2 * width + width * width + width + mlp


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_json_and_yaml(name):
    config = preset(name)
    plain = to_plain(config)
    assert from_plain(CTRModelConfig, json.loads(json.dumps(plain))) == config
    assert from_plain(CTRModelConfig, yaml.safe_load(yaml.safe_dump(plain))) == config


def test_encoders_are_told_apart_by_kind():
    kinds = {name: to_plain(preset(name))["sequence"]["encoder"]["kind"] for name in ("dare", "din_unsearched", "tin")}
    assert kinds == {"dare": "target_attention", "din_unsearched": "din", "tin": "tin"}


def test_a_name_that_is_none_gets_a_hint():
    with pytest.raises(ValueError, match="^no sequence preset is called 'dar'; did you mean 'dare'\\?$"):
        preset("dar")
    with pytest.raises(ValueError, match="^no sequence preset is called 'xxxxxxxx'; known: dare, twin"):
        preset("xxxxxxxx")
