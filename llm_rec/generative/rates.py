"""Learning rates relative to the size of what is trained, as T5's schedule means them.

A rate of .01 suits T5 because its optimiser, Adafactor (arXiv 1804.04235, algorithm 5), multiplies it by the root mean
square of each tensor: the queries of T5 begin near .01, so they move by 1e-4. Adam would move every weight by .01.
"""

from collections import defaultdict

import torch
from torch import nn

from llm_rec.training.groups import ParameterGroup

LEAST = 1e-3  # Adafactor's epsilon_2: what is zero may move too


def relative_rates(module: nn.Module) -> list[ParameterGroup]:
    """Groups for the trainer: the rate of every tensor times its root mean square, at least `LEAST`.

    Taken once, when training starts, and to two digits, so that tensors of a kind share a group and no step waits for a
    norm; Adafactor takes it in every step.
    """
    groups: dict[float, list[nn.Parameter]] = defaultdict(list)
    for parameter in module.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                size = float(parameter.double().square().mean().sqrt())
            groups[float(f"{max(size, LEAST):.1e}")].append(parameter)
    return [ParameterGroup(params=params, learning_rate_factor=factor) for factor, params in groups.items()]
