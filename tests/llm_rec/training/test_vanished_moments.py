"""Moments of rows that no batch touches never become denormal numbers, and no weight differs for it."""

import torch
from torch import nn

from ctr_models.optim import LazyAdam, RowSums
from llm_rec.training import TrainerConfig
from llm_rec.training.loop import MOMENTS_CHECK_EVERY, Loop
from llm_rec.training.optimizers import build_optimizer, drop_vanished_moments
from tests.llm_rec.training.tiny import Batch, Source, linear

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
CONFIG_OF_STEPS = TrainerConfig(epochs=1, optimizer="adam", learning_rate=1e-2)


def adam(parameter: nn.Parameter) -> torch.optim.Optimizer:
    group = {"params": [parameter], "weight_decay": 0.0, "learning_rate": 1e-2, "num_tables": 1, "optimizer": "dense"}
    return build_optimizer(CONFIG_OF_STEPS, [group], RowSums())


def denormals(optimizer: torch.optim.Optimizer) -> int:
    moments = [entry[name] for entry in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return sum(int((moment.ne(0) & moment.abs().lt(SMALLEST_NORMAL)).sum()) for moment in moments)


def rest(steps: int, *, dropping: bool) -> tuple[torch.Tensor, int]:
    """Weights after one step with a gradient and `steps` without, and how many denormal moments there were."""
    weights = nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer, found = adam(weights), 0
    weights.grad = torch.tensor([1.0, -1e-3, 1e-9, 1e-18, -1e-21, 3e5, 0.0])
    for step in range(steps):
        optimizer.step()
        weights.grad = torch.zeros(7)
        if dropping and (step + 1) % MOMENTS_CHECK_EVERY == 0:
            drop_vanished_moments(optimizer)
            found += denormals(optimizer)
        elif not dropping:
            found += denormals(optimizer)
    return weights.detach(), found


def test_weights_are_those_of_plain_adam_bit_for_bit() -> None:
    plain, without = rest(1100, dropping=False)
    ours, left = rest(1100, dropping=True)
    assert torch.equal(ours, plain)
    assert without > 0
    assert left == 0


def test_moments_that_still_move_a_weight_stay() -> None:
    weights = nn.Parameter(torch.zeros(2))
    optimizer = adam(weights)
    weights.grad = torch.tensor([1e-20, 1e-10])
    optimizer.step()
    before = optimizer.state[weights]["exp_avg"].clone()
    drop_vanished_moments(optimizer)
    assert torch.equal(optimizer.state[weights]["exp_avg"], before)
    assert optimizer.state[weights]["exp_avg_sq"].tolist()[0] == 0.0
    assert optimizer.state[weights]["exp_avg_sq"].tolist()[1] > 0.0


def test_row_optimisers_keep_their_state() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = LazyAdam([{"params": [table.weight], "optimizer": "lazy_adam"}], lr=1e-2)
    (table(torch.tensor([1])).sum() * 1e-20).backward()
    optimizer.step()
    before = {name: value.clone() for name, value in optimizer.state[table.weight].items()}
    drop_vanished_moments(optimizer)
    after = optimizer.state[table.weight]
    assert all(torch.equal(after[name], value) for name, value in before.items())


class FirstBatchOnly(Source):
    """Inputs are zeros after the first batch, so that the weights of a linear map get no gradient any more."""

    def batch(self, epoch: int, step: int) -> Batch:
        batch = super().batch(epoch, step)
        return batch if step == 0 else Batch(torch.zeros_like(batch.inputs), batch.targets)


def test_a_long_run_of_the_trainer_ends_without_denormal_moments() -> None:
    steps = 9 * MOMENTS_CHECK_EVERY  # among the steps at which plain Adam has them
    config = TrainerConfig(epochs=1, learning_rate=1e-3, device="cpu")
    task = linear()
    loop = Loop(config, None, task, FirstBatchOnly([2] * steps), validate=None, groups=None, inputs={})
    loop.run()
    assert loop.optimizer.state[task.module.weight]["exp_avg"].eq(0).all()
    assert denormals(loop.optimizer) == 0
