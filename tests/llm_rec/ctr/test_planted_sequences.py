"""Planted histories: the truth is what counting finds, and the log holds the world."""

import math
from dataclasses import replace

import numpy as np
import pytest

from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches, to_batch
from llm_rec.ctr.planted_sequences import PlantedSequencesConfig, mutual_information, planted_sequences
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import auc, click_metrics


def small(**settings):
    defaults = {"length": 4, "num_rows": 60_000, "num_categories": 4, "related": 1, "items_per_category": 3}
    return planted_sequences(PlantedSequencesConfig(**{**defaults, **settings}))


def categories_of(world):
    """(rows, length), the newest in column 0, and the targets."""
    history = to_batch(world.rows, world.config.length).history.ids.numpy()[:, :, 1] - 2
    return history[:, ::-1], world.rows.ids[:, 1] - 2


def test_the_information_of_a_cell_is_that_of_its_two_by_two_table():
    ratios, shares, base = np.array([[[1.5, 0.4], [0.0, 1.6], [1.0, 1.0]]]), np.array([0.2, 0.3, 0.5]), 0.3
    found = mutual_information(ratios, shares, base)
    for category in range(3):
        for position in range(2):
            q, given = shares[category], shares[category] * ratios[0, category, position]
            cells = {(1, 1): base * given, (1, 0): (1 - base) * q}
            cells |= {(0, 1): base * (1 - given), (0, 0): (1 - base) * (1 - q)}
            expected = 0.0
            for (x, y), cell in cells.items():
                row, column = cells[x, 0] + cells[x, 1], cells[0, y] + cells[1, y]
                expected += cell * math.log2(cell / (row * column)) if cell else 0.0
            assert found[0, category, position] == pytest.approx(expected, abs=1e-12)
    assert found[0, 2] == pytest.approx(0.0, abs=1e-12)


def test_counting_finds_the_planted_information():
    world = small(base=0.4, num_rows=600_000)
    history, targets = categories_of(world)
    clicks, truth = world.rows.labels[:, 0] > 0, world.mutual_information
    counted = np.zeros_like(truth)
    for target in range(4):
        of_target = targets == target
        y = clicks[of_target]
        for position in range(4):
            for category in range(4):
                x = history[of_target, position] == category
                for a in (x, ~x):
                    for b in (y, ~y):
                        joint = (a & b).mean()
                        counted[target, category, position] += joint * math.log2(joint / (a.mean() * b.mean()))
    assert truth.max() > 0.05
    np.testing.assert_allclose(counted, truth, atol=0.006)
    assert np.corrcoef(counted.ravel(), truth.ravel())[0, 1] > 0.99


def test_probabilities_are_those_of_the_equation_and_of_the_labels():
    world = small(base=0.3)
    history, targets = categories_of(world)
    for row in range(40):
        log_odds = math.log(0.3 / 0.7)
        for position in range(4):
            log_odds += math.log(world.ratios[targets[row], history[row, position], position])
        assert world.probabilities[row] == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-9)
    labels = world.rows.labels[:, 0]
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 1)):
        inside = (world.probabilities >= low) & (world.probabilities < high)
        assert labels[inside].mean() == pytest.approx(world.probabilities[inside].mean(), abs=0.015)
    assert auc(world.probabilities, labels) == pytest.approx(world.best_auc, abs=0.01)
    np.testing.assert_allclose(np.einsum("c,tcp->tp", world.shares, world.ratios), 1.0)


def test_without_a_click_categories_have_their_usual_shares():
    world = small()
    history, _ = categories_of(world)
    idle = history[world.rows.labels[:, 0] == 0]
    found = np.stack([np.bincount(idle[:, position], minlength=4) / len(idle) for position in range(4)])
    np.testing.assert_allclose(found, np.tile(world.shares, (4, 1)), atol=0.01)


@pytest.mark.parametrize("length", [1, 30, 400])
def test_length_makes_the_search_harder_and_not_the_task(length):
    world = planted_sequences(PlantedSequencesConfig(length=length, num_rows=1500))
    assert world.mutual_information.shape == (20, 20, length)
    assert 0.6 < world.best_auc < 0.9


def test_a_world_is_written_as_a_log(tmp_path):
    world = small(num_rows=400)
    log = world.write(tmp_path / "log")
    assert dict(log.rows) == {"train": 240, "validation": 60, "test": 100}
    assert log.schema.history == ("item", "category")
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=240, shuffle="none"), history_length=4)
    batch = next(source.epoch(1))
    expected = to_batch(world.rows, 4)
    assert batch.history.ids.equal(expected.history.ids[:240])
    assert batch.ids.equal(expected.ids[:240])
    assert (batch.history.ids[:, :, 0] - 2).div(3, rounding_mode="floor").equal(batch.history.ids[:, :, 1] - 2)
    assert np.array_equal(log.part("test").labels, world.rows.labels[300:])


def test_gauc_of_the_truth_is_its_auc_since_users_differ_by_chance_alone(tmp_path):
    world = small(num_rows=20_000)
    assert np.bincount(world.rows.groups).tolist() == [10] * 2_000
    log = world.write(tmp_path / "log")
    assert log.schema.group == "user"
    assert np.array_equal(log.part("test").groups, world.rows.groups[15_000:])
    labels = world.rows.labels[:, 0]
    found = click_metrics(np.log(world.probabilities / (1 - world.probabilities)), labels, groups=world.rows.groups)
    assert found.gauc.value == pytest.approx(found.auc, abs=0.02)


@pytest.mark.parametrize("length", [2, 4, 7])
def test_relevance_is_the_information_of_each_event_in_its_column(tmp_path, length):
    world = small(num_rows=50)
    part = world.write(tmp_path / "log").part("test")
    history = to_batch(part, length).history.ids
    found = world.relevance(part, length)
    assert found.shape == tuple(history.shape[:2])
    for row in range(len(part)):
        for column in range(found.shape[1]):
            position = found.shape[1] - column
            target, category = int(part.ids[row, 1]) - 2, int(history[row, column, 1]) - 2
            assert found[row, column] == world.mutual_information[target, category, position - 1]
    with pytest.raises(ConfigError, match="these rows have no histories; take rows of a planted log"):
        world.relevance(replace(part, windows=None), 3)


def test_the_seed_gives_the_world(tmp_path):
    first, again, other = (small(num_rows=200, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.rows.events.ids, again.rows.events.ids)
    assert np.array_equal(first.probabilities, again.probabilities)
    assert not np.array_equal(first.rows.events.ids, other.rows.events.ids)


def test_settings_that_make_no_world_are_named():
    for settings, message in (
        ({"related": 20}, "related must be at least 1 and below num_categories, got 20"),
        ({"strength": 0.0}, "base must lie in 0..1 and strength above 0, got 0.5 and 0.0"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"rows_per_user": 0}, "rows_per_user must be at least 1, got 0"),
        ({"test": 0.9}, r"validation and test must be above 0 and leave rows to train on, got \(0.15, 0.9\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            PlantedSequencesConfig(**settings)
