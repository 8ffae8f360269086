"""The loop against bare loops: updates, accumulation, schedules, groups, early stopping, errors."""

import json
import random
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from llm_rec.errors import TrainingError
from llm_rec.training import StepLoss, Trainer, TrainerConfig
from llm_rec.training.checkpoint import load_tensors
from llm_rec.training.schedule import learning_rate_factor
from tests.llm_rec.training.tiny import (
    Regression,
    Source,
    Stopped,
    linear,
    run_two_processes,
    same_tensors,
    transformer,
    without_times,
)

PLAIN = TrainerConfig(epochs=2, learning_rate=1e-2, monitor="score", device="cpu")


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_training_equals_a_bare_loop_bit_for_bit(optimizer, kind):
    ours, bare = linear(), linear()
    source = Source([8] * 5)
    Trainer(replace(PLAIN, optimizer=optimizer, weight_decay=0.1, clip_norm=0.5)).fit(ours, source)
    steps = kind(bare.module.parameters(), lr=1e-2, weight_decay=0.1, fused=True)
    for epoch in (1, 2):
        for batch in source.epoch(epoch):
            bare.loss(batch).total.backward()
            torch.nn.utils.clip_grad_norm_(bare.module.parameters(), 0.5)
            steps.step()
            steps.zero_grad()
    for one, other in zip(ours.module.parameters(), bare.module.parameters(), strict=True):
        assert torch.equal(one, other)


class Joined(Source):
    """Every `k` batches of a source as one."""

    def __init__(self, source, k):
        super().__init__([sum(source.sizes[i : i + k]) for i in range(0, len(source), k)])
        self.source, self.k = source, k

    def batch(self, epoch, step):
        parts = [self.source.batch(epoch, i) for i in range(step * self.k, min((step + 1) * self.k, len(self.source)))]
        joined = parts[0]
        return type(joined)(torch.cat([p.inputs for p in parts]), torch.cat([p.targets for p in parts]))


@pytest.mark.parametrize("accumulation", [2, 3, 4])
def test_accumulation_over_unequal_batches_equals_one_larger_batch(accumulation):
    source = Source([3, 8, 5, 2, 7, 4, 1], dtype=torch.float64)
    many, one = linear(dtype=torch.float64), linear(dtype=torch.float64)
    first = Trainer(replace(PLAIN, accumulation=accumulation)).fit(many, source)
    second = Trainer(PLAIN).fit(one, Joined(source, accumulation))
    torch.testing.assert_close(many.module.state_dict(), one.module.state_dict(), rtol=0, atol=1e-12)
    totals = [[entry["losses"]["total"] for entry in result.history] for result in (first, second)]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-12)
    assert first.history[0]["updates"] == len(Joined(source, accumulation))
    assert first.history[0]["examples"] == 30


def test_without_weights_every_batch_has_the_same_say():
    source = Source([1, 7])
    task, bare = linear(), linear()
    task.weighted = False
    Trainer(replace(PLAIN, epochs=1, accumulation=2)).fit(task, source)
    steps = torch.optim.AdamW(bare.module.parameters(), lr=1e-2, weight_decay=0.0)
    (sum(bare.loss(batch).total for batch in source.epoch(1)) / 2).backward()
    steps.step()
    torch.testing.assert_close(task.module.state_dict(), bare.module.state_dict())


def test_two_processes_equal_one_on_the_same_global_batches(tmp_path):
    config = replace(PLAIN, checkpoint_every=1, clip_norm=1.0)
    alone = linear(dtype=torch.float64)
    source = Source([3, 8, 5, 2, 7, 4, 6, 1, 9], dtype=torch.float64)
    result = Trainer(replace(config, accumulation=2)).fit(alone, source)
    run_two_processes(tmp_path, config)
    assert same_tensors(tmp_path / "model-0.safetensors", tmp_path / "model-1.safetensors")
    found = load_tensors(tmp_path / "model-0.safetensors")
    torch.testing.assert_close(found, dict(alone.module.state_dict()), rtol=0, atol=1e-9)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    for line, entry in zip(lines, result.history, strict=True):
        assert line["losses"]["total"] == pytest.approx(entry["losses"]["total"], rel=1e-9)
        assert line["examples"] == 45


def test_schedules_rise_then_fall_as_stated():
    def at(schedule):
        return [learning_rate_factor(schedule, update, updates=10, warmup=4) for update in range(10)]

    rise = [0.25, 0.5, 0.75, 1.0]
    assert at("constant") == rise + [1.0] * 6
    assert at("linear") == pytest.approx(rise + [1 - i / 6 for i in range(6)])
    assert at("cosine") == pytest.approx(rise + [(1 + np.cos(np.pi * i / 6)) / 2 for i in range(6)])
    assert learning_rate_factor("linear", 4, updates=4, warmup=4) == 1.0


def test_log_shows_the_learning_rate_of_the_schedule():
    config = replace(PLAIN, epochs=4, schedule="linear", warmup_steps=2)
    history = Trainer(config).fit(linear(), Source([4] * 2)).history
    assert [entry["learning_rate"] for entry in history] == pytest.approx(
        [1e-2, 5 / 6 * 1e-2, 3 / 6 * 1e-2, 1 / 6 * 1e-2]
    )


def test_a_plateau_cuts_the_learning_rate_to_a_tenth_also_after_a_resume(tmp_path):
    config = replace(PLAIN, epochs=7, schedule="plateau", checkpoint_every=3)
    scores = iter([1.0, 3.0, 3.0, 2.5, 9.0, 1.0, 0.0])
    for stop_at in ((4, 0), None):
        with suppress(Stopped):
            source = Source([4] * 3, stop_at=stop_at)
            Trainer(config, tmp_path).fit(linear(), source, validate=lambda: {"score": next(scores)})
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 1e-3, 1e-4, 1e-4, 1e-5])


def test_early_stopping_keeps_the_best_epoch_and_counts_evaluations(tmp_path):
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    task, seen = linear(), []

    def validate():
        assert not task.module.training
        seen.append({name: value.clone() for name, value in task.module.state_dict().items()})
        return {"score": next(scores), "other": float("nan")}

    config = replace(PLAIN, epochs=20, patience=2, eval_every=2)
    result = Trainer(config, tmp_path).fit(task, Source([4] * 3), validate=validate)
    assert (result.best_epoch, result.best_value, len(result.history)) == (4, 3.0, 8)
    assert [entry["metrics"].get("score") for entry in result.history] == [None, 1, None, 3, None, 2, None, 2.5]
    assert result.history[1]["metrics"]["other"] is None
    torch.testing.assert_close(dict(task.module.state_dict()), seen[1], rtol=0, atol=0)
    again = linear(seed=5)
    repeated = Trainer(config, tmp_path).fit(again, Source([4] * 3), validate=validate)
    assert repeated == result
    torch.testing.assert_close(dict(again.module.state_dict()), seen[1], rtol=0, atol=0)


def test_the_last_epoch_is_always_evaluated():
    task = linear()
    history = Trainer(replace(PLAIN, epochs=3, eval_every=2)).fit(task, Source([4]), validate=task.score).history
    assert [bool(entry["metrics"]) for entry in history] == [False, True, True]


def test_fit_leaves_the_global_generators_as_it_found_them_and_evaluation_changes_no_weight():
    def drawing_score():
        return {"score": torch.rand(()).item() + random.random()}

    often, never = transformer(), transformer()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Trainer(replace(PLAIN, epochs=4)).fit(never, Source([4] * 3))
    assert torch.equal(torch.rand(2), expected)
    last = TrainerConfig(epochs=4, learning_rate=1e-2, monitor="epoch", device="cpu")
    epochs = iter(range(1, 5))
    Trainer(last).fit(often, Source([4] * 3), validate=lambda: {"epoch": next(epochs), **drawing_score()})
    torch.testing.assert_close(often.module.state_dict(), never.module.state_dict(), rtol=0, atol=0)


def test_groups_get_their_own_decay_and_learning_rate():
    task, bare = linear(), linear()
    source = Source([8] * 4)

    def groups(module):
        return [
            {"params": [module.weight], "weight_decay": 0.5},
            {"params": [module.bias], "learning_rate_factor": 0.1},
        ]

    Trainer(PLAIN).fit(task, source, groups=groups)
    steps = torch.optim.AdamW(
        [
            {"params": [bare.module.weight], "weight_decay": 0.5},
            {"params": [bare.module.bias], "lr": 1e-3, "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    for epoch in (1, 2):
        for batch in source.epoch(epoch):
            bare.loss(batch).total.backward()
            steps.step()
            steps.zero_grad()
    torch.testing.assert_close(task.module.state_dict(), bare.module.state_dict())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            lambda m: [{"params": [m.weight]}],
            "parameter bias occurs in 0 parameter groups, it must be in one; add it to",
        ),
        (
            lambda m: [{"params": [m.weight, m.bias]}, {"params": [m.bias]}],
            "parameter bias occurs in 2 parameter groups",
        ),
        (
            lambda m: [{"params": [*m.parameters(), nn.Parameter(torch.zeros(3))]}],
            "group 0 holds a parameter of shape (3,)",
        ),
        (
            lambda m: [{"params": list(m.parameters()), "lr": 1.0}],
            "parameter group 0 has the unknown key 'lr'; known keys",
        ),
    ],
)
def test_groups_must_partition_the_trainable_parameters(groups, message):
    with pytest.raises(TrainingError) as error:
        Trainer(PLAIN).fit(linear(), Source([4]), groups=groups)
    assert message in str(error.value)


def test_a_loss_that_is_not_finite_names_epoch_and_updates_and_keeps_the_last_checkpoint(tmp_path):
    config = replace(PLAIN, epochs=3, checkpoint_every=3)
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 2, updates 5 to 7; lower the .* stays in"):
        Trainer(config, tmp_path).fit(linear(), Source([4] * 8, nan_at=(2, 4)))
    kept = load_tensors(sorted((tmp_path / "checkpoints").glob("update-*"))[-1] / "state.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())
    with pytest.raises(TrainingError, match="the loss became nan in epoch 2, updates 1 to 8"):
        Trainer(replace(config, checkpoint_every=None)).fit(linear(), Source([4] * 8, nan_at=(2, 4)))


class RootOfZero(Regression):
    """A finite loss with an infinite gradient."""

    def loss(self, batch):
        return StepLoss((self.module.weight * 0).abs().sqrt().sum(), {})


def test_a_weight_that_is_not_finite_is_found_although_the_loss_is():
    with pytest.raises(TrainingError, match="a weight became infinite or NaN in epoch 1, updates 1 to 1"):
        Trainer(PLAIN).fit(RootOfZero(nn.Linear(4, 1, bias=False)), Source([4]))


def test_what_cannot_be_run_is_refused_with_a_repair(tmp_path):
    task = linear()
    with pytest.raises(TrainingError, match="patience 2 needs a validation"):
        Trainer(replace(PLAIN, patience=2)).fit(task, Source([4]))
    with pytest.raises(TrainingError, match="schedule 'plateau' needs a validation"):
        Trainer(replace(PLAIN, schedule="plateau")).fit(task, Source([4]))
    with pytest.raises(TrainingError, match=r"no 'ndcg@10' to monitor; it gives: score"):
        Trainer(TrainerConfig(epochs=1, device="cpu")).fit(task, Source([4]), validate=task.score)
    with pytest.raises(TrainingError, match="score is nan after epoch 1"):
        Trainer(PLAIN).fit(task, Source([4]), validate=lambda: {"score": float("nan")})
    with pytest.raises(TrainingError, match="the source has no batch"):
        Trainer(PLAIN).fit(task, Source([]))
    with pytest.raises(TrainingError, match="precision fp16 needs a GPU"):
        Trainer(replace(PLAIN, precision="fp16")).fit(task, Source([4]))
    with pytest.raises(TrainingError, match="unknown tracker 'nosuch'; Accelerate knows"):
        Trainer(replace(PLAIN, trackers=("nosuch",))).fit(task, Source([4]))
    with pytest.raises(TrainingError, match="tracker 'dvclive' is not installed"):
        Trainer(replace(PLAIN, trackers=("dvclive",)), tmp_path).fit(task, Source([4]))
    task.module.requires_grad_(False)
    with pytest.raises(TrainingError, match="no trainable parameter"):
        Trainer(PLAIN).fit(task, Source([4]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1, or none, got 0"),
        ({"learning_rate": 0.0}, "learning_rate and eps must be positive, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative, got -1.0"),
        ({"clip_norm": 0.0}, "clip_norm must be positive, or none, got 0.0"),
        ({"betas": (0.9, 1.0)}, "betas must lie in [0, 1), got (0.9, 1.0)"),
    ],
)
def test_config_names_the_value_that_is_out_of_range(settings, message):
    with pytest.raises(ValueError) as error:
        TrainerConfig(**{"epochs": 1, **settings})
    assert message in str(error.value)


def test_bf16_trains_close_to_full_precision():
    source = Source([32] * 10)
    full, half = transformer(dropout=0.0), transformer(dropout=0.0)
    one = Trainer(PLAIN).fit(full, source).history[-1]["losses"]["total"]
    two = Trainer(replace(PLAIN, precision="bf16")).fit(half, source).history[-1]["losses"]["total"]
    assert two == pytest.approx(one, rel=0.05)
    assert one != two
    assert all(p.dtype == torch.float32 for p in half.module.parameters())


def test_losses_of_the_log_are_means_over_examples():
    source = Source([2, 6])
    task, bare = linear(), linear()
    config = replace(PLAIN, epochs=1, learning_rate=1e-30)
    (entry,) = Trainer(config).fit(task, source).history
    steps = [bare.loss(batch) for batch in source.epoch(1)]
    assert entry["losses"]["total"] == pytest.approx((2 * steps[0].total.item() + 6 * steps[1].total.item()) / 8)
    worst = [step.parts["worst"].item() for step in steps]
    assert entry["losses"]["worst"] == pytest.approx((2 * worst[0] + 6 * worst[1]) / 8)


def test_stop_in_the_middle_without_folder_keeps_nothing():
    with pytest.raises(Stopped):
        Trainer(PLAIN).fit(linear(), Source([4] * 3, stop_at=(1, 1)))
    assert without_times({"seconds": 1.0, "epoch": 1}) == {"epoch": 1}
