"""Run configs hold any preset: through JSON and YAML and back."""

import json
from dataclasses import replace

import pytest
import yaml

from ctr_models.interactions.multi_embedding import scaled
from ctr_models.interactions.named import PRESETS, preset
from ctr_models.model import CTRModelConfig
from ctr_models.schema import Categorical, Schema
from llm_rec.codec import from_plain, to_plain
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.errors import ConfigError

SCHEMA = Schema(fields=tuple(Categorical(name=name, size=5) for name in ("user", "item", "hour", "place")))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back_from_json_and_yaml(name: str) -> None:
    config = preset(name, SCHEMA)
    plain = to_plain(config)
    assert from_plain(CTRModelConfig, json.loads(json.dumps(plain))) == config
    assert from_plain(CTRModelConfig, yaml.safe_load(yaml.safe_dump(plain))) == config


def test_a_method_with_scaled_sets_comes_back() -> None:
    method = ClickMethodConfig(model=scaled("finalmlp", 3, "multi", shared_interaction=True), embedding_l2=0.1)
    assert from_plain(ClickMethodConfig, yaml.safe_load(yaml.safe_dump(to_plain(method)))) == method


def test_towers_and_interactions_are_told_apart_by_kind() -> None:
    fibinet, finalmlp = (to_plain(preset(name, SCHEMA)) for name in ("fibinet", "finalmlp"))
    assert fibinet["towers"][0]["kind"] == "tower"
    assert [part["kind"] for part in fibinet["towers"][0]["interactions"]] == ["product_network", "transformed"]
    assert fibinet["towers"][0]["interactions"][1]["transforms"][0]["kind"] == "senet"
    assert finalmlp["towers"][0]["kind"] == "final_mlp"


def test_a_wrong_kind_is_named_with_its_path() -> None:
    plain = to_plain(replace(preset("afm", SCHEMA), dim=4))
    plain["towers"][0]["interactions"][0]["kind"] = "affm"
    with pytest.raises(ConfigError, match=r"^towers\[0\].interactions\[0\].kind: 'affm' is not one of .*mean 'afm'\?$"):
        from_plain(CTRModelConfig, plain)
