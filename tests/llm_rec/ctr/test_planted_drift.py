"""The planted log that changes: counts of exposures, wear, turns, and one pass that follows them."""

from collections import Counter

import numpy as np
import pytest
import torch

from ctr_models.interactions.presets import fm
from ctr_models.losses import BCEConfig
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.online_task import OnlineClickTask
from llm_rec.ctr.planted_drift import planted_drift, write_drift
from llm_rec.metrics.classification import auc
from llm_rec.training.online import OnlineConfig, train_online


def test_exposures_count_the_times_a_user_saw_an_ad():
    world = planted_drift(800, num_users=10, num_ads=5)
    seen = Counter()
    for user, ad, exposure in zip(world.users.tolist(), world.ads.tolist(), world.exposures.tolist(), strict=True):
        seen[user, ad] += 1
        assert exposure == seen[user, ad]


def test_clicks_follow_the_planted_rates_which_wear_out_and_turn():
    world = planted_drift(40_000, num_users=20, num_ads=10, wear=0.999, turns=1, turning=1.0)
    for n in (1, 100):
        near = np.abs(world.exposures - n) < 10
        assert world.labels[near].mean() == pytest.approx(world.probabilities[near].mean(), abs=0.03)
    even = planted_drift(40_000, num_users=20, num_ads=10, turns=1, turning=1.0)
    assert set(np.round(even.probabilities, 6)) == set(np.round(1 / (1 + np.exp([2.5, -0.5])), 6))
    halves = [
        {(u, a): p for u, a, p in zip(even.users[part], even.ads[part], even.probabilities[part], strict=True)}
        for part in (slice(0, 20_000), slice(20_000, None))
    ]
    assert all(halves[0][pair] != halves[1][pair] for pair in halves[0])
    with pytest.raises(ValueError, match=r"wear in \(0, 1\].*got 3, 0.5, 0.0, 60000, 100 and 40"):
        planted_drift(wear=0.0)


def test_one_pass_learns_anew_after_a_turn_and_forgets_what_was(tmp_path):
    world = planted_drift(24_000, num_users=30, num_ads=15, turns=1, turning=1.0, strength=2.5)
    log = write_drift(world, tmp_path)
    np.testing.assert_array_equal(log.part("train").labels[:, 0], world.labels)
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=200, shuffle="none"))

    def task():
        torch.manual_seed(0)
        return OnlineClickTask(build_click_model(ClickMethodConfig(model=fm(dim=8)), log.schema), BCEConfig())

    config = OnlineConfig(learning_rate=0.1, window=20, device="cpu")
    online = task()
    result = train_online(config, online, source)
    aucs = [window.metrics.auc for window in result.windows]
    assert len(aucs) == 6
    assert aucs[2] > 0.8
    assert aucs[3] < aucs[2] - 0.1
    assert aucs[5] > 0.8
    learned = click_logits(online.model, BCEConfig(), log.part("train"))
    before, after = slice(0, 12_000), slice(12_000, None)
    assert auc(learned[after], world.labels[after]) > 0.8
    assert auc(learned[before], world.labels[before]) < 0.3
