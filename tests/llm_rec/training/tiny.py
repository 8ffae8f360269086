"""Tiny tasks that trainer tests train: a linear model, and a transformer with dropout that processes can run."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor, nn

from llm_rec.training import StepLoss, Trainer, TrainerConfig
from llm_rec.training.checkpoint import load_tensors, save_weights


@dataclass(frozen=True)
class Batch:
    inputs: Tensor
    targets: Tensor

    def to(self, device):
        return Batch(self.inputs.to(device), self.targets.to(device))


class Stopped(Exception):
    """Stands for the end of a process at a given step."""


class Source:
    """Batches as a pure function of (epoch, step); `sizes` gives the rows of each step; may stop or spoil a step."""

    def __init__(self, sizes, *, width=4, stop_at=None, nan_at=None, dtype=torch.float32, ready=None):
        self.sizes, self.width, self.dtype = sizes, width, dtype
        self.stop_at, self.nan_at, self.ready = stop_at, nan_at, ready

    def __len__(self):
        return len(self.sizes)

    def epoch(self, epoch, first_step=0):
        if self.ready is not None:
            self.ready.send(True)
        for step in range(first_step, len(self.sizes)):
            if (epoch, step) == self.stop_at:
                raise Stopped
            yield self.batch(epoch, step)

    def batch(self, epoch, step):
        generator = torch.Generator().manual_seed(1000 * epoch + step)
        inputs = torch.randn(self.sizes[step], self.width, generator=generator, dtype=self.dtype)
        if (epoch, step) == self.nan_at:
            inputs[0, 0] = float("nan")
        return Batch(inputs, inputs.sin().sum(1))


class Regression:
    """Squared error of any module with one output; weighs a batch by its rows."""

    def __init__(self, module, *, weighted=True):
        self.module, self.weighted = module, weighted

    def loss(self, batch):
        errors = (self.module(batch.inputs).squeeze(-1) - batch.targets).square()
        total = errors.mean()
        return StepLoss(total, {"worst": errors.detach().amax()}, float(len(errors)) if self.weighted else 1.0)

    def score(self):
        """Higher is better: minus the error on fixed rows."""
        return {"score": -self.loss(Source([64]).batch(10**6, 0)).total.item()}


def linear(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return Regression(nn.Linear(4, 1).to(dtype))


def transformer(seed=0, dropout=0.3):
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
    return Regression(nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Linear(1, 8), layer, nn.Flatten(), nn.Linear(32, 1)))


class Lookup(nn.Module):
    """Ids of 30 values made from inputs, a table of them with sparse gradients (ids repeat), and a linear map."""

    def __init__(self, *, sparse, dtype):
        super().__init__()
        self.table = nn.Embedding(30, 6, sparse=sparse, dtype=dtype)
        self.out = nn.Linear(6, 1, dtype=dtype)

    def forward(self, inputs):
        return self.out(self.table(inputs.abs().mul(10).long() % 30).tanh().sum(1))


def lookup(seed=0, *, sparse=True, dtype=torch.float32):
    torch.manual_seed(seed)
    return Regression(Lookup(sparse=sparse, dtype=dtype))


def lazy_adam(module):
    return [{"params": [module.table.weight], "optimizer": "lazy_adam"}, {"params": list(module.out.parameters())}]


def rowwise_adagrad(module):
    table = {"params": [module.table.weight], "optimizer": "rowwise_adagrad", "learning_rate": 0.1, "num_tables": 2}
    return [{"params": list(module.out.parameters())}, table]


CONFIG = TrainerConfig(
    epochs=3, learning_rate=1e-2, clip_norm=1.0, monitor="score", warmup_steps=5, schedule="cosine", checkpoint_every=4
)


def train_transformer(folder: Path, steps: int, ready) -> None:
    """What a killed process runs: trains in `folder`, then leaves ``model.safetensors`` there."""
    torch.set_num_threads(1)
    task = transformer()
    Trainer(CONFIG, folder).fit(task, Source([16] * steps, ready=ready), validate=task.score)
    save_weights(folder / "model.safetensors", task.module)


def train_in_process(rank: int, world: int, port: int, folder: Path, config: TrainerConfig, build, groups) -> None:
    """One of several gloo processes: stops in epoch 2, resumes, leaves its weights."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    for stop_at in ((2, 4), None):
        task = build(dtype=torch.float64)
        source = Source([3, 8, 5, 2, 7, 4, 6, 1, 9], dtype=torch.float64, stop_at=stop_at)
        with suppress(Stopped):
            Trainer(config, folder).fit(task, source, groups=groups)
            save_weights(folder / f"model-{rank}.safetensors", task.module)
    torch.distributed.destroy_process_group()


def run_two_processes(folder: Path, config: TrainerConfig, build=linear, groups=None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("forkserver")
    arguments = [(rank, 2, port, folder, config, build, groups) for rank in range(2)]
    started = [context.Process(target=train_in_process, args=each) for each in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]


def without_times(entry):
    return {key: value for key, value in entry.items() if key not in ("seconds", "examples_per_second")}


def same_tensors(one: Path, other: Path) -> bool:
    left, right = load_tensors(one), load_tensors(other)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
