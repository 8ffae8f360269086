"""Tables with sparse gradients in the trainer: equal to bare loops, to dense clipping, to themselves after a stop."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from ctr_models.optim import LazyAdam, RowSums, RowWiseAdagrad
from llm_rec.artifacts import read_json
from llm_rec.errors import TrainingError
from llm_rec.training import Trainer, TrainerConfig
from llm_rec.training.checkpoint import load_optimizer, load_tensors, optimizer_tensors
from llm_rec.training.groups import optimizer_groups
from llm_rec.training.optimizers import MixedOptimizer, build_optimizer
from tests.llm_rec.training.tiny import (
    CONFIG,
    Source,
    Stopped,
    lazy_adam,
    linear,
    lookup,
    rowwise_adagrad,
    run_two_processes,
    same_tensors,
)

PLAIN = TrainerConfig(epochs=2, learning_rate=1e-2, monitor="score", device="cpu")
SHORT = replace(CONFIG, epochs=2, checkpoint_every=1, accumulation=2, device="cpu")


def _row_optimizer(groups, table):
    return LazyAdam([table], lr=1e-2) if groups is lazy_adam else RowWiseAdagrad([table], lr=0.1, num_tables=2)


@pytest.mark.parametrize("groups", [lazy_adam, rowwise_adagrad])
def test_training_equals_a_bare_loop_over_two_optimisers_bit_for_bit(groups):
    ours, bare = lookup(), lookup()
    source = Source([8] * 5)
    Trainer(PLAIN).fit(ours, source, groups=groups)
    steps = [
        _row_optimizer(groups, bare.module.table.weight),
        torch.optim.AdamW(bare.module.out.parameters(), lr=1e-2, weight_decay=0.0, fused=True),
    ]
    for epoch in (1, 2):
        for batch in source.epoch(epoch):
            bare.loss(batch).total.backward()
            for step in steps:
                step.step()
                step.zero_grad()
    torch.testing.assert_close(ours.module.state_dict(), bare.module.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("groups", [lazy_adam, rowwise_adagrad])
def test_stopped_at_any_update_and_rerun_equals_a_run_left_alone(tmp_path, groups):
    def run(folder, stop_at=None):
        task = lookup()
        Trainer(SHORT, folder).fit(task, Source([8] * 5, stop_at=stop_at), validate=task.score, groups=groups)
        return dict(task.module.state_dict())

    def states(folder):
        found = load_tensors(folder / "checkpoints" / "update-00000006" / "state.safetensors")
        return {name: value for name, value in found.items() if name.startswith(("module", "optimizer"))}

    weights = run(tmp_path / "alone")
    for stop_at in [(1, 2), (1, 4), (2, 0), (2, 3)]:
        folder = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(Stopped):
            run(folder, stop_at)
        torch.testing.assert_close(run(folder), weights, rtol=0, atol=0)
        assert states(folder).keys() == states(tmp_path / "alone").keys()
        torch.testing.assert_close(states(folder), states(tmp_path / "alone"), rtol=0, atol=0)
    adam = {f"optimizer.table.weight.{key}" for key in ("exp_avg", "exp_avg_sq", "step")}
    keys = {key for key in states(tmp_path / "alone") if key.startswith("optimizer.table")}
    assert keys == (adam if groups is lazy_adam else {"optimizer.table.weight.sum"})


@pytest.mark.parametrize("groups", [lazy_adam, rowwise_adagrad])
def test_accumulation_equals_one_larger_batch(groups):
    """Two batches of one update have the rows of both, summed by their weights."""

    class Whole(Source):
        def batch(self, epoch, step):
            first, second = (Source.batch(parts, epoch, 2 * step + i) for i in range(2))
            return type(first)(torch.cat([first.inputs, second.inputs]), torch.cat([first.targets, second.targets]))

    parts = Source([3, 8, 5, 2], dtype=torch.float64)
    many, one = lookup(dtype=torch.float64), lookup(dtype=torch.float64)
    Trainer(replace(PLAIN, accumulation=2, clip_norm=0.5)).fit(many, parts, groups=groups)
    Trainer(replace(PLAIN, clip_norm=0.5)).fit(one, Whole([11, 7]), groups=groups)
    torch.testing.assert_close(many.module.state_dict(), one.module.state_dict(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [lazy_adam, rowwise_adagrad])
def test_two_processes_equal_one_on_the_same_global_batches(tmp_path, groups):
    config = replace(PLAIN, checkpoint_every=1, clip_norm=1.0)
    alone = lookup(dtype=torch.float64)
    source = Source([3, 8, 5, 2, 7, 4, 6, 1, 9], dtype=torch.float64)
    Trainer(replace(config, accumulation=2)).fit(alone, source, groups=groups)
    run_two_processes(tmp_path, config, lookup, groups)
    assert same_tensors(tmp_path / "model-0.safetensors", tmp_path / "model-1.safetensors")
    found = load_tensors(tmp_path / "model-0.safetensors")
    torch.testing.assert_close(found, dict(alone.module.state_dict()), rtol=0, atol=1e-9)


def test_clipping_scales_the_moves_of_table_and_network():
    clipped, free = lookup(), lookup()
    Trainer(replace(PLAIN, clip_norm=1e-3)).fit(clipped, Source([8] * 5), groups=rowwise_adagrad)
    Trainer(PLAIN).fit(free, Source([8] * 5), groups=rowwise_adagrad)
    assert not torch.equal(clipped.module.table.weight, free.module.table.weight)
    assert not torch.equal(clipped.module.out.weight, free.module.out.weight)


def test_a_group_starts_from_its_own_learning_rate_and_follows_the_schedule():
    def groups(module):
        table = {"params": [module.table.weight], "optimizer": "lazy_adam", "learning_rate": 0.5}
        return [table | {"learning_rate_factor": 0.1}, {"params": list(module.out.parameters())}]

    ours, bare = lookup(), lookup()
    source = Source([8] * 4)
    Trainer(replace(PLAIN, epochs=1, warmup_steps=4)).fit(ours, source, groups=groups)
    table = LazyAdam([bare.module.table.weight])
    network = torch.optim.AdamW(bare.module.out.parameters(), weight_decay=0.0)
    for update, batch in enumerate(source.epoch(1), start=1):
        bare.loss(batch).total.backward()
        table.param_groups[0]["lr"], network.param_groups[0]["lr"] = 0.05 * update / 4, 0.01 * update / 4
        for step in (table, network):
            step.step()
            step.zero_grad()
    torch.testing.assert_close(ours.module.state_dict(), bare.module.state_dict())


def _group(**settings):
    return lambda m: [{"params": [m.table.weight], **settings}, {"params": list(m.out.parameters())}]


@pytest.mark.parametrize(
    ("sparse", "decay", "groups", "message"),
    [
        (
            True,
            0.0,
            None,
            "table table has sparse gradients, which no dense optimiser takes; put it in a group with opt",
        ),
        (
            False,
            0.0,
            lazy_adam,
            "table table has dense gradients, and lazy_adam takes sparse ones; build it with sparse=",
        ),
        (
            True,
            0.1,
            lazy_adam,
            "group 0 is trained by lazy_adam, and the trainer's weight_decay 0.1 means every row in",
        ),
        (
            True,
            0.0,
            _group(optimizer="sgd"),
            "group 0 has the unknown optimizer 'sgd'; known: dense, rowwise_adagrad, laz",
        ),
        (
            True,
            0.0,
            _group(optimizer="lazy_adam", num_tables=2),
            "parameter group 0: num_tables belongs to rowwise_adagrad, not lazy_adam; leave it out",
        ),
    ],
)
def test_groups_that_cannot_be_trained_are_refused_with_a_repair(sparse, decay, groups, message):
    with pytest.raises(TrainingError) as error:
        Trainer(replace(PLAIN, weight_decay=decay)).fit(lookup(sparse=sparse), Source([4]), groups=groups)
    assert message in str(error.value)


def test_lazy_decay_must_be_the_groups_own_and_moves_touched_rows_alone():
    task = lookup()
    before = task.module.table.weight.detach().clone()
    source = Source([1])
    config = replace(PLAIN, epochs=1, weight_decay=0.1)
    Trainer(config).fit(task, source, groups=_group(optimizer="rowwise_adagrad", weight_decay=0.3))
    touched = torch.zeros(30, dtype=torch.bool)
    touched[source.batch(1, 0).inputs.abs().mul(10).long() % 30] = True
    assert torch.equal((task.module.table.weight != before).any(1), touched)


def test_a_dense_table_is_adam_with_l2_over_every_row():
    """The dense-exact choice: a row that no batch holds decays like all others, unlike under a row optimiser."""
    task, bare = lookup(sparse=False), lookup(sparse=False)
    before = bare.module.table.weight.detach().clone()
    source = Source([1] * 3)
    Trainer(replace(PLAIN, optimizer="adam", weight_decay=0.1)).fit(task, source)
    steps = torch.optim.Adam(bare.module.parameters(), lr=1e-2, weight_decay=0.1)
    for epoch in (1, 2):
        for batch in source.epoch(epoch):
            bare.loss(batch).total.backward()
            steps.step()
            steps.zero_grad()
    torch.testing.assert_close(task.module.state_dict(), bare.module.state_dict())
    assert (task.module.table.weight != before).any(1).all()


def test_another_row_optimiser_in_the_same_folder_is_refused(tmp_path):
    Trainer(PLAIN, tmp_path).fit(lookup(), Source([4]), groups=lazy_adam)
    with pytest.raises(
        TrainingError, match=r"row_optimizers\.table\.weight is lazy_adam in the folder, rowwise_adagrad"
    ):
        Trainer(PLAIN, tmp_path).fit(lookup(), Source([4]), groups=rowwise_adagrad)


def test_a_run_without_tables_does_not_mention_them(tmp_path):
    Trainer(PLAIN, tmp_path).fit(linear(), Source([4]))
    assert "row_optimizers" not in read_json(tmp_path / "checkpoints" / "run.json")


def _mixed(module):
    groups = optimizer_groups(module, rowwise_adagrad, weight_decay=0.0, learning_rate=1e-2)
    return build_optimizer(PLAIN, groups, RowSums())


def _steps(task, optimizer, epoch):
    for batch in Source([8] * 3).epoch(epoch):
        task.loss(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("through", ["state_dict", "checkpoint"])
def test_state_of_a_mixed_optimiser_goes_to_another_bit_for_bit(through):
    task, other = lookup(), lookup(seed=1)
    optimizer, restored = _mixed(task.module), _mixed(other.module)
    assert isinstance(optimizer, MixedOptimizer)
    _steps(task, optimizer, 1)
    other.module.load_state_dict(task.module.state_dict())
    if through == "state_dict":
        restored.load_state_dict(deepcopy(optimizer.state_dict()))  # torch would share its tensors
    else:
        load_optimizer(restored, other.module, optimizer_tensors(optimizer, task.module))
    _steps(task, optimizer, 2)
    _steps(other, restored, 2)
    torch.testing.assert_close(other.module.state_dict(), task.module.state_dict(), rtol=0, atol=0)


def test_one_kind_of_group_needs_no_mixture():
    groups = optimizer_groups(nn.Linear(2, 1), None, weight_decay=0.0, learning_rate=1e-2)
    assert type(build_optimizer(PLAIN, groups, RowSums())) is torch.optim.AdamW


def test_a_closure_is_evaluated_once():
    task = lookup()
    optimizer = _mixed(task.module)
    before = task.module.table.weight.detach().clone()
    losses = []

    def closure():
        loss = task.loss(Source([8]).batch(1, 0)).total
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    assert optimizer.step(closure) == losses[0]
    assert len(losses) == 1
    assert not torch.equal(before, task.module.table.weight)
