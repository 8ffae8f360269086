"""Tuning: neighbours become better, a stopped run ends with the same bytes, and settings never mix in a folder."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llm_rec.artifacts import read_manifest
from llm_rec.data import Split
from llm_rec.encoders import HashingEncoderConfig, LoRAConfig, build_encoder
from llm_rec.encoders.adapters import WEIGHTS_FILE
from llm_rec.errors import ArtifactError, ConfigError, TrainingError
from llm_rec.training import TrainerConfig
from llm_rec.tuning import (
    CoInteractionConfig,
    PairBatch,
    PairBatches,
    PairsConfig,
    TuningConfig,
    ViewsConfig,
    neighbour_metrics,
    tune_encoder,
)
from llm_rec.tuning.batches import text_groups
from llm_rec.tuning.neighbours import CatalogVectors

SMALL = TuningConfig(
    pairs=PairsConfig(batch_size=8, steps=3, tokens_per_chunk=60, views=ViewsConfig()),
    lora=LoRAConfig(rank=2, dropout=0.2),
    validation_targets=30,
    trainer=TrainerConfig(epochs=2, learning_rate=1e-3, monitor="recall@10", checkpoint_every=1, device="cpu"),
)


class Stopped(Exception):
    """As a kill would."""


@pytest.mark.parametrize("kind", ["sentence", pytest.param("causal", marks=pytest.mark.slow)])
def test_tuning_brings_items_together_that_users_take_together(kind, request, catalog, split, tmp_path) -> None:
    """Items of one need share no word, so the encoder as it is cannot know them."""
    encoder = request.getfixturevalue(kind)
    config = TuningConfig(
        pairs=PairsConfig(co_interaction=CoInteractionConfig(window=3), batch_size=32, steps=20),
        lora=LoRAConfig(rank=8, dropout=0.0),
        cached=False,
        validation_targets=None,
        trainer=TrainerConfig(epochs=3, learning_rate=1e-2, monitor="recall@10", device="cpu"),
    )
    outcome = tune_encoder(encoder, catalog, split, tmp_path / "a", config)
    assert outcome.result.best_value is not None
    assert outcome.result.best_value > outcome.before["recall@10"] + 0.2
    groups = text_groups(catalog)
    test = [
        neighbour_metrics(CatalogVectors(catalog, build_encoder(chosen, "cpu"), groups)(), split, "test")["recall@10"]
        for chosen in (encoder, replace(encoder, adapter=tmp_path / "a"))
    ]
    assert test[1] > test[0] + 0.2


@pytest.fixture(scope="module")
def left_alone(sentence, catalog, split, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "a"
    tune_encoder(sentence, catalog, split, folder, SMALL)
    return folder


@pytest.mark.parametrize("stop_at", [2, 4])
def test_stopped_and_run_again_it_ends_with_the_same_bytes(
    stop_at, sentence, catalog, split, left_alone, tmp_path, monkeypatch
) -> None:
    steps = 0
    plain = PairBatches.epoch

    def stopping(self: PairBatches, epoch: int, first_step: int = 0) -> Iterator[PairBatch]:
        nonlocal steps
        for batch in plain(self, epoch, first_step):
            if steps == stop_at:
                raise Stopped
            steps += 1
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(PairBatches, "epoch", stopping)
        with pytest.raises(Stopped):
            tune_encoder(sentence, catalog, split, tmp_path / "a", SMALL)
    tune_encoder(sentence, catalog, split, tmp_path / "a", SMALL)
    assert (tmp_path / "a" / WEIGHTS_FILE).read_bytes() == (left_alone / WEIGHTS_FILE).read_bytes()
    assert read_manifest(tmp_path / "a").fingerprint == read_manifest(left_alone).fingerprint


def test_an_adapter_is_an_artefact_of_what_it_was_made_from(left_alone, catalog, split) -> None:
    names = {path.name for path in left_alone.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "log.jsonl", "manifest.json"}
    manifest = read_manifest(left_alone, "adapter")
    assert manifest.inputs["catalog"] == catalog.fingerprint
    assert manifest.inputs["interactions"] == split.log.fingerprint
    lines = [json.loads(line) for line in (left_alone / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["losses"]["loss"]) and "recall@10" in line["metrics"] for line in lines)


def test_a_finished_adapter_is_kept_and_others_are_refused(sentence, catalog, split, left_alone) -> None:
    before = (left_alone / WEIGHTS_FILE).stat().st_mtime_ns
    outcome = tune_encoder(sentence, catalog, split, left_alone, SMALL)
    assert len(outcome.result.history) == 2
    assert "recall@10" in outcome.before
    assert (left_alone / WEIGHTS_FILE).stat().st_mtime_ns == before
    other = replace(SMALL, lora=LoRAConfig(rank=3, dropout=0.2))
    with pytest.raises(ArtifactError, match="made otherwise .lora.rank is 2 in the folder, 3 here.; choose another na"):
        tune_encoder(sentence, catalog, split, left_alone, other)
    shorter = Split(split.log, split.train_ends - 1, split.validation, split.test, None)
    with pytest.raises(ArtifactError, match="made otherwise .split is "):
        tune_encoder(sentence, catalog, shorter, left_alone, SMALL)


def test_a_half_finished_adapter_of_other_settings_is_refused(sentence, catalog, split, tmp_path, monkeypatch) -> None:
    def stopped(*_: object) -> Iterator[PairBatch]:
        raise Stopped
        yield

    with monkeypatch.context() as patch:
        patch.setattr(PairBatches, "epoch", stopped)
        with pytest.raises(Stopped):
            tune_encoder(sentence, catalog, split, tmp_path / "a", SMALL)
    with pytest.raises(TrainingError, match=r"holds another run: inputs.pairs is .*another folder"):
        tune_encoder(sentence, catalog, split, tmp_path / "a", replace(SMALL, pairs=replace(SMALL.pairs, batch_size=9)))
    one = replace(SMALL, trainer=replace(SMALL.trainer, epochs=1), pairs=replace(SMALL.pairs, steps=1))
    assert len(tune_encoder(sentence, catalog, split, tmp_path / "a", one, overwrite=True).result.history) == 1


def test_encoders_without_weights_or_with_an_adapter_cannot_be_tuned(sentence, catalog, split, tmp_path) -> None:
    with pytest.raises(ConfigError, match="a hashing encoder has no weights to tune; choose a sentence or a causal en"):
        tune_encoder(HashingEncoderConfig(), catalog, split, tmp_path / "a", SMALL)
    with pytest.raises(ConfigError, match="the encoder has an adapter already .x.; tune the model without it"):
        tune_encoder(replace(sentence, adapter=Path("x")), catalog, split, tmp_path / "a", SMALL)


def test_targets_of_validation_are_at_least_one() -> None:
    with pytest.raises(ValueError, match="validation_targets must be at least 1, or none, got 0"):
        TuningConfig(validation_targets=0)
