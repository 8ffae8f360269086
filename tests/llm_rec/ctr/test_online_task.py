"""Click models in one pass: the losses of both kinds, weights of rows, and a log read in its order."""

import numpy as np
import pytest
import torch

from ctr_models.interactions.presets import dcn_v2
from ctr_models.losses import BCEConfig, CrossEntropyConfig, PairwiseConfig, click_loss
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.online_task import OnlineClickTask
from llm_rec.errors import ConfigError
from llm_rec.training.online import OnlineConfig, train_online
from tests.llm_rec.ctr.worlds import small_log


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return small_log(tmp_path_factory.mktemp("log"))


def task_of(log, loss):
    torch.manual_seed(0)
    return OnlineClickTask(build_click_model(ClickMethodConfig(model=dcn_v2(dim=4), loss=loss), log.schema), loss)


def source_of(log):
    return ClickBatches(log, "train", ClickBatchConfig(batch_size=50, shuffle="none"))


@pytest.mark.parametrize("loss", [BCEConfig(pos_weight=0.5), CrossEntropyConfig()])
def test_weights_of_one_change_nothing_and_others_multiply_the_terms(log, loss):
    task, batch = task_of(log, loss), next(iter(source_of(log).epoch(1)))
    plain = task.loss(batch).total
    torch.testing.assert_close(plain, click_loss(loss, task.model(batch), task.labels(batch)).total)
    torch.testing.assert_close(task.loss(batch, torch.ones(50)).total, plain)
    first = torch.arange(50).lt(20).float()
    logits = task.model(batch)
    alone = click_loss(loss, logits[:20], task.labels(batch)[:20]).total
    torch.testing.assert_close(task.loss(batch, 3 * first).total, 3 * alone * 20 / 50)


def test_a_ranking_loss_takes_no_weights_of_rows(log):
    task, batch = task_of(log, PairwiseConfig()), next(iter(source_of(log).epoch(1)))
    assert task.loss(batch).total.isfinite()
    with pytest.raises(ConfigError, match="row weights need BCE or cross-entropy, and the loss is PairwiseConfig"):
        task.loss(batch, torch.ones(50))


def test_a_log_is_learned_in_its_order_from_what_the_untrained_model_says(log):
    task = task_of(log, BCEConfig())
    first = log.part("train").select(slice(0, 50))
    untrained = click_logits(task.model, BCEConfig(), first)
    result = train_online(OnlineConfig(window=2, device="cpu"), task, source_of(log))
    np.testing.assert_allclose(result.logits[:50], untrained, rtol=1e-6)
    np.testing.assert_array_equal(result.labels, log.part("train").labels[:, 0])
    assert np.abs(click_logits(task.model, BCEConfig(), first) - untrained).max() > 1e-4
