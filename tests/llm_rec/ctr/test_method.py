"""Click methods: floors on a planted world, determinism, row-wise tables, what validation reports, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctr_models.embeddings import NormalInit
from ctr_models.interactions import multi_embedding, presets
from ctr_models.layers import MLPConfig
from ctr_models.losses import JRCConfig
from ctr_models.schema import RESERVED
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.evaluation import ClickEvaluationConfig, click_logits, evaluate_clicks
from llm_rec.ctr.item_fields import ItemFieldsConfig
from llm_rec.ctr.method import ClickMethodConfig, build_click_model, train_clicks, validation_metrics
from llm_rec.ctr.planted import planted_clicks
from llm_rec.errors import ConfigError, TrainingError
from llm_rec.metrics.classification import auc, grouped_auc, log_loss
from tests.llm_rec.ctr.worlds import TRAINER, small_log, write_log

WORLD = planted_clicks(4000)
HIDDEN = MLPConfig(widths=(16,))
PAIRS = ClickMethodConfig(
    model=presets.fm(dim=4), init=NormalInit(std=0.1), batches=ClickBatchConfig(batch_size=128), trainer=TRAINER
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(WORLD, tmp_path_factory.mktemp("method"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("tiny"))


def auc_of(method, log):
    """Of the test rows, after training."""
    trained = train_clicks(method, log, seed=0)
    return evaluate_clicks(trained.model, method.loss, log, "test", ClickEvaluationConfig()).metrics["all"].auc


def test_the_best_auc_of_the_world_is_that_of_its_probabilities():
    drawn = [auc(world.probabilities, world.labels) for world in (planted_clicks(4000, seed=s) for s in range(3))]
    assert np.mean(drawn) == pytest.approx(WORLD.best_auc, abs=0.01)
    with pytest.raises(ValueError, match="num_fields must be at least 2 and num_values even, got 4 and 3"):
        planted_clicks(10, num_values=3)


@pytest.mark.parametrize(
    "model",
    [
        presets.fm(dim=4),
        presets.dcn_v2(dim=4, num_layers=2, hidden=HIDDEN),
        multi_embedding.multi_dcn_v2(num_tables=2, dim=4, num_layers=1),
    ],
)
def test_models_of_pairs_come_close_to_the_best_auc(log, model):
    rate = 0.05 if model.towers[0].head == "sum" else 0.01
    method = replace(PAIRS, model=model, trainer=replace(TRAINER, learning_rate=rate))
    assert auc_of(method, log) > WORLD.best_auc - 0.06


def test_logistic_regression_stays_near_chance(log):
    assert auc_of(replace(PAIRS, model=presets.lr()), log) < 0.56


@pytest.mark.parametrize(("tables", "rate"), [("lazy_adam", 0.05), ("rowwise_adagrad", 0.1)])
def test_row_wise_tables_learn_too(log, tables, rate):
    method = replace(PAIRS, tables=tables, trainer=replace(TRAINER, learning_rate=rate))
    assert auc_of(method, log) > WORLD.best_auc - 0.08


@pytest.mark.parametrize("tables", ["dense", "lazy_adam", "rowwise_adagrad"])
def test_only_dense_tables_move_rows_that_no_batch_holds(tiny, tables):
    method = replace(PAIRS, tables=tables, embedding_l2=0.1, trainer=replace(TRAINER, epochs=1))
    seen = np.unique(tiny.part("train").ids[:, 0])
    unseen = np.setdiff1d(np.arange(1, RESERVED + 10), seen)  # unknown: every value of the field occurs in training
    assert unseen.tolist() == [1]
    trained = train_clicks(method, tiny, seed=3).model
    with torch.random.fork_rng():
        torch.manual_seed(3)
        untrained = build_click_model(method, tiny.schema)
    before, after = (model.sources.sources[0].embedding.weight for model in (untrained, trained))
    assert torch.equal(before[1], after[1]) == (tables != "dense")
    assert torch.equal(after[0], torch.zeros_like(after[0]))


@pytest.mark.parametrize("tables", ["dense", "lazy_adam"])
def test_a_seed_fixes_every_bit(tiny, tmp_path, tables):
    method = replace(PAIRS, tables=tables, model=presets.dcn_v2(dim=4, num_layers=1, hidden=HIDDEN))
    first, second = (train_clicks(method, tiny, seed=5).model.state_dict() for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    other = train_clicks(method, tiny, seed=6).model.state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)
    saved = train_clicks(method, tiny, seed=5, folder=tmp_path).model.state_dict()
    loaded = train_clicks(method, tiny, seed=5, folder=tmp_path).model.state_dict()
    torch.testing.assert_close(first, saved, rtol=0, atol=0)
    torch.testing.assert_close(first, loaded, rtol=0, atol=0)


def test_a_folder_of_another_method_or_seed_is_refused(tiny, tmp_path):
    train_clicks(PAIRS, tiny, seed=0, folder=tmp_path)
    with pytest.raises(TrainingError, match="holds this phase made otherwise"):
        train_clicks(replace(PAIRS, embedding_l2=0.1), tiny, seed=0, folder=tmp_path)
    with pytest.raises(TrainingError, match="holds this phase made otherwise"):
        train_clicks(PAIRS, tiny, seed=1, folder=tmp_path)


@pytest.mark.parametrize("loss", [PAIRS.loss, JRCConfig()])
def test_validation_reports_auc_negative_log_loss_and_grouped_auc(tiny, loss):
    method = replace(PAIRS, loss=loss, model=presets.dnn(dim=4, hidden=HIDDEN))
    model = build_click_model(method, tiny.schema)
    found = validation_metrics(model, method, tiny)
    columns = tiny.part("validation")
    logits, labels = click_logits(model, loss, columns), columns.labels[:, 0]
    assert found == {
        "auc": pytest.approx(auc(logits, labels)),
        "-log_loss": pytest.approx(-log_loss(logits, labels)),
        "gauc": pytest.approx(grouped_auc(logits, labels, columns.groups).value),
    }


def test_without_groups_there_is_no_grouped_auc(tmp_path):
    log = write_log(planted_clicks(300), tmp_path, group=None)
    method = replace(PAIRS, model=presets.lr())
    assert set(validation_metrics(build_click_model(method, log.schema), method, log)) == {"auc", "-log_loss"}


def test_what_cannot_be_built_is_named(tiny):
    with pytest.raises(ConfigError, match=r"embedding_l2 must not be negative, got -1\.0"):
        ClickMethodConfig(embedding_l2=-1.0)
    with pytest.raises(ConfigError, match="item_fields needs the tables of a catalog; pass items, or leave"):
        build_click_model(ClickMethodConfig(item_fields=ItemFieldsConfig(texts=True)), tiny.schema)
    with pytest.raises(ConfigError, match=r"method.model: num_outputs 2 needs linear heads"):
        build_click_model(ClickMethodConfig(model=presets.fm(dim=3), loss=JRCConfig()), tiny.schema)
