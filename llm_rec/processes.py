"""Several processes of one job, as a launcher (``accelerate launch``, ``torchrun``) starts them."""

import os
import sys
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
def own_group() -> Iterator[None]:
    """Close the connections to other processes that the block opened: a process that ends with them open may abort.

    Connections that were there before stay, and so do those of a block that fails, whose other end may wait for ever.
    """
    before = _connected()
    yield
    if _connected() and not before:
        import torch.distributed as dist

        dist.destroy_process_group()


def _connected() -> bool:
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


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
