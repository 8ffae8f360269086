"""Two processes train a click model and a model of domains as one does on the same rows.

That holds for losses that are means over rows. Means by domain, a covariance of experts and statistics of batch
normalisation are those of each process's own rows, and so are other numbers on two processes.
"""

import pytest
import torch

from llm_rec.training.checkpoint import load_tensors
from tests.llm_rec.ctr.domain_worlds import tiny_log
from tests.llm_rec.ctr.process_tasks import SIZES, TASKS, run_two_processes, train_all


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    log = tiny_log(tmp_path_factory.mktemp("log"))
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    run_two_processes(log.path, two)
    train_all(log, tuple(first + second for first, second in zip(SIZES[::2], SIZES[1::2], strict=True)), one)
    return log, two, one


@pytest.mark.parametrize("name", TASKS)
def test_two_processes_equal_one_on_the_same_global_batches(folders, name):
    log, two, one = folders
    start = TASKS[name](log).module.state_dict()
    many, single = (load_tensors(folder / f"{name}.safetensors") for folder in (two, one))
    torch.testing.assert_close(many, single, rtol=0, atol=1e-9)
    assert any(not torch.allclose(single[key], start[key], atol=1e-3) for key in single)
