"""Floors on the planted world of domains: parts of their own win the tail that contradicts the head."""

from dataclasses import replace

import pytest

from ctr_models.domains.presets import PRESETS
from ctr_models.embeddings import NormalInit
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.d_train import DTrainConfig
from llm_rec.ctr.domain_evaluation import score_units
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.ctr.domain_training import train_domains
from llm_rec.ctr.planted_domains import planted_domains, write_domains
from llm_rec.training.trainer import TrainerConfig

WORLD = planted_domains()
METHOD = DomainMethodConfig(
    model=replace(PRESETS["shared_bottom"](), dim=8),
    init=NormalInit(std=0.1),
    batches=ClickBatchConfig(batch_size=512),
    trainer=TrainerConfig(epochs=6, learning_rate=0.02, optimizer="adam", monitor="macro_auc", device="cpu"),
)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_domains(WORLD, tmp_path_factory.mktemp("learning"))


def figures(method, log):
    model = train_domains(method, log, seed=0).model
    return score_units(model, log, log.part("test"), "domain").metrics()


def test_towers_of_their_own_win_the_tail_over_one_shared_tower(log):
    shared = figures(replace(METHOD, model=replace(METHOD.model, heads="root")), log)
    own = figures(METHOD, log)
    best = WORLD.best_auc(2)
    assert best > 0.9
    assert own.by_domain["d2"].auc > shared.by_domain["d2"].auc + 0.05
    assert own.worst["auc"] > shared.worst["auc"] + 0.05
    assert own.by_domain["d0"].auc > shared.by_domain["d0"].auc - 0.02
    assert shared.pooled.auc > shared.worst["auc"] + 0.05  # what a pooled figure would hide


@pytest.mark.slow
def test_training_the_tails_head_alone_does_not_lose_what_joint_training_found(log):
    joint = figures(METHOD, log)
    d_train = figures(replace(METHOD, d_train=DTrainConfig()), log)
    assert d_train.macro["auc"] > joint.macro["auc"] - 0.02
    assert d_train.worst["auc"] > joint.worst["auc"] - 0.02
