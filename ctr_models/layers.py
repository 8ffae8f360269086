"""Layers whose first axis counts embedding sets: one batched product serves all sets, each with parameters of its own.

An ordinary model has one set. Nothing here loops over sets. Every parameter and buffer starts with the axis of sets, so
that set m of a module is its slice m.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_fraction
from ctr_models.dropout import Dropout

MOMENTUM, EPSILON = 0.1, 1e-5  # of batch norm, torch's own

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "none"]
HiddenActivation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "none", "prelu"]


def activate(values: Float[Tensor, "*shape"], activation: Activation) -> Float[Tensor, "*shape"]:
    """The activation named, element by element."""
    match activation:
        case "relu":
            return values.relu()
        case "gelu":
            return nn.functional.gelu(values)
        case "silu":
            return nn.functional.silu(values)
        case "tanh":
            return values.tanh()
        case "sigmoid":
            return values.sigmoid()
        case "none":
            return values
        case _:
            assert_never(activation)


def xavier(*sets: int, inputs: int, outputs: int, parts: int = 1) -> Float[Tensor, "*sets inputs outputs"]:
    """Xavier normal matrices, each by its own fans: N(0, s^2), s^2 = 2 / (inputs + outputs / parts).

    `torch.nn.init` counts leading axes as a receptive field and shrinks stacked matrices by its square root. `parts`
    says how many matrices stand side by side in the columns.
    """
    return torch.randn(*sets, inputs, outputs) * math.sqrt(2 / (inputs + outputs / parts))


def table_linear(
    inputs: Float[Tensor, "tables *shape inward"],
    weight: Float[Tensor, "tables inward outward"],
    bias: Float[Tensor, "tables outward"] | None = None,
) -> Float[Tensor, "tables *shape outward"]:
    """y^(m) = x^(m) W^(m) + b^(m): one batched matrix product for all sets."""
    rows = inputs.flatten(1, -2)
    out = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight)
    shaped: Tensor = torch.unflatten(out, 1, inputs.shape[1:-1])
    return shaped


class TableLinear(nn.Module):
    """`table_linear` with its parameters: matrices from `xavier` (see `parts` there), biases zero."""

    def __init__(
        self, num_tables: int, in_features: int, out_features: int, *, bias: bool = True, parts: int = 1
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(xavier(num_tables, inputs=in_features, outputs=out_features, parts=parts))
        self.bias = nn.Parameter(torch.zeros(num_tables, out_features)) if bias else None

    def forward(self, inputs: Float[Tensor, "tables *shape inward"]) -> Float[Tensor, "tables *shape outward"]:
        return table_linear(inputs, self.weight, self.bias)


class TableLayerNorm(nn.Module):
    """Layer norm over the last axis; scale and shift of `shape`, which starts with the tables and broadcasts."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, inputs: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        normal = nn.functional.layer_norm(inputs, inputs.shape[-1:])
        return normal * self.weight + self.bias


class TableBatchNorm(nn.Module):
    """Batch normalisation of every set and channel by itself: exactly BatchNorm1d over tables * channels channels, with
    parameters and statistics of (tables, channels). A training batch needs two rows. See `use_batch_statistics`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_tables: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tables, channels))
        self.bias = nn.Parameter(torch.zeros(num_tables, channels))
        self.register_buffer("running_mean", torch.zeros(num_tables, channels))
        self.register_buffer("running_var", torch.ones(num_tables, channels))
        self.batch_statistics = False

    def forward(self, inputs: Float[Tensor, "tables batch channels"]) -> Float[Tensor, "tables batch channels"]:
        alone = self.batch_statistics and not self.training
        normal = nn.functional.batch_norm(
            inputs.transpose(0, 1).flatten(1),
            None if alone else self.running_mean.view(-1),
            None if alone else self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            training=self.training or alone,
            momentum=MOMENTUM,
            eps=EPSILON,
        )
        return torch.unflatten(normal, 1, self.weight.shape).transpose(0, 1)


def use_batch_statistics(module: nn.Module, on: bool = True) -> None:
    """Whether batch normalisation in evaluation takes the statistics of each batch, as released code does that never
    leaves training mode (DARE's): a like-for-like figure. Scores then depend on their batch, which needs two rows;
    running statistics stay as they are.
    """
    for layer in module.modules():
        if isinstance(layer, TableBatchNorm):
            layer.batch_statistics = on


class TablePReLU(nn.Module):
    """max(x, 0) + a min(x, 0) (He et al., arXiv 1502.01852): one slope for all numbers of a set, 0.25 at the start."""

    def __init__(self, num_tables: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((num_tables,), 0.25))

    def forward(self, inputs: Float[Tensor, "tables *shape"]) -> Float[Tensor, "tables *shape"]:
        bent: Tensor = nn.functional.prelu(inputs.unsqueeze(0), self.weight)
        return bent.squeeze(0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """Hidden layers [linear -> batch normalisation -> activation -> dropout], one for each of `widths`.

    Each layer with "prelu" has a slope of its own, one a set. The two `input_*` switches come before the first layer
    (the bi-interaction layer of NFM has both).
    """

    widths: tuple[int, ...]
    activation: HiddenActivation = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    input_batch_norm: bool = False
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.widths, default=1) < 1:
            raise ValueError(f"widths must be at least 1 each, got {self.widths}")
        check_fraction("dropout", self.dropout)
        check_fraction("input_dropout", self.input_dropout)


class _HiddenLayer(nn.Module):
    def __init__(self, config: MLPConfig, num_tables: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.activation: Activation = "none" if config.activation == "prelu" else config.activation
        self.prelu = TablePReLU(num_tables) if config.activation == "prelu" else None
        self.linear = TableLinear(num_tables, in_features, out_features)
        self.norm = TableBatchNorm(num_tables, out_features) if config.batch_norm else None
        self.dropout = Dropout(config.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.linear(inputs)
        if self.norm is not None:
            out = self.norm(out)
        out = activate(out, self.activation) if self.prelu is None else self.prelu(out)
        dropped: Tensor = self.dropout(out)
        return dropped


class MLP(nn.Module):
    """See `MLPConfig`: one network a set. `width` is the size of the result (`in_features` without hidden layers)."""

    def __init__(self, config: MLPConfig, num_tables: int, in_features: int) -> None:
        super().__init__()
        sizes = (in_features, *config.widths)
        self.width = sizes[-1]
        self.input_norm = TableBatchNorm(num_tables, in_features) if config.input_batch_norm else None
        self.input_dropout = Dropout(config.input_dropout)
        self.layers = nn.ModuleList(
            _HiddenLayer(config, num_tables, inward, outward) for inward, outward in pairwise(sizes)
        )

    def forward(self, inputs: Float[Tensor, "tables batch inward"]) -> Float[Tensor, "tables batch outward"]:
        if self.input_norm is not None:
            inputs = self.input_norm(inputs)
        inputs = self.input_dropout(inputs)
        for layer in self.layers:
            inputs = layer(inputs)
        return inputs
