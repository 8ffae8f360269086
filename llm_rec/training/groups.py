"""Parameter groups: which parameters an optimiser trains, each with its own weight decay and learning rate."""

from collections.abc import Callable, Sequence
from typing import NotRequired, TypedDict

from torch import nn

from llm_rec.errors import TrainingError


class ParameterGroup(TypedDict):
    """Parameters with settings of their own; what is left out comes from the trainer's config."""

    params: Sequence[nn.Parameter]
    weight_decay: NotRequired[float]
    learning_rate_factor: NotRequired[float]


GroupParameters = Callable[[nn.Module], Sequence[ParameterGroup]]


class OptimizerGroup(TypedDict):
    params: list[nn.Parameter]
    weight_decay: float
    learning_rate_factor: float


def optimizer_groups(module: nn.Module, groups: GroupParameters | None, weight_decay: float) -> list[OptimizerGroup]:
    """Groups for an optimiser; `TrainingError` unless each trainable parameter of `module` occurs exactly once.

    Without `groups` there is one group of all trainable parameters.
    """
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise TrainingError("the task has no trainable parameter; there is nothing to train")
    chosen = groups(module) if groups else [ParameterGroup(params=list(trainable.values()))]
    _check_partition(trainable, chosen)
    return [
        OptimizerGroup(
            params=list(group["params"]),
            weight_decay=group.get("weight_decay", weight_decay),
            learning_rate_factor=group.get("learning_rate_factor", 1.0),
        )
        for group in chosen
    ]


def _check_partition(trainable: dict[str, nn.Parameter], groups: Sequence[ParameterGroup]) -> None:
    names = {id(p): name for name, p in trainable.items()}
    uses = dict.fromkeys(trainable, 0)
    for number, group in enumerate(groups):
        unknown = sorted(set(group) - ParameterGroup.__required_keys__ - ParameterGroup.__optional_keys__)
        if unknown:
            raise TrainingError(
                f"parameter group {number} has the unknown key {unknown[0]!r}; "
                "known keys: params, weight_decay, learning_rate_factor"
            )
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise TrainingError(
                    f"parameter group {number} holds a parameter of shape {tuple(parameter.shape)} that is frozen or "
                    "not of this module; leave it out"
                )
            uses[names[id(parameter)]] += 1
    for name, count in uses.items():
        if count != 1:
            repair = "add it to one group, or freeze it" if count == 0 else "leave it in one group"
            raise TrainingError(f"parameter {name} occurs in {count} parameter groups, it must be in one; {repair}")
