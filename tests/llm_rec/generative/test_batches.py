"""Every prefix of every train history is an example once, whatever the batches are cut from."""

import numpy as np
import pytest
import torch

from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.data.user_keys import user_keys
from llm_rec.errors import DataError
from llm_rec.generative.batches import GenerativeBatchConfig, GenerativeBatches, latest


@pytest.fixture(scope="module", name="split")
def fixture_split():
    return leave_one_out(planted_world(20, 24, num_clusters=3, lengths=(3, 9), seed=1).log)


def naive_examples(split, max_length):
    keys = user_keys(split.log.user_ids)
    found = []
    for user in range(split.log.num_users):
        items = split.log.items[split.log.offsets[user] : split.train_ends[user]].tolist()
        found += [(int(keys[user]), tuple(items[max(0, n - max_length) : n]), items[n]) for n in range(1, len(items))]
    return sorted(found)


def examples(batches):
    return sorted(
        (user, tuple(row for row in history if row), target)
        for batch in batches
        for history, user, target in zip(
            batch.history.tolist(), batch.users.tolist(), batch.targets.tolist(), strict=True
        )
    )


@pytest.mark.parametrize("sort_within", [1, 3])
def test_an_epoch_holds_every_prefix_once(split, sort_within):
    config = GenerativeBatchConfig(batch_size=7, max_length=4, sort_within=sort_within)
    source = GenerativeBatches(split, config, seed=3)
    batches = list(source.epoch(1))
    assert examples(batches) == naive_examples(split, 4)
    assert len(batches) == len(source)
    for batch in batches:
        assert ((batch.history[:, 1:] != 0) <= (batch.history[:, :-1] != 0)).all()  # right padded
        assert (batch.history[:, 0] != 0).all()


def test_batches_are_a_function_of_seed_epoch_and_step(split):
    config = GenerativeBatchConfig(batch_size=7)

    def histories(seed, epoch, first=0):
        return [b.history.tolist() for b in GenerativeBatches(split, config, seed).epoch(epoch, first)]

    assert histories(0, 2)[3:] == histories(0, 2, 3)
    assert histories(0, 1) != histories(0, 2)
    assert histories(0, 1) != histories(1, 1)


def test_sorting_saves_padding(split):
    def padding(sort_within):
        config = GenerativeBatchConfig(batch_size=8, sort_within=sort_within)
        return sum(int((b.history == 0).sum()) for b in GenerativeBatches(split, config, 0).epoch(1))

    assert padding(100) < padding(1) / 2


def test_a_log_without_train_pairs_is_refused():
    log = planted_world(5, 24, num_clusters=3, lengths=(3, 3)).log
    with pytest.raises(DataError, match="no user has two train events, so there is no next item to learn"):
        GenerativeBatches(leave_one_out(log), GenerativeBatchConfig(), 0)


def test_user_keys_depend_on_the_id_alone_and_are_positive():
    keys = user_keys(["a", "b", "c", "a"])
    assert keys.tolist() == [*user_keys(["a", "b"]), *user_keys(["c", "a"])]
    assert len(set(keys.tolist())) == 3
    assert (user_keys([str(n) for n in range(1000)]) > 0).all()
    assert len(np.unique(user_keys([str(n) for n in range(1000)]) % 100)) == 100


def test_latest_keeps_the_end_of_every_history():
    history = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [0, 0, 0, 0]])
    assert latest(history, 3).tolist() == [[2, 3, 4], [5, 6, 0], [0, 0, 0]]
    assert latest(history, 9).tolist() == history.tolist()


@pytest.mark.parametrize("name", ["batch_size", "max_length", "sort_within"])
def test_sizes_are_checked(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        GenerativeBatchConfig(**{name: 0})
