"""Layers whose first axis counts embedding sets: one batched product serves all sets, each with parameters of its own.

An ordinary model has one set. Nothing here loops over sets.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid", "none"]


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


def table_linear(
    inputs: Float[Tensor, "tables batch inward"],
    weight: Float[Tensor, "tables inward outward"],
    bias: Float[Tensor, "tables outward"] | None = None,
) -> Float[Tensor, "tables batch outward"]:
    """y^(m) = x^(m) W^(m) + b^(m): one batched matrix product for all sets."""
    if bias is None:
        return torch.bmm(inputs, weight)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight)


class TableLinear(nn.Module):
    """`table_linear` with its parameters: each matrix Xavier normal by its own two sizes, biases zero.

    (torch's initialiser would take the axis of sets for a receptive field and start far too small.)
    """

    def __init__(self, num_tables: int, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__()
        std = (2.0 / (in_features + out_features)) ** 0.5
        self.weight = nn.Parameter(torch.randn(num_tables, in_features, out_features) * std)
        self.bias = nn.Parameter(torch.zeros(num_tables, out_features)) if bias else None

    def forward(self, inputs: Float[Tensor, "tables batch inward"]) -> Float[Tensor, "tables batch outward"]:
        return table_linear(inputs, self.weight, self.bias)


class TableBatchNorm(nn.Module):
    """Batch normalisation of every set and channel by itself: exactly BatchNorm1d over tables * channels channels."""

    def __init__(self, num_tables: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(num_tables * channels)

    def forward(self, inputs: Float[Tensor, "tables batch channels"]) -> Float[Tensor, "tables batch channels"]:
        tables, _, channels = inputs.shape
        normed: Tensor = self.norm(inputs.transpose(0, 1).flatten(1))
        return normed.view(-1, tables, channels).transpose(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPConfig:
    """Hidden layers [linear -> batch normalisation -> activation -> dropout], one for each of `widths`.

    The two `input_*` switches come before the first layer (the bi-interaction layer of NFM has both).
    """

    widths: tuple[int, ...]
    activation: Activation = "relu"
    batch_norm: bool = False
    dropout: float = 0.0
    input_batch_norm: bool = False
    input_dropout: float = 0.0

    def __post_init__(self) -> None:
        for width in self.widths:
            if width < 1:
                raise ValueError(f"widths must be at least 1 each, got {self.widths}")
        for name, value in (("dropout", self.dropout), ("input_dropout", self.input_dropout)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {value}")


class _HiddenLayer(nn.Module):
    def __init__(self, config: MLPConfig, num_tables: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.activation: Activation = config.activation
        self.linear = TableLinear(num_tables, in_features, out_features)
        self.norm = TableBatchNorm(num_tables, out_features) if config.batch_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.linear(inputs)
        if self.norm is not None:
            out = self.norm(out)
        dropped: Tensor = self.dropout(activate(out, self.activation))
        return dropped


class MLP(nn.Module):
    """See `MLPConfig`: one network a set. `width` is the size of the result (`in_features` without hidden layers)."""

    def __init__(self, config: MLPConfig, num_tables: int, in_features: int) -> None:
        super().__init__()
        sizes = (in_features, *config.widths)
        self.width = sizes[-1]
        self.input_norm = TableBatchNorm(num_tables, in_features) if config.input_batch_norm else None
        self.input_dropout = nn.Dropout(config.input_dropout)
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
