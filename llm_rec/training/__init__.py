"""One training loop over tasks, its phases and its checkpoints."""

from llm_rec.training.groups import ParameterGroup
from llm_rec.training.task import BatchSource, Movable, StepLoss, Task
from llm_rec.training.trainer import Trainer, TrainerConfig, TrainResult

__all__ = ["BatchSource", "Movable", "ParameterGroup", "StepLoss", "Task", "TrainResult", "Trainer", "TrainerConfig"]
