"""The processes of one encode job, as torchrun starts them: who am I, how many are we, wait for the others."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from llm_rec.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Workers:
    """`rank` of `size` processes; `barrier` returns when all have called it."""

    rank: int
    size: int
    barrier: Callable[[], None]


@contextmanager
def joined_workers() -> Iterator[Workers]:
    """The processes named by RANK and WORLD_SIZE; a single one without them.

    Barriers run over gloo on the CPU whatever else the program uses, and wait up to 30 days.
    Raises `ConfigError` when WORLD_SIZE promises more processes than torch.distributed finds.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Workers(rank=0, size=1, barrier=lambda: None)
        return
    import torch.distributed as dist

    patience = timedelta(days=30)
    mine = not dist.is_initialized()
    if mine:
        dist.init_process_group("gloo", timeout=patience)
    if dist.get_world_size() != size:
        raise ConfigError(
            f"WORLD_SIZE is {size} but torch.distributed joined {dist.get_world_size()} processes; "
            f"start the job with torchrun --nproc_per_node {size}"
        )
    group = dist.new_group(backend="gloo", timeout=patience)

    def barrier() -> None:
        dist.barrier(group=group)

    try:
        yield Workers(rank=dist.get_rank(), size=size, barrier=barrier)
    finally:
        if mine:
            dist.destroy_process_group()
