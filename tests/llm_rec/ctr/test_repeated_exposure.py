"""Repeated-exposure weights: counted as by a loop, used as weights of the loss, taken out of probabilities again."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.encode import VocabularyConfig
from ctr_models.interactions import presets
from ctr_models.schema import UNKNOWN
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig, train_clicks
from llm_rec.ctr.repeated_exposure import (
    DebiasedCalibration,
    ExposureCounter,
    RepeatedExposureConfig,
    debiased,
    exposure_weights,
    mean_negative_weight,
    weigh_exposures,
)
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.log_spec import ByColumnConfig, ByFractionsConfig, ColumnSpec, LogSpec, TableFile
from llm_rec.errors import ConfigError, DataError
from llm_rec.metrics.calibration import sigmoid
from llm_rec.training.trainer import TrainerConfig

REW = RepeatedExposureConfig(decay=0.5, least=0.1)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40), st.lists(st.integers(0, 40), max_size=3))
def test_exposures_are_numbered_as_by_a_loop_however_rows_are_cut(rows, cuts):
    seen, expected = {}, []
    for pair in rows:
        seen[pair] = seen.get(pair, 0) + 1
        expected.append(seen[pair])
    table = np.array(rows, dtype=np.int64).reshape(-1, 2)
    counter, bounds = ExposureCounter(), sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    found = [counter.update(table[a:b, 0], table[a:b, 1]) for a, b in pairwise(bounds)]
    assert np.concatenate([np.zeros(0, dtype=np.int64), *found]).tolist() == expected


@given(st.integers(1, 30), st.floats(0.05, 1), st.floats(0, 1))
def test_weights_follow_the_formula_and_decay_1_weighs_nothing(number, decay, least):
    config = RepeatedExposureConfig(decay=decay, least=least)
    negative, positive = exposure_weights(np.array([number, number]), np.array([0.0, 1.0]), config)
    assert negative == pytest.approx(max(least, decay ** (number - 1)), rel=1e-6)
    assert positive == 1
    assert exposure_weights(np.array([number]), np.zeros(1), replace(config, decay=1.0)) == 1


def fitted_logistic(features, labels, weights):
    """Newton's method on the weighted log likelihood."""
    design = np.stack([np.ones(len(features)), features], axis=1)
    beta = np.zeros(2)
    for _ in range(30):
        p = sigmoid(design @ beta)
        gradient = design.T @ (weights * (labels - p))
        beta += np.linalg.solve((design * (weights * p * (1 - p))[:, None]).T @ design, gradient)
    return sigmoid(design @ beta)


def test_the_true_rate_is_recovered_from_data_with_weighted_negatives():
    rng = np.random.default_rng(0)
    features = rng.normal(size=200_000)
    truth = sigmoid(-2.0 + features)
    labels = (rng.random(len(truth)) < truth).astype(np.float64)
    numbers = rng.geometric(0.4, len(truth))
    weights = exposure_weights(numbers, labels, REW).astype(np.float64)
    mean = float(weights[labels < 0.5].mean())
    assert 0.5 < mean < 0.8
    q = fitted_logistic(features, labels, weights)
    assert np.abs(q - truth).mean() > 0.03
    assert np.abs(debiased(q, mean) - truth).mean() < 0.003
    found = DebiasedCalibration.of(q, labels, mean)
    assert found.before.ece > 0.03
    assert found.after.ece < 0.005
    assert found.before.predicted_over_actual > 1.2
    assert found.after.predicted_over_actual == pytest.approx(1, abs=0.02)


def test_weights_of_1_correct_nothing_and_rows_may_have_their_own():
    q = np.array([0.0, 0.2, 0.7, 1.0])
    np.testing.assert_allclose(debiased(q, 1.0), q, rtol=1e-15)
    np.testing.assert_allclose(debiased(q, np.array([1.0, 0.5, 0.5, 0.5])), [0, 0.2 * 0.5 / 0.9, 0.35 / 0.65, 1])
    odds = debiased(q[1:3], 0.3) / (1 - debiased(q[1:3], 0.3))
    np.testing.assert_allclose(odds, 0.3 * q[1:3] / (1 - q[1:3]))
    with pytest.raises(ValueError, match="the weight of negatives must be above 0, got 0.0; raise least"):
        debiased(q, 0.0)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Impressions in order of time; clicks depend on the item, repeats on the user."""
    folder, rng = tmp_path_factory.mktemp("exposures"), np.random.default_rng(0)
    rows = 6000
    user, item = rng.integers(0, 40, rows), rng.integers(0, 12, rows)
    click = rng.random(rows) < 0.05 + 0.03 * (item % 6)
    part = np.repeat(["train", "validation", "test"], [4000, 1000, 1000])
    frame = pd.DataFrame({"user": user, "item": item, "label": click.astype(int), "split": part})
    frame.loc[0, "item"] = 99  # seen once: unknown
    frame.to_parquet(folder / "rows.parquet")
    ids = VocabularyConfig(min_count=2)
    columns = tuple(ColumnSpec(name=name, encoder=ids) for name in ("user", "item"))
    spec = LogSpec(columns=columns, parts=ByColumnConfig(), group="user")
    return encode_log((TableFile(path=folder / "rows.parquet"),), spec, folder / "log")


def test_a_weighed_log_has_its_rows_and_a_weight_for_each(log, tmp_path):
    found = weigh_exposures(log, tmp_path / "log", REW)
    seen, train = {}, log.part("train")
    expected = []
    for (user, item), label in zip(train.ids.tolist(), train.labels[:, 0].tolist(), strict=True):
        seen[user, item] = seen.get((user, item), 0) + 1
        weight = max(0.1, 0.5 ** (seen[user, item] - 1))
        expected.append(1.0 if label or UNKNOWN in (user, item) else weight)
    assert train.ids[0, 1] == UNKNOWN
    np.testing.assert_allclose(found.part("train").weights, expected, rtol=1e-6)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(found.part(part).ids, log.part(part).ids)
    assert (found.part("test").weights == 1).all()
    negatives = np.array(expected)[train.labels[:, 0] == 0]
    assert mean_negative_weight(found.part("train")) == pytest.approx(negatives.mean())
    assert mean_negative_weight(train) == 1.0
    assert found.schema == replace(log.schema, weight="repeated_exposure")
    with pytest.raises(DataError, match="has the weights 'repeated_exposure' already; weigh the log without them"):
        weigh_exposures(found, tmp_path / "again", REW)
    with pytest.raises(DataError, match="has no field 'ad' with one id a row to count exposures by"):
        weigh_exposures(log, tmp_path / "again", replace(REW, item="ad"))


@pytest.mark.parametrize("shuffle", ["rows", "blocks", "none"])
def test_batches_carry_the_weights_of_their_rows(log, tmp_path, shuffle):
    found = weigh_exposures(log, tmp_path / "log", REW)
    columns = found.part("train")
    config = ClickBatchConfig(batch_size=300, shuffle=shuffle, block_rows=64, window_blocks=3)
    batches = list(ClickBatches(found, "train", config, 3).epoch(1))
    rows = torch.cat([torch.cat([b.ids.double(), b.labels.double(), b.weights[:, None].double()], 1) for b in batches])
    everything = np.concatenate([columns.ids, columns.labels, columns.weights[:, None]], axis=1, dtype=np.float64)
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, everything.tolist()))
    assert batches[0].to("cpu").weights.equal(batches[0].weights)


METHOD = ClickMethodConfig(
    model=presets.lr(),
    batches=ClickBatchConfig(batch_size=256),
    trainer=TrainerConfig(epochs=20, learning_rate=0.05, optimizer="adam", monitor="auc", device="cpu"),
)


def test_a_model_trained_with_weights_says_too_much_and_the_correction_takes_it_back(log, tmp_path):
    weighed = weigh_exposures(log, tmp_path / "log", REW)
    model = train_clicks(METHOD, weighed, seed=0).model
    q, columns = sigmoid(click_logits(model, METHOD.loss, weighed.part("test"))), weighed.part("test")
    found = DebiasedCalibration.of(q, columns.labels[:, 0], mean_negative_weight(weighed.part("train")), num_buckets=10)
    assert found.before.predicted_over_actual > 1.8
    assert found.after.predicted_over_actual == pytest.approx(1, abs=0.15)
    assert found.after.ece < found.before.ece / 3


def test_decay_1_trains_the_model_of_the_log_without_weights(log, tmp_path):
    method = replace(METHOD, trainer=replace(METHOD.trainer, epochs=1))
    ones = weigh_exposures(log, tmp_path / "log", replace(REW, decay=1.0))
    first, second = (train_clicks(method, found, seed=0).model.state_dict() for found in (log, ones))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def weighted_log(folder, weights):
    rows = len(weights)
    frame = pd.DataFrame({"user": np.arange(rows) % 3, "w": weights, "label": np.arange(rows) % 2})
    frame.to_parquet(folder / "rows.parquet")
    columns = (ColumnSpec(name="user", encoder=VocabularyConfig()),)
    spec = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.2, test=0.2), weight="w")
    files = (TableFile(path=folder / "rows.parquet"),)
    return encode_log(files, spec, folder / "log", chunk_rows=7), files, spec


def test_a_column_of_raw_files_may_hold_the_weights(tmp_path):
    log, files, spec = weighted_log(tmp_path, np.arange(30) / 4)
    assert log.schema.weight == "w"
    for part, rows in log.rows.items():
        weights, users = log.part(part).weights, log.part(part).ids[:, 0]
        assert weights.dtype == np.float32
        assert ((np.asarray(weights) * 4 % 3).astype(int) + 2 == users).all()  # ids by value, as all are as frequent
        assert rows == len(weights)
    without = replace(spec, weight=None)
    assert log_fingerprint(files, without) != log_fingerprint(files, spec)


@pytest.mark.parametrize("wrong", [-1.0, None])
def test_a_weight_below_0_or_none_is_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(DataError, match=r"is no weight; give every row a number of at least 0"):
        weighted_log(tmp_path, [1.0] * 20 + [wrong] + [1.0] * 9)
    assert not (tmp_path / "log").exists()


def test_what_is_no_weight_is_named():
    for settings_, message in (
        ({"decay": 0.0}, r"decay must be above 0 and at most 1, got 0\.0"),
        ({"decay": 1.5}, r"decay must be above 0 and at most 1, got 1\.5"),
        ({"least": -0.1}, r"least must lie in 0\.\.1, got -0\.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            RepeatedExposureConfig(**settings_)
