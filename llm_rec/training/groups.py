"""Parameter groups: which parameters an optimiser trains, each with its own weight decay and learning rate.

A group of large tables may have a row optimiser, whose updates cost what the batch costs, not what the table does.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NotRequired, TypeAlias, TypedDict, get_args

from torch import nn

from llm_rec.errors import TrainingError

OptimizerKind: TypeAlias = Literal["dense", "rowwise_adagrad", "lazy_adam"]


class ParameterGroup(TypedDict):
    """Parameters with settings of their own; what is left out comes from the trainer's config.

    The group's learning rate is ``learning_rate * learning_rate_factor``, times the schedule. `optimizer` is "dense"
    (Adam or AdamW, as the config says) or a row optimiser of `ctr_models.optim` for tables with sparse gradients:
    there `weight_decay` is lazy L2 on the rows of a batch, another algorithm than the config's, so it is never taken
    from there. `num_tables` is the number of embedding sets in a table ("rowwise_adagrad" alone).
    """

    params: Sequence[nn.Parameter]
    weight_decay: NotRequired[float]
    learning_rate: NotRequired[float]
    learning_rate_factor: NotRequired[float]
    optimizer: NotRequired[OptimizerKind]
    num_tables: NotRequired[int]


GroupParameters = Callable[[nn.Module], Sequence[ParameterGroup]]


class OptimizerGroup(TypedDict):
    params: list[nn.Parameter]
    weight_decay: float
    learning_rate: float
    optimizer: OptimizerKind
    num_tables: int


def optimizer_groups(
    module: nn.Module, groups: GroupParameters | None, *, weight_decay: float, learning_rate: float
) -> list[OptimizerGroup]:
    """Groups for an optimiser; `TrainingError` unless each trainable parameter of `module` occurs exactly once.

    Without `groups` there is one group of all trainable parameters.
    """
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not trainable:
        raise TrainingError("the task has no trainable parameter; there is nothing to train")
    chosen = groups(module) if groups else [ParameterGroup(params=list(trainable.values()))]
    _check_partition(trainable, chosen)
    found = [
        OptimizerGroup(
            params=list(group["params"]),
            weight_decay=_weight_decay(number, group, weight_decay),
            learning_rate=group.get("learning_rate", learning_rate) * group.get("learning_rate_factor", 1.0),
            optimizer=_kind(number, group),
            num_tables=group.get("num_tables", 1),
        )
        for number, group in enumerate(chosen)
    ]
    _check_tables(module, found)
    return found


def _kind(number: int, group: ParameterGroup) -> OptimizerKind:
    kind = group.get("optimizer", "dense")
    if kind not in get_args(OptimizerKind):
        raise TrainingError(
            f"parameter group {number} has the unknown optimizer {kind!r}; known: {', '.join(get_args(OptimizerKind))}"
        )
    if "num_tables" in group and kind != "rowwise_adagrad":
        raise TrainingError(
            f"parameter group {number}: num_tables belongs to rowwise_adagrad, not {kind}; leave it out"
        )
    return kind


def _weight_decay(number: int, group: ParameterGroup, default: float) -> float:
    if group.get("optimizer", "dense") == "dense" or "weight_decay" in group:
        return group.get("weight_decay", default)
    if default > 0:
        raise TrainingError(
            f"parameter group {number} is trained by {group['optimizer']}, and the trainer's weight_decay {default} "
            "means every row in every update; give the group its own, which decays the rows of a batch alone, or 0"
        )
    return 0.0


def _check_tables(module: nn.Module, groups: Sequence[OptimizerGroup]) -> None:
    """Sparse gradients go to row optimisers, and only they."""
    kinds = {id(p): group["optimizer"] for group in groups for p in group["params"]}
    for name, table in module.named_modules():
        if isinstance(table, nn.Embedding | nn.EmbeddingBag) and id(table.weight) in kinds:
            kind = kinds[id(table.weight)]
            if table.sparse and kind == "dense":
                raise TrainingError(
                    f"table {name} has sparse gradients, which no dense optimiser takes; put it in a group with "
                    "optimizer rowwise_adagrad or lazy_adam, or build it with sparse=False"
                )
            if not table.sparse and kind != "dense":
                raise TrainingError(
                    f"table {name} has dense gradients, and {kind} takes sparse ones; build it with sparse=True"
                )


def _check_partition(trainable: dict[str, nn.Parameter], groups: Sequence[ParameterGroup]) -> None:
    names = {id(p): name for name, p in trainable.items()}
    uses = dict.fromkeys(trainable, 0)
    for number, group in enumerate(groups):
        unknown = sorted(set(group) - ParameterGroup.__required_keys__ - ParameterGroup.__optional_keys__)
        if unknown:
            raise TrainingError(
                f"parameter group {number} has the unknown key {unknown[0]!r}; "
                f"known keys: {', '.join(ParameterGroup.__annotations__)}"
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
