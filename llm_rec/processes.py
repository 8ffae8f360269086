"""Several processes of one job, as a launcher (``accelerate launch``, ``torchrun``) starts them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_first() -> bool:
    """Whether this process writes and speaks for all; a lone process does."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_all() -> None:
    """Return when every process of the job is here; at once in a lone process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available()).wait_for_everyone()


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside the block: figures then do not depend on the machine's load or its cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
