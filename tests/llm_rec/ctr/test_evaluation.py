"""Scores of a click model: the log odds of a click, whatever the batches; slices by what training saw."""

import numpy as np
import pytest
import torch

from ctr_models.interactions import presets
from ctr_models.layers import MLPConfig
from ctr_models.losses import BCEConfig, JRCConfig
from ctr_models.schema import UNKNOWN
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.evaluation import ClickEvaluationConfig, click_logits, evaluate_clicks, frequency_slices
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.planted import planted_clicks
from llm_rec.errors import ConfigError, DataError
from llm_rec.metrics.classification import click_metrics
from tests.llm_rec.ctr.worlds import write_log

MODEL = presets.dnn(dim=4, hidden=MLPConfig(widths=(8,), dropout=0.5))


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(planted_clicks(300, num_users=60), tmp_path_factory.mktemp("evaluation"), min_count=2)


@pytest.mark.parametrize("loss", [BCEConfig(), JRCConfig()])
def test_logits_are_the_log_odds_of_a_click_and_leave_the_model_as_it_was(log, loss):
    model = build_click_model(ClickMethodConfig(model=MODEL, loss=loss), log.schema).train()
    columns = log.part("test")
    logits = click_logits(model, loss, columns)
    assert model.training
    with torch.no_grad():
        outputs = model.eval()(to_batch(columns)).double().numpy()
    expected = outputs[:, 1] - outputs[:, 0] if isinstance(loss, JRCConfig) else outputs[:, 0]
    np.testing.assert_allclose(logits, expected, atol=1e-7)
    np.testing.assert_allclose(click_logits(model, loss, columns, batch_size=7), logits, atol=1e-6)
    assert not model.training


def test_slices_count_the_train_rows_of_a_rows_value(log):
    columns = log.part("test")
    place = log.schema.id_columns["user"].start
    train, test = (log.part(part).ids[:, place] for part in ("train", "test"))
    counts = np.array([0 if id_ == UNKNOWN else int((train == id_).sum()) for id_ in test])
    slices = frequency_slices(log, columns, "user")
    np.testing.assert_array_equal(slices["unseen"], counts == 0)
    np.testing.assert_array_equal(slices["1-4"], (counts >= 1) & (counts <= 4))
    np.testing.assert_array_equal(slices["lt5"], counts < 5)
    np.testing.assert_array_equal(slices["warm"], counts >= 10)
    clicked = log.part("train").labels[:, 0] == 1
    counts = np.array([0 if id_ == UNKNOWN else int((train[clicked] == id_).sum()) for id_ in test])
    np.testing.assert_array_equal(frequency_slices(log, columns, "user", label="label")["lt5"], counts < 5)
    assert slices["unseen"].any(), "rare users are unknown, and unseen, though training had rows of unknown ones"
    assert (train == UNKNOWN).any()


def test_figures_of_a_slice_are_those_of_its_rows(log):
    model = build_click_model(ClickMethodConfig(model=MODEL), log.schema)
    config = ClickEvaluationConfig(slice_field="user", num_buckets=5)
    found = evaluate_clicks(model, BCEConfig(), log, "test", config)
    columns = log.part("test")
    mask = frequency_slices(log, columns, "user")["lt5"]
    expected = click_metrics(
        found.logits[mask], columns.labels[mask, 0], groups=np.asarray(columns.groups)[mask], num_buckets=5
    )
    assert found.metrics["lt5"] == expected
    assert set(evaluate_clicks(model, BCEConfig(), log, "test", ClickEvaluationConfig()).metrics) == {"all"}


def test_what_cannot_be_evaluated_is_named(log):
    with pytest.raises(ConfigError, match="num_buckets and batch_size must be at least 1"):
        ClickEvaluationConfig(num_buckets=0)
    with pytest.raises(DataError, match="no field 'itm' to count by"):
        frequency_slices(log, log.part("test"), "itm")
