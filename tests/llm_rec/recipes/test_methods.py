"""Methods: every preset trains, resumes, and is a recommender; PAD gets the negatives its model asks for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ConfigError
from llm_rec.generative.model import GenerativeModel
from llm_rec.generative.t5 import T5ShapeConfig
from llm_rec.pad.model import PADModel
from llm_rec.recipes import methods
from llm_rec.recipes.generative import GenerativeMethodConfig
from llm_rec.recipes.material import Material
from llm_rec.recipes.methods import (
    MethodConfig,
    PADMethodConfig,
    SequentialMethodConfig,
    train_method,
    validation_metrics,
)
from llm_rec.recipes.presets import METHODS, NEEDS_CODES, NEEDS_TEXT, pad_faithful_mechanism, pad_ours
from llm_rec.sequential.batches import BatchConfig
from llm_rec.sequential.items import TextItemsConfig
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.training.trainer import TrainerConfig
from semantic_ids.code_table import CodeTable


@pytest.fixture(scope="module")
def material() -> Material:
    world = planted_world(40, 24, num_clusters=3, dim=6, seed=4)
    codes = CodeTable.from_codes(np.random.default_rng(0).integers(4, size=(24, 2)), (4, 4))
    split = leave_one_out(world.log)
    return Material(world.catalog, split, world.embeddings, codes, {"catalog": world.catalog.fingerprint})


def quick(method: MethodConfig) -> MethodConfig:
    """The method for one epoch."""
    match method:
        case SequentialMethodConfig():
            return replace(method, trainer=replace(method.trainer, epochs=1, eval_every=1))
        case PADMethodConfig():
            training = method.training
            phases = {n: replace(getattr(training, n), epochs=1) for n in ("pretrain", "align", "disentangle")}
            return replace(method, training=replace(training, **phases))
        case GenerativeMethodConfig():
            shape = T5ShapeConfig(
                dim=8, num_layers=1, num_decoder_layers=1, num_heads=1, head_dim=8, feed_forward_dim=8
            )
            trainer = replace(method.trainer, epochs=1, eval_every=1)
            return replace(method, trainer=trainer, model=replace(method.model, shape=shape))


@pytest.mark.parametrize("name", list(METHODS))
def test_every_preset_trains_on_what_it_needs_alone_and_ranks(name: str, material: Material) -> None:
    own = Material(
        material.catalog,
        material.split,
        material.embeddings if name in NEEDS_TEXT else None,
        material.codes if name in NEEDS_CODES else None,
        {},
    )
    trained = train_method(quick(METHODS[name]), own, seed=0)
    assert not trained.model.training
    kinds = {"pad": PADModel, "gen": GenerativeModel, "tig": GenerativeModel}
    assert isinstance(trained.model, kinds.get(name[:3], SequentialModel))
    if isinstance(trained.model, GenerativeModel):
        assert trained.results["train"].best_value is not None
        return
    metrics = validation_metrics(trained.model, own)
    assert set(metrics) == {f"{m}@{k}" for m in ("recall", "ndcg", "hit") for k in (5, 10, 20)} | {"mrr"}
    assert all(0 <= value <= 1 for value in metrics.values())


def test_a_generative_method_asks_for_codes(material: Material) -> None:
    bare = Material(material.catalog, material.split, None, None, {})
    with pytest.raises(ConfigError, match="a generative method needs codes; index the catalog and name them"):
        train_method(quick(METHODS["tiger"]), bare, seed=0)


@pytest.mark.parametrize("name", ["sasrec-text", "pad"])
def test_what_a_method_needs_is_asked_for_by_name(name: str, material: Material) -> None:
    bare = Material(material.catalog, material.split, None, None, {})
    with pytest.raises(ConfigError, match="embeddings"):
        train_method(quick(METHODS[name]), bare, seed=0)


def test_the_seed_decides_everything(material: Material) -> None:
    method = quick(METHODS["sasrec-id-text"])
    one, same, other = (train_method(method, material, seed=seed).model for seed in (1, 1, 2))
    assert torch.equal(one.item_vectors(), same.item_vectors())
    assert not torch.equal(one.item_vectors(), other.item_vectors())


def test_a_folder_keeps_every_phase(material: Material, tmp_path: Path) -> None:
    method = quick(METHODS["pad"])
    first = train_method(method, material, seed=0, folder=tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    again = train_method(method, material, seed=0, folder=tmp_path)
    assert list(first.results) == ["pretrain", "align", "disentangle"]
    assert first.results == again.results
    assert torch.equal(first.model.item_vectors(), again.model.item_vectors())
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == times


@pytest.mark.parametrize(("preset", "known_only"), [(pad_ours, True), (pad_faithful_mechanism, False)])
def test_pad_without_ids_for_unseen_items_has_none_of_them_as_negatives(preset, known_only, material: Material) -> None:
    phases = methods._pad_phases(replace(preset(), negatives=None), material, seed=0)
    negatives = phases[0].source(phases[0].build(None)).sampler.config
    assert negatives.seen_in_train_only == known_only


def test_text_reaches_unseen_items_better_than_chance(material: Material) -> None:
    method = SequentialMethodConfig(
        model=SequentialConfig(items=TextItemsConfig(), dim=16, max_length=15),
        batches=BatchConfig(max_length=15),
        trainer=TrainerConfig(epochs=30, learning_rate=1e-2),
    )
    model = train_method(method, material, seed=0).model
    assert validation_metrics(model, material)["ndcg@10"] > 0.35  # a random order has .20 over 24 items


def test_a_model_that_cannot_be_built_is_a_setting_to_change(material: Material) -> None:
    model = SequentialConfig(dim=9, backbone=SASRecConfig(num_heads=2))
    with pytest.raises(ConfigError, match="^method.model: dim 9 is not divisible by num_heads 2"):
        train_method(SequentialMethodConfig(model=model), material, seed=0)


def test_lengths_must_agree() -> None:
    with pytest.raises(ConfigError, match="batches.max_length is 50 but model.max_length is 20; set both to one value"):
        SequentialMethodConfig(model=SequentialConfig(max_length=20))
