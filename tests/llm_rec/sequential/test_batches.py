import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.data import Interactions, Split, leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import DataError
from llm_rec.sequential.batches import BatchConfig, SequenceBatches
from llm_rec.sequential.negatives import PositionNegativesConfig, SharedNegativesConfig


def build(lengths, num_items=1000):
    """Users whose items are all different, so that every event can be told from its item."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.arange(1, offsets[-1] + 1, dtype=np.int64)
    log = Interactions(
        [str(u) for u in range(len(lengths))], offsets, items, None, num_items=max(num_items, len(items)), catalog="c"
    )
    none = np.zeros(0, dtype=np.int64)
    return Split(log=log, train_ends=offsets[1:], validation=none, test=none, leakage=None)


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("history", "positions", "targets", "negatives")
    )


lengths = st.lists(st.integers(0, 25), min_size=1, max_size=60).filter(lambda sizes: max(sizes) >= 2)
configs = st.sampled_from(
    [
        BatchConfig(max_length=6, tokens=12),
        BatchConfig(max_length=6, tokens=40, windows="all"),
        BatchConfig(max_length=6, tokens=None, users=4),
        BatchConfig(max_length=3, tokens=None, users=7, windows="all"),
        BatchConfig(max_length=30, tokens=60),
    ]
)


@given(lengths=lengths, config=configs, epoch=st.integers(0, 3))
def test_an_epoch_holds_every_target_of_its_windows_once(lengths, config, epoch):
    split = build(lengths)
    expected = []
    for user, size in enumerate(lengths):
        history = split.log.history(user).tolist()
        shown = history if config.windows == "all" else history[-config.max_length - 1 :]
        expected += shown[1:] if size >= 2 else []
    batches = list(SequenceBatches(split, config, None, seed=1).epoch(epoch))
    assert sorted(torch.cat([batch.targets for batch in batches]).tolist()) == sorted(expected)
    assert len(batches) == len(SequenceBatches(split, config, None, seed=1))


@given(lengths=lengths, config=configs)
def test_histories_are_right_padded_and_targets_follow_them(lengths, config):
    for batch in SequenceBatches(build(lengths), config, None, seed=0).epoch(0):
        mask = batch.history != 0
        sizes = mask.sum(1)
        assert len(batch.history) > 0
        assert batch.history.shape[1] == sizes.max() <= config.max_length
        assert (mask == (torch.arange(batch.history.shape[1]) < sizes[:, None])).all()
        assert torch.equal(batch.positions, mask.flatten().nonzero().squeeze(1))
        assert torch.equal(batch.history.flatten()[batch.positions] + 1, batch.targets)  # items count up in `build`


def test_batches_are_a_pure_function_of_seed_epoch_and_step():
    split = leave_one_out(planted_world(100, 60).log)
    config = BatchConfig(max_length=20, tokens=64)
    source = SequenceBatches(split, config, PositionNegativesConfig(number=2), seed=3)
    whole = list(source.epoch(2))
    list(source.epoch(7))
    resumed = list(SequenceBatches(split, config, PositionNegativesConfig(number=2), seed=3).epoch(2, first_step=4))
    assert len(resumed) == len(whole) - 4
    assert all(same(one, other) for one, other in zip(whole[4:], resumed, strict=True))
    for seed, epoch in ((3, 1), (4, 2)):
        other = SequenceBatches(split, config, PositionNegativesConfig(number=2), seed=seed).epoch(epoch)
        assert not any(
            same(one, two) for one, two in zip(whole, other, strict=True) if one.history.shape == two.history.shape
        )


def test_token_batches_are_even_and_hardly_padded():
    sizes = np.random.default_rng(0).geometric(0.12, size=4000)
    source = SequenceBatches(build(sizes), BatchConfig(max_length=50, tokens=256), None, seed=0)
    batches = list(source.epoch(0))
    tokens = np.array([len(batch.targets) for batch in batches])
    assert len(batches) > 64  # several chunks
    assert tokens.min() >= 256 - 50
    assert tokens.max() <= 256 + 2 * 50
    assert 1 - tokens.sum() / sum(batch.history.numel() for batch in batches) < 0.1


def test_users_meet_other_users_in_another_epoch():
    source = SequenceBatches(build([10] * 200), BatchConfig(max_length=50, tokens=128), None, seed=0)
    groups = [{frozenset(batch.history[:, 0].tolist()) for batch in source.epoch(epoch)} for epoch in (0, 1)]
    assert not groups[0] & groups[1]


def test_window_all_cuts_a_long_history_from_its_end():
    source = SequenceBatches(build([8]), BatchConfig(max_length=3, tokens=6, windows="all"), None, seed=0)
    rows = [row[row > 0].tolist() for batch in source.epoch(0) for row in batch.history]
    assert sorted(rows) == [[1], [2, 3, 4], [5, 6, 7]]


def test_negatives_avoid_the_items_of_their_own_user():
    split = leave_one_out(planted_world(100, 60).log)
    source = SequenceBatches(split, BatchConfig(max_length=20, tokens=64), PositionNegativesConfig(number=5), seed=0)
    for batch in source.epoch(0):
        owner = batch.positions // batch.history.shape[1]
        assert not (batch.negatives[:, :, None] == batch.history[owner][:, None, :]).any()


def test_log_probabilities_travel_with_the_batch():
    split = leave_one_out(planted_world(100, 60).log)
    negatives = SharedNegativesConfig(number=8, popularity=1.0, log_q=True)
    batch = next(SequenceBatches(split, BatchConfig(max_length=20, tokens=64), negatives, seed=0).epoch(0))
    q = torch.tensor(split.train_counts / split.train_counts.sum())
    assert torch.allclose(batch.neg_log_q.exp().double(), q[batch.negatives], atol=1e-6)
    assert torch.allclose(batch.pos_log_q.exp().double(), q[batch.targets], atol=1e-6)
    moved = batch.to("cpu")
    assert same(batch, moved)
    assert torch.equal(moved.pos_log_q, batch.pos_log_q)


def test_a_log_without_pairs_is_an_error():
    with pytest.raises(DataError, match="no user has two train events, so there is no next item to learn"):
        SequenceBatches(build([1, 1, 0]), BatchConfig(), None, seed=0)


def test_settings_out_of_range_are_named():
    with pytest.raises(ValueError, match="set exactly one of tokens and users, got tokens=2048 and users=3"):
        BatchConfig(users=3)
    with pytest.raises(ValueError, match="tokens must be at least 2 \\* max_length = 100, got 64"):
        BatchConfig(tokens=64)
    with pytest.raises(ValueError, match="max_length must be at least 1, got 0"):
        BatchConfig(max_length=0)
    with pytest.raises(ValueError, match="users must be at least 1, got 0"):
        BatchConfig(tokens=None, users=0)
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        SequenceBatches(build([3]), BatchConfig(), None, seed=-1)
