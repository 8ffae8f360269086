"""On a planted world a generative model learns; a stopped training goes on to the same bits; tables of codes matter."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ConfigError
from llm_rec.generative.batches import GenerativeBatchConfig, GenerativeBatches
from llm_rec.generative.model import GenerativeConfig, unique_codes
from llm_rec.generative.task import NextCodesTask
from llm_rec.metrics.lists import rank_lists
from llm_rec.metrics.ranking import per_target
from llm_rec.recipes.generative import GenerativeMethodConfig, some_targets
from llm_rec.recipes.material import Material
from llm_rec.recipes.methods import train_method
from llm_rec.training.trainer import Trainer, TrainerConfig
from semantic_ids.code_table import CodeTable
from tests.llm_rec.generative.worlds import CONFIGS, SHAPE, model

WORLD = planted_world(120, 36, num_clusters=4, lengths=(5, 12), seed=3)
SPLIT = leave_one_out(WORLD.log)


def clustered_codes():
    """The cluster, then the item's place in it."""
    clusters = WORLD.clusters[1:]
    places = np.array([(clusters[:item] == clusters[item]).sum() for item in range(36)])
    return CodeTable.from_codes(np.column_stack([clusters, places % 4, places // 4]), (4, 4, 4))


def material(codes):
    return Material(WORLD.catalog, SPLIT, None, codes, {})


def method(**trainer):
    return GenerativeMethodConfig(
        model=GenerativeConfig(
            shape=replace(SHAPE, num_layers=1, num_decoder_layers=1, dropout=0.0),
            num_users=0,
            head="level",
            positions=True,
        ),
        batches=GenerativeBatchConfig(batch_size=64),
        trainer=TrainerConfig(**{"epochs": 10, "learning_rate": 1e-2, "clip_norm": 1.0, "eval_every": 10, **trainer}),
        validation_targets=30,
    )


def test_it_learns_the_planted_walk():
    trained = train_method(method(), material(clustered_codes()), seed=0)
    found = per_target(rank_lists(trained.model, SPLIT, "test", k=10), (10,))["recall@10"]
    seen = ~WORLD.unseen[SPLIT.log.items[SPLIT.test]]
    assert found[seen].mean() > 0.5  # 10 of 36 items: .28 by chance
    losses = [entry["losses"] for entry in trained.results["train"].history]
    assert losses[-1]["loss"] < 0.8 * losses[0]["loss"]
    assert {"book_1", "book_2", "book_3"} < set(losses[0])


class Killed(RuntimeError):
    """The stop of a run from outside."""


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path):
    config = TrainerConfig(
        epochs=2, learning_rate=1e-2, schedule="inverse_sqrt", warmup_steps=5, checkpoint_every=3, device="cpu"
    )
    source = GenerativeBatches(SPLIT, GenerativeBatchConfig(batch_size=96), seed=1)
    assert len(source) > 6

    class Stopping(NextCodesTask):
        left = len(source) + 5

        def loss(self, batch):
            self.left -= 1
            if self.left < 0:
                raise Killed
            return super().loss(batch)

    def fresh():
        return model(CONFIGS["tiger"], unique_codes(clustered_codes()))

    whole, stopped = fresh(), fresh()
    Trainer(config).fit(NextCodesTask(whole), source)
    with pytest.raises(Killed):
        Trainer(config, tmp_path).fit(Stopping(stopped), source)
    resumed = fresh()
    Trainer(config, tmp_path).fit(NextCodesTask(resumed), source)
    for (name, one), other in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    moved = [not torch.equal(a, b) for a, b in zip(whole.parameters(), fresh().parameters(), strict=True)]
    assert all(moved)


def test_the_seed_decides_everything_and_colliding_codes_get_a_digit():
    codes = CodeTable.from_codes(np.stack([WORLD.clusters[1:]], 1), (4,))
    one, same, other = (train_method(method(epochs=1), material(codes), seed=s).model for s in (1, 1, 2))
    assert one.table.digit == "tiger"
    assert torch.equal(one.network.tokens.weight, same.network.tokens.weight)
    assert not torch.equal(one.network.tokens.weight, other.network.tokens.weight)


def test_a_part_of_the_validation_is_always_the_same_part():
    some = some_targets(SPLIT, 20)
    assert len(some.validation) == 20
    assert set(some.validation) < set(SPLIT.validation)
    np.testing.assert_array_equal(some.validation, some_targets(SPLIT, 20).validation)
    assert some_targets(SPLIT, None) is SPLIT
    assert some_targets(SPLIT, 10**6) is SPLIT


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="batches.max_length is 20 but model.max_length is 5; set both to one value"):
        GenerativeMethodConfig(model=GenerativeConfig(max_length=5))
    with pytest.raises(ConfigError, match="validation_targets must be at least 1, or none, got 0"):
        GenerativeMethodConfig(validation_targets=0)
