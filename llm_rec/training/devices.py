"""Where a training runs: on the first GPU, or on the CPU with memory that malloc keeps between steps."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, LoggerType

from llm_rec.codec import to_plain
from llm_rec.errors import TrainingError
from llm_rec.training.memory import keep_freed_memory
from llm_rec.training.trainer import DeviceChoice, TrainerConfig


def training_device(choice: DeviceChoice) -> torch.device:
    """The device of a training by one process; a CPU then keeps freed memory (`keep_freed_memory`)."""
    if choice == "auto" and torch.cuda.is_available():
        return torch.device("cuda")
    keep_freed_memory()
    return torch.device("cpu")


def build_accelerator(config: TrainerConfig, folder: Path | None) -> Accelerator:
    """Accelerate as `config` wants it, trackers started. `TrainingError` for fp16 on a CPU and for trackers that
    Accelerate does not know or that are not installed. A CPU keeps freed memory, as in `training_device`.
    """
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    if cpu and config.precision == "fp16":
        raise TrainingError("precision fp16 needs a GPU, and this run is on the CPU; use precision bf16 or no")
    for name in config.trackers:
        if name not in LoggerType.list():
            raise TrainingError(f"unknown tracker {name!r}; Accelerate knows {', '.join(LoggerType.list())}")
        if LoggerType(name) not in get_available_trackers():
            raise TrainingError(f"tracker {name!r} is not installed; install its package or leave it out of trackers")
    # Accelerate's state is global, but a second run in this process may ask for another precision or device.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision=config.precision,
        log_with=list(config.trackers) or None,
        project_dir=folder,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    if config.trackers:
        plain = to_plain(config)
        flat = plain if isinstance(plain, dict) else {}
        accelerator.init_trackers("llm-rec", {k: v if isinstance(v, int | float) else str(v) for k, v in flat.items()})
    return accelerator
