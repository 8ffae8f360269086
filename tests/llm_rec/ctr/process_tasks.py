"""What a process of several does: trains click and domain tasks on its share of fixed batches, in float64."""

import os
import socket
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from ctr_models.domains.presets import mmoe
from ctr_models.embeddings import NormalInit
from ctr_models.interactions.presets import dcn_v2
from ctr_models.layers import MLPConfig
from ctr_models.losses import BCEConfig
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.domain_method import DomainMethodConfig, build_domain_click_model
from llm_rec.ctr.domain_task import DomainTask
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.task import ClickTask
from llm_rec.data.columns import ClickLog
from llm_rec.training.checkpoint import save_weights
from llm_rec.training.trainer import Trainer, TrainerConfig
from tests.llm_rec.ctr.domain_worlds import small

SIZES = (13, 20, 7, 16, 31, 5, 18, 18, 9, 24)  # of ten batches: five updates of two processes
TRAINER = TrainerConfig(epochs=1, learning_rate=1e-2, optimizer="adam", monitor="auc", device="cpu", eps=1e-4)
INIT = NormalInit(std=0.3)


class Pieces:
    """Neighbouring rows of a log as batches of these sizes."""

    def __init__(self, log: ClickLog, sizes: tuple[int, ...]) -> None:
        self.columns, self.cuts = log.part("train"), np.cumsum([0, *sizes]).tolist()

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def epoch(self, epoch: int, first_step: int = 0):
        for step in range(first_step, len(self)):
            yield to_batch(self.columns.select(slice(*self.cuts[step : step + 2])))


def click_task(log: ClickLog) -> ClickTask:
    torch.manual_seed(0)
    model = dcn_v2(dim=4, num_layers=2, hidden=MLPConfig(widths=(6,)))
    method = ClickMethodConfig(model=model, init=INIT)
    return ClickTask(build_click_model(method, log.schema).double(), BCEConfig())


def domain_task(log: ClickLog) -> DomainTask:
    torch.manual_seed(0)
    method = DomainMethodConfig(model=small(mmoe()), init=INIT)
    return DomainTask(build_domain_click_model(method, log.schema).double())


TASKS = {"click": click_task, "domain": domain_task}


def train_all(log: ClickLog, sizes: tuple[int, ...], folder: Path) -> None:
    """Leaves the weights of each task in `folder`."""
    for name, build in TASKS.items():
        task = build(log)
        Trainer(TRAINER).fit(task, Pieces(log, sizes))
        if int(os.environ.get("RANK", "0")) == 0:
            save_weights(folder / f"{name}.safetensors", task.module)


def train_rank(rank: int, port: int, log: Path, folder: Path) -> None:
    """One of two gloo processes."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    train_all(ClickLog.load(log), SIZES, folder)
    torch.distributed.destroy_process_group()


def run_two_processes(log: Path, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("forkserver")
    started = [context.Process(target=train_rank, args=(rank, port, log, folder)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
