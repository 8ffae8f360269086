"""The optimiser of a run: Adam or AdamW for dense gradients, row optimisers for large tables, behind one object."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import torch
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from ctr_models.optim import LazyAdam, RowSums, RowWiseAdagrad
from llm_rec.training.groups import OptimizerGroup, OptimizerKind
from llm_rec.training.trainer import TrainerConfig

VANISHED = {"exp_avg": 1e-30, "exp_avg_sq": 1e-35}  # moments below move no weight: eps is far above their root


class MixedOptimizer(Optimizer):
    """Several optimisers as one. Groups and state are those of its parts, in their order."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = list(parts)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # as torch types it
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        start = 0
        for part in self.parts:
            stop = start + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[start:stop], self.state
            start = stop


def build_optimizer(config: TrainerConfig, groups: Sequence[OptimizerGroup], sums: RowSums) -> Optimizer:
    """One optimiser for all groups; dense ones are fused, one kernel for all parameters. `sums` serves every table."""
    kinds: dict[OptimizerKind, list[dict[str, Any]]] = {}  # torch's own type of a group
    for group in groups:
        kinds.setdefault(group["optimizer"], []).append(dict(group))
    parts = [_part(config, kind, chosen, sums) for kind, chosen in kinds.items()]
    return parts[0] if len(parts) == 1 else MixedOptimizer(parts)


def _part(config: TrainerConfig, kind: OptimizerKind, groups: list[dict[str, Any]], sums: RowSums) -> Optimizer:
    match kind:
        case "dense":
            adam = AdamW if config.optimizer == "adamw" else Adam
            return adam(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)
        case "rowwise_adagrad":
            return RowWiseAdagrad(groups, lr=config.learning_rate, eps=config.eps, sums=sums)
        case "lazy_adam":
            return LazyAdam(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, sums=sums)
        case _:
            assert_never(kind)


def row_optimizers(module: nn.Module, groups: Sequence[OptimizerGroup]) -> Mapping[str, str]:
    """Parameters by name that a row optimiser trains, and which."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {names[p]: group["optimizer"] for group in groups for p in group["params"] if group["optimizer"] != "dense"}


@torch.no_grad()
def drop_vanished_moments(optimizer: Optimizer) -> None:
    """Adam's moments that are too small to move any weight become 0, before they are denormal numbers.

    The mean gradient of a table row that no batch touches shrinks by a tenth a step, is denormal after some 830 steps
    and for 150 more, and a CPU takes a hundred cycles for each such number: with many rare rows a dense update was up
    to 17 times slower for it. Called every hundred steps this changes no weight, on any number of threads.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["optimizer"] == "dense" else ():
            state = optimizer.state.get(parameter, {})
            for name, least in VANISHED.items():
                if name in state:
                    torch.hardshrink(state[name], least, out=state[name])
