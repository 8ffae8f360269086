"""One pass: predicted before learned, equal to a naive loop, resumed bit for bit, warm optimiser, weights in order."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_rec.errors import TrainingError
from llm_rec.metrics.classification import click_metrics
from llm_rec.training import StepLoss, Trainer, TrainerConfig
from llm_rec.training.online import OnlineConfig, train_online
from tests.llm_rec.training.tiny import Stopped

CONFIG = OnlineConfig(learning_rate=0.05, window=3, num_buckets=4, device="cpu")


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    labels: Tensor
    number: int

    def to(self, device):
        return Batch(self.inputs.to(device), self.labels.to(device), self.number)


class Stream:
    """Rows whose truth turns round half way; notes what is asked for."""

    def __init__(self, steps=8, rows=20, stop_at=None, seen=None):
        self.steps, self.rows, self.stop_at = steps, rows, stop_at
        self.seen = [] if seen is None else seen

    def __len__(self):
        return self.steps

    def epoch(self, epoch, first_step=0):
        for step in range(first_step, self.steps):
            if step == self.stop_at:
                raise Stopped
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(self.rows, 4, generator=generator)
            sign = 1.0 if step < self.steps / 2 else -1.0
            labels = torch.bernoulli(torch.sigmoid(3 * sign * inputs[:, 0]), generator=generator)
            self.seen.append(("asked for", step))
            yield Batch(inputs, labels, step)


class Clicks:
    """Logistic loss of a small network with dropout; notes what it is asked and told."""

    def __init__(self, seen=None, seed=0, broken=False):
        torch.manual_seed(seed)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1))
        self.seen, self.broken = [] if seen is None else seen, broken

    def predict(self, batch):
        assert not self.module.training
        self.seen.append(("predicted", batch.number))
        return self.module(batch.inputs)[:, 0] * (torch.nan if self.broken else 1.0)

    def labels(self, batch):
        return batch.labels

    def loss(self, batch, weights=None):
        assert self.module.training
        self.seen.append(("learned", batch.number))
        terms = nn.functional.binary_cross_entropy_with_logits(
            self.module(batch.inputs)[:, 0], batch.labels, weight=weights, reduction="none"
        )
        return StepLoss(terms.mean(), {}, float(len(terms)))


def test_no_row_is_seen_before_it_is_predicted():
    seen = []
    train_online(CONFIG, Clicks(seen), Stream(seen=seen))
    assert seen == [(what, step) for step in range(8) for what in ("asked for", "predicted", "learned")]


def naive(steps=8, weights=None):
    """The loop in plain torch, in float32 as the real one."""
    task = Clicks()
    optimizer = torch.optim.Adam(task.module.parameters(), lr=0.05, fused=True)
    torch.manual_seed(0)
    logits, losses = [], []
    for step, batch in enumerate(Stream(steps).epoch(1)):
        with torch.no_grad():
            logits.append(task.module.eval()(batch.inputs)[:, 0])
        task.module.train()
        of_rows = None if weights is None else torch.from_numpy(weights[20 * step : 20 * step + 20]).float()
        loss = task.loss(batch, of_rows).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return task, torch.cat(logits).double().numpy(), losses


@pytest.mark.parametrize("weighted", [False, True])
def test_predictions_weights_and_figures_are_those_of_a_naive_loop(weighted):
    weights = np.random.default_rng(0).random(160) if weighted else None
    task = Clicks()
    result = train_online(CONFIG, task, Stream(), weights=weights)
    expected, logits, losses = naive(weights=weights)
    np.testing.assert_array_equal(result.logits, logits)
    same_tensors(dict(task.module.state_dict()), dict(expected.module.state_dict()))
    assert [window.metrics.rows for window in result.windows] == [60, 60, 40]
    assert [window.first_row for window in result.windows] == [0, 60, 120]
    for window, first in zip(result.windows, (0, 3, 6), strict=True):
        rows = slice(window.first_row, window.first_row + window.metrics.rows)
        assert window.metrics == click_metrics(logits[rows], result.labels[rows], num_buckets=4)
        assert window.loss == pytest.approx(np.mean(losses[first : first + 3]))
    assert result.metrics == click_metrics(logits, result.labels, num_buckets=4)
    assert not task.module.training


def test_weights_may_be_a_function_of_the_batch_and_all_zero_ones_learn_nothing():
    array = train_online(CONFIG, Clicks(), Stream(), weights=np.repeat(np.arange(1.0, 9.0), 20))
    function = train_online(CONFIG, Clicks(), Stream(), weights=lambda batch: torch.full((20,), batch.number + 1.0))
    np.testing.assert_array_equal(array.logits, function.logits)
    task = Clicks()
    train_online(CONFIG, task, Stream(), weights=np.zeros(160))
    same_tensors(dict(task.module.state_dict()), dict(Clicks().module.state_dict()))


@pytest.mark.parametrize("stop_at", range(8))
def test_stopped_anywhere_and_rerun_equals_a_pass_left_alone(tmp_path, stop_at):
    weights = np.random.default_rng(0).random(160)
    whole = Clicks()
    expected = train_online(CONFIG, whole, Stream(), weights=weights, folder=tmp_path / "whole")
    with pytest.raises(Stopped):
        train_online(CONFIG, Clicks(), Stream(stop_at=stop_at), weights=weights, folder=tmp_path / "stopped")
    again = Clicks(seed=9)  # whatever the module holds, the checkpoint is what counts
    again = Clicks() if stop_at < 3 else again  # before the first window there is none
    found = train_online(CONFIG, again, Stream(), weights=weights, folder=tmp_path / "stopped")
    same_tensors(dict(again.module.state_dict()), dict(whole.module.state_dict()))
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.windows == expected.windows


def test_a_finished_pass_returns_its_result_without_learning(tmp_path):
    expected = train_online(CONFIG, Clicks(), Stream(), folder=tmp_path)
    seen = []
    found = train_online(CONFIG, Clicks(seen, seed=4), Stream(seen=seen), folder=tmp_path)
    assert seen == []
    assert found.windows == expected.windows
    np.testing.assert_array_equal(found.logits, expected.logits)


def test_another_config_or_other_weights_in_the_folder_are_refused(tmp_path):
    train_online(CONFIG, Clicks(), Stream(), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"holds another run: config.learning_rate is 0.05 in the folder, 0.1 here"):
        train_online(replace(CONFIG, learning_rate=0.1), Clicks(), Stream(), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"inputs.weights is absent in the folder"):
        train_online(CONFIG, Clicks(), Stream(), weights=np.ones(160), folder=tmp_path)
    with pytest.raises(TrainingError, match=r"online.window is 3 in the folder, 4 here"):
        train_online(replace(CONFIG, window=4), Clicks(), Stream(), folder=tmp_path)


class Later(Stream):
    """The same rows from a step on."""

    def __init__(self, first, steps=8):
        super().__init__(steps)
        self.first = first

    def __len__(self):
        return self.steps - self.first

    def epoch(self, epoch, first_step=0):
        return super().epoch(epoch, self.first + first_step)


def same_tensors(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


class NoDropout(Clicks):
    def __init__(self, seed=0):
        super().__init__(seed=seed)
        self.module = nn.Sequential(*(part for part in self.module if not isinstance(part, nn.Dropout)))


def test_a_second_pass_goes_on_with_weights_and_moments_as_if_it_were_one(tmp_path):
    whole, second = NoDropout(), NoDropout(seed=5)
    expected = train_online(CONFIG, whole, Stream())
    train_online(CONFIG, NoDropout(), Stopping(5), folder=tmp_path / "first")
    found = train_online(CONFIG, second, Later(5), start=tmp_path / "first")
    same_tensors(dict(second.module.state_dict()), dict(whole.module.state_dict()))
    np.testing.assert_array_equal(found.logits, expected.logits[100:])


class Stopping(Stream):
    """The first steps of a stream."""

    def __init__(self, length, steps=8):
        super().__init__(steps)
        self.length = length

    def __len__(self):
        return self.length


def test_a_pass_can_start_from_a_run_of_the_trainer(tmp_path):
    task = NoDropout()
    trainer = TrainerConfig(epochs=2, learning_rate=0.05, optimizer="adam", device="cpu", checkpoint_every=100)
    Trainer(trainer, tmp_path / "offline").fit(task, Stopping(3))
    before = {name: value.clone() for name, value in task.module.state_dict().items()}
    warm = NoDropout(seed=7)
    result = train_online(replace(CONFIG, learning_rate=1e-12), warm, Stopping(3), start=tmp_path / "offline")
    torch.testing.assert_close(dict(warm.module.state_dict()), before)
    assert result.metrics.auc > 0.8
    with pytest.raises(TrainingError, match="holds no checkpoint to start from"):
        train_online(CONFIG, NoDropout(), Stream(), start=tmp_path / "nothing")


def test_one_pass_follows_a_turning_world_that_a_frozen_model_does_not():
    config = replace(CONFIG, learning_rate=0.2, window=20)
    result = train_online(config, NoDropout(), Stream(80))
    aucs = [window.metrics.auc for window in result.windows]
    assert aucs[1] > 0.85
    assert aucs[2] < min(aucs[1], aucs[3])  # the turn
    assert aucs[3] > 0.85
    frozen = NoDropout()
    train_online(config, frozen, Stopping(40, steps=80))
    logits = [frozen.predict(batch).detach() for batch in list(Stream(80).epoch(1))[60:]]
    labels = [batch.labels for batch in list(Stream(80).epoch(1))[60:]]
    assert click_metrics(torch.cat(logits).double().numpy(), torch.cat(labels).numpy()).auc < 0.2


def test_what_cannot_go_on_says_why():
    with pytest.raises(TrainingError, match=r"a prediction is not finite in batches 1 to 3; lower the learning rate"):
        train_online(CONFIG, Clicks(broken=True), Stream())
    with pytest.raises(TrainingError, match="batch 7 has 20 rows, but 10 weights"):
        train_online(CONFIG, Clicks(), Stream(), weights=np.ones(150))
    with pytest.raises(TrainingError, match="there are 161 weights, but the source gave 160 rows"):
        train_online(CONFIG, Clicks(), Stream(), weights=np.ones(161))
    with pytest.raises(TrainingError, match="the source has no batch; there is nothing to train on"):
        train_online(CONFIG, Clicks(), Stream(0))
    for settings, message in (
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"num_buckets": 0}, "num_buckets must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate and eps must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            OnlineConfig(**settings)
