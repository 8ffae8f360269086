"""Planted patterns: the order of three items decides, nothing else, and noise is what it is said to be."""

import numpy as np
import pytest

from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.planted_patterns import PlantedPatternsConfig, planted_patterns
from llm_rec.errors import ConfigError


def histories(world):
    """Each row's items and noise marks, from 0, the open pattern at the end among them."""
    for first, end in world.rows.windows.tolist():
        yield world.rows.events.ids[first:end, 0] - 2, world.noise[first:end]


def test_histories_are_patterns_once_noise_is_taken_out():
    world = planted_patterns(PlantedPatternsConfig(num_rows=300))
    known = {tuple(pattern) for pattern in world.patterns.tolist()}
    for row, (items, noise) in enumerate(histories(world)):
        target = int(world.rows.ids[row, 0]) - 2
        clean = items[~noise].tolist()
        *blocks, tail = (tuple(clean[place : place + 3]) for place in range(0, len(clean), 3))
        assert set(blocks) <= known
        assert len(blocks) == (8 if world.whole[row] else 7)
        assert (*tail, target) in known
        assert ((*tail, target) in blocks) == world.whole[row]


def test_rows_of_both_kinds_hold_the_same_items_in_histories_of_one_length():
    world = planted_patterns(PlantedPatternsConfig(num_rows=4000, noise=0.0, num_patterns=60))
    whole = world.whole
    lengths = world.rows.windows[:, 1] - world.rows.windows[:, 0]
    assert set(lengths.tolist()) == {3 * 8 + 2}
    for row, (items, _) in enumerate(histories(world)):
        tail = items[-2:].tolist()
        assert {*tail, int(world.rows.ids[row, 0]) - 2} <= set(items[:-2].tolist())
    targets = world.rows.ids[:, 0]
    shown = [np.bincount(targets[mask], minlength=62) / mask.sum() for mask in (whole, ~whole)]
    np.testing.assert_allclose(shown[0], shown[1], atol=0.02)


def test_scattered_items_are_marked_as_noise():
    world = planted_patterns(PlantedPatternsConfig(num_rows=500, noise=0.0))
    marks = np.array([int(noise.sum()) for _, noise in histories(world)])
    assert marks[world.whole].tolist() == [0] * int(world.whole.sum())
    assert set(marks[~world.whole].tolist()) == {3}


def test_the_noise_of_a_batch_stands_where_its_events_stand():
    world = planted_patterns(PlantedPatternsConfig(num_rows=50))
    batch = to_batch(world.rows, 12)
    mask = world.noise_mask(world.rows.windows, 12)
    assert mask.shape == batch.history.mask.shape
    for row, (_, noise) in enumerate(histories(world)):
        assert mask[row].tolist() == noise[-12:].tolist()
    long = to_batch(world.rows, 99)
    assert not world.noise_mask(world.rows.windows, 99)[~long.history.mask.numpy()].any()


def test_clicks_follow_the_pattern():
    world = planted_patterns(PlantedPatternsConfig(num_rows=20_000, chance=0.8))
    labels = world.rows.labels[:, 0]
    assert labels[world.whole].mean() == pytest.approx(0.8, abs=0.01)
    assert labels[~world.whole].mean() == pytest.approx(0.2, abs=0.01)
    assert world.best_auc == pytest.approx(0.8, abs=0.01)


def test_a_world_is_written_as_a_log_and_comes_from_its_seed(tmp_path):
    world = planted_patterns(PlantedPatternsConfig(num_rows=200))
    log = world.write(tmp_path / "log")
    assert dict(log.rows) == {"train": 120, "validation": 30, "test": 50}
    assert log.part("test").groups.tolist() == np.repeat(np.arange(15, 20), 10).tolist()
    assert to_batch(log.part("test"), 40).history.ids.equal(
        to_batch(world.rows.select(slice(150, 200)), 40).history.ids
    )
    same, other = (planted_patterns(PlantedPatternsConfig(num_rows=200, seed=seed)) for seed in (0, 1))
    assert np.array_equal(world.rows.events.ids, same.rows.events.ids)
    assert np.array_equal(world.noise, same.noise)
    assert not np.array_equal(world.patterns, other.patterns)


def test_settings_that_make_no_world_are_named():
    with pytest.raises(ConfigError, match="num_blocks must be at least 4, num_patterns 2 and num_items 3, got 3, 40"):
        PlantedPatternsConfig(num_blocks=3)
    with pytest.raises(ConfigError, match=r"noise must lie in 0..1 and chance in 0.5..1, got 0.2 and 0.3"):
        PlantedPatternsConfig(chance=0.3)
