"""Stacks of product layers: field vectors -> the layers of terms (tables batch terms dim) that a pooling makes, lazily.

Layer 1, the vectors themselves, is not among them. `term_counts` says how many terms each layer has.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.functions import InteractionFunction
from ctr_models.interactions.pooling import AnovaPooling, FieldPooling, WeightedPooling
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.layers import Activation, activate


class PairsStack(nn.Module):
    """See `PairsPooling`. With `reduce_dim` its terms are products of one number, never (batch, pairs, dim)."""

    def __init__(
        self, function: FunctionConfig, num_tables: int, num_fields: int, dim: int, *, reduce_dim: bool
    ) -> None:
        super().__init__()
        self.function = InteractionFunction(function, num_tables, num_fields, num_fields, dim)
        self.reduce_dim = reduce_dim
        self.term_counts = [num_fields * (num_fields - 1) // 2]

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Iterator[Tensor]:
        if self.reduce_dim:
            yield self.function.pair_products(fields).unsqueeze(-1)
        else:
            yield self.function.pair_terms(fields)


class SumStack(nn.Module):
    """See `SumPooling`."""

    def __init__(self, function: FunctionConfig, num_layers: int, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.first = InteractionFunction(function, num_tables, num_fields, num_fields, dim)
        self.later = nn.ModuleList(
            InteractionFunction(replace(function, triangular=False), num_tables, 1, num_fields, dim)
            for _ in range(num_layers - 1)
        )
        self.term_counts = [1] * num_layers

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Iterator[Tensor]:
        term = self.first.pair_sum(fields).unsqueeze(2)
        yield term
        for function in self.later:
            term = function(term, fields).sum(2, keepdim=True)
            yield term


class AnovaStack(nn.Module):
    """See `AnovaPooling`."""

    def __init__(
        self,
        pooling: AnovaPooling,
        function: FunctionConfig,
        num_layers: int,
        num_tables: int,
        num_fields: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.newton = pooling.method == "newton" and function.kind == "naive"
        self.functions = nn.ModuleList(
            InteractionFunction(function, num_tables, num_fields, num_fields, dim) for _ in range(num_layers)
        )
        self.term_counts = [1] * num_layers

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Iterator[Tensor]:
        if self.newton:
            for term in elementary_sums(fields, len(self.functions) + 1)[2:]:
                yield term.unsqueeze(2)
            return
        chains = fields  # the sum of all products that end with field b
        for function in self.functions:
            chains = function(chains, fields)
            yield chains.sum(2, keepdim=True)


class FieldLayer(nn.Module):
    """See `FieldPooling`: one layer."""

    def __init__(
        self, pooling: FieldPooling, function: FunctionConfig, num_tables: int, num_fields: int, dim: int
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.function = InteractionFunction(function, num_tables, num_fields, num_fields, dim)
        bias = torch.zeros(num_tables, num_fields, dim)
        bias = bias.uniform_() if pooling.initial_bias == "uniform" else bias
        self.bias = nn.Parameter(bias) if pooling.bias != "none" else None
        self.gate = InteractionFunction(function, num_tables, num_fields, num_fields, dim) if pooling.gate else None
        self.mapped: InteractionFunction | None = None
        self.mapped_bias: nn.Parameter | None = None
        if pooling.right == "mapped":
            self.mapped = InteractionFunction(function, num_tables, num_fields, num_fields, dim)
            if pooling.bias == "inner":
                self.mapped_bias = nn.Parameter(torch.zeros(num_tables, num_fields, dim))

    def forward(
        self,
        previous: Float[Tensor, "tables batch fields dim"],
        raw: Float[Tensor, "tables batch fields dim"],
    ) -> Float[Tensor, "tables batch fields dim"]:
        left = previous if self.pooling.left == "previous" else raw
        mixed: Tensor = self.function.mix(left, self.bias if self.pooling.bias == "inner" else None)
        if self.gate is not None:
            mixed = mixed * self.gate.mix(previous).sigmoid()
        right = self._right(previous, raw)
        match self.pooling.residual:
            case "none":
                out = mixed * right
            case "previous":
                out = torch.addcmul(previous, mixed, right)
            case "right":
                out = torch.addcmul(right, mixed, right)
            case _:
                assert_never(self.pooling.residual)
        return out if self.bias is None or self.pooling.bias == "inner" else out + self.bias.unsqueeze(1)

    def _right(self, previous: Tensor, raw: Tensor) -> Tensor:
        if self.mapped is not None:
            return self.mapped.mix(previous, self.mapped_bias)
        return raw if self.pooling.right == "raw" else previous


class FieldStack(nn.Module):
    """See `FieldPooling`."""

    def __init__(
        self,
        pooling: FieldPooling,
        function: FunctionConfig,
        num_layers: int,
        num_tables: int,
        num_fields: int,
        dim: int,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            FieldLayer(pooling, function, num_tables, num_fields, dim) for _ in range(num_layers)
        )
        self.term_counts = [num_fields] * num_layers

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Iterator[Tensor]:
        terms = fields
        for layer in self.layers:
            terms = layer(terms, fields)
            yield terms


class WeightedLayer(nn.Module):
    """See `WeightedPooling`: one layer, `sources` terms to `width` terms.

    Where W does not depend on b the weights meet the smaller factor first: (width * sources) or (width * fields)
    vectors a row instead of all (sources * fields) products.
    """

    def __init__(
        self,
        pooling: WeightedPooling,
        function: FunctionConfig,
        width: int,
        num_sources: int,
        sizes: tuple[int, int, int],
    ) -> None:
        super().__init__()
        num_tables, num_fields, dim = sizes
        self.activation: Activation = pooling.activation
        self.function = InteractionFunction(function, num_tables, num_sources, num_fields, dim)
        std = (2.0 / (num_sources * num_fields + width)) ** 0.5
        self.weight = nn.Parameter(torch.randn(num_tables, width, num_sources, num_fields) * std)
        self.bias = nn.Parameter(torch.zeros(num_tables, width)) if pooling.bias else None

    def forward(
        self, previous: Float[Tensor, "tables batch sources dim"], raw: Float[Tensor, "tables batch fields dim"]
    ) -> Float[Tensor, "tables batch width dim"]:
        left = self.function.lefts(previous)
        if left.ndim == 5:  # t_a W_ab differs by b: all products at once
            products = (left * raw.unsqueeze(2)).flatten(2, 3)
            out = torch.matmul(self.weight.flatten(2).unsqueeze(1), products)
        elif left.shape[2] <= raw.shape[2]:
            out = _contract_with(self.weight, raw, left)
        else:
            out = _contract_with(self.weight.transpose(2, 3), left, raw)
        if self.bias is not None:
            out = out + self.bias[:, None, :, None]
        return activate(out, self.activation)


def _contract_with(weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """sum_(h,m) C_nhm second_h * first_m: contracted with `first` as one product, then with `second`."""
    partial = torch.einsum("tbmk,tnhm->tbknh", first, weight)
    return (partial * second.transpose(2, 3).unsqueeze(3)).sum(4).transpose(2, 3)


class WeightedStack(nn.Module):
    """See `WeightedPooling`."""

    def __init__(
        self, pooling: WeightedPooling, function: FunctionConfig, num_tables: int, num_fields: int, dim: int
    ) -> None:
        super().__init__()
        self.term_counts = list(pooling.widths)
        sources = [num_fields, *pooling.widths[:-1]]
        sizes = (num_tables, num_fields, dim)
        self.layers = nn.ModuleList(
            WeightedLayer(pooling, function, width, count, sizes)
            for width, count in zip(pooling.widths, sources, strict=True)
        )

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Iterator[Tensor]:
        terms = fields
        for layer in self.layers:
            terms = layer(terms, fields)
            yield terms


def elementary_sums(
    fields: Float[Tensor, "tables batch fields dim"], max_order: int
) -> list[Float[Tensor, "tables batch dim"]]:
    """Elementary symmetric sums E_0..E_max_order over the fields, by Newton's identities from sums of powers.

    >>> [int(e) for e in elementary_sums(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1), 3)]
    [1, 6, 11, 6]
    """
    power, powers = fields, [fields.sum(2)]
    for _ in range(max_order - 1):
        power = power * fields
        powers.append(power.sum(2))
    sums = [torch.ones_like(powers[0])]
    for order in range(1, max_order + 1):
        parts = [(-1) ** (i - 1) * sums[order - i] * powers[i - 1] for i in range(1, order + 1)]
        sums.append(torch.stack(parts).sum(0) / order)
    return sums
