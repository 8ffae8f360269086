"""Click models with patterns, trained in two phases from a log with histories."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ctr_models.interactions.presets import fm
from ctr_models.sequences.events import EventsConfig
from ctr_models.sequences.pattern_refiner import MeanPatternConfig, TransformerRefinerConfig
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.presets import dpn
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig, train_clicks
from llm_rec.ctr.pattern_phase import check_pretrained
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig
from llm_rec.ctr.planted_patterns import PlantedPatternsConfig, planted_patterns
from llm_rec.errors import ConfigError, DataError
from llm_rec.training.trainer import TrainerConfig

PATTERNS = PatternConfig(
    pattern_length=3, top_k=3, attention_dim=8, refiner=TransformerRefinerConfig(num_layers=1, hidden=8, num_heads=2)
)
MODEL = dpn(dim=4, max_length=20, patterns=PATTERNS)
PRETRAINING = PatternPretrainingConfig(batch_size=256, trainer=TrainerConfig(epochs=1, optimizer="adam"))


def method(**settings) -> ClickMethodConfig:
    given = {"model": MODEL, "pattern_pretraining": PRETRAINING, **settings}
    trainer = TrainerConfig(epochs=1, learning_rate=0.01, optimizer="adam", monitor="auc")
    return ClickMethodConfig(batches=ClickBatchConfig(batch_size=128), trainer=trainer, **given)


@pytest.fixture(scope="module", name="log")
def fixture_log(tmp_path_factory):
    return planted_patterns(PlantedPatternsConfig(num_rows=500)).write(tmp_path_factory.mktemp("world") / "log")


def refiner(module):
    assert isinstance(module.sequence.encoder, DPN)
    return module.sequence.encoder.refiner.state_dict()


def before(folder, name="sequence.encoder.refiner."):
    found = load_file(folder / "01-pretrain-patterns" / "model.safetensors")
    return {key.removeprefix(name): value for key, value in found.items() if key.startswith(name)}


def test_a_frozen_refiner_keeps_what_pre_training_gave_it(log, tmp_path):
    frozen = method(pattern_pretraining=replace(PRETRAINING, finetuning="frozen"))
    trained = refiner(train_clicks(frozen, log, seed=0, folder=tmp_path).model)
    assert trained.keys() == before(tmp_path).keys()
    assert all(torch.equal(trained[name], value) for name, value in before(tmp_path).items())


def test_a_joint_refiner_goes_on_and_a_second_call_gives_the_same_model(log, tmp_path):
    first = train_clicks(method(), log, seed=0, folder=tmp_path)
    moved = [not torch.equal(refiner(first.model)[name], value) for name, value in before(tmp_path).items()]
    assert any(moved)
    again = train_clicks(method(), log, seed=0, folder=tmp_path)
    columns = log.part("test")
    scores = [click_logits(found.model, method().loss, columns) for found in (first, again)]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize("tables", ["rowwise_adagrad", "lazy_adam"])
def test_tables_may_have_row_optimisers(log, tables):
    trained = train_clicks(method(tables=tables), log, seed=0)
    assert np.isfinite(click_logits(trained.model, method().loss, log.part("test"))).all()


def test_pre_training_needs_patterns_a_refiner_and_events_without_positions():
    sequence = MODEL.sequence
    message = "^pattern_pretraining is for models with patterns; set model.sequence.patterns or leave it out$"
    with pytest.raises(ConfigError, match=message):
        method(model=fm(dim=4))
    mean = replace(sequence, patterns=replace(PATTERNS, refiner=MeanPatternConfig()))
    with pytest.raises(
        ConfigError, match="^pattern_pretraining trains a transformer refiner, and this model has MeanPa"
    ):
        check_pretrained(replace(MODEL, sequence=mean))
    added = replace(sequence, events=EventsConfig(decouple="shared", position="add"))
    with pytest.raises(ConfigError, match="event vectors without their position: take position 'concat' or 'none'"):
        check_pretrained(replace(MODEL, sequence=added))


def test_a_log_without_histories_has_no_patterns(log):
    bare = replace(log.schema, history=())
    with pytest.raises((ConfigError, DataError), match="no histor"):
        train_clicks(method(), replace(log, schema=bare), seed=0)
