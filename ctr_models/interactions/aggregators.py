"""Aggregators: the layers of terms t^1..t^L become the vector that the head reads."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

AggregatorKind = Literal["last", "sum", "concat", "layer_weight", "term_weight", "dim_weight", "layer_per_table"]
_WEIGHTED = ("layer_weight", "term_weight", "dim_weight")


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregatorConfig:
    """`last` layer, `sum` or `concat` of all layers, or learned weights (starting at 1, one set a table) for each
    layer, each term or each number: h = sum_l alpha_l * t^l, or their concatenation with `combine="concat"`.

    `layer_per_table` takes the l-th product layer from the l-th embedding set: the untied tables of HOFM.
    `include_raw` counts the field vectors themselves as layer 1. `reduce_dim` adds up the dim of every product layer
    (inner products of PNN, the pooling of CIN); raw vectors stay whole.
    """

    kind: AggregatorKind = "last"
    combine: Literal["sum", "concat"] = "sum"
    include_raw: bool = False
    reduce_dim: bool = False

    def __post_init__(self) -> None:
        if self.kind in ("last", "layer_per_table") and self.include_raw:
            raise ValueError(f"include_raw is for aggregators of all layers, not {self.kind!r}")
        if self.combine == "concat" and self.kind not in _WEIGHTED:
            raise ValueError(f"combine 'concat' is for weighted aggregators, not {self.kind!r}; use kind 'concat'")
        if self.include_raw and self.reduce_dim and self.adds:
            raise ValueError(f"{self.kind!r} cannot add raw vectors to sums over dim; drop include_raw or reduce_dim")

    @property
    def adds(self) -> bool:
        """Whether layers are added, and so must be alike."""
        return self.kind == "sum" or (self.kind in _WEIGHTED and self.combine == "sum")


class Aggregator(nn.Module):
    """See `AggregatorConfig`. Layers come from an iterator and are added as they come: none is kept without need."""

    def __init__(
        self, config: AggregatorConfig, num_tables: int, term_counts: list[int], num_fields: int, dim: int
    ) -> None:
        super().__init__()
        self.config = config
        counts = [num_fields, *term_counts] if config.include_raw else term_counts
        if config.adds and len(set(counts)) > 1:
            raise ValueError(f"aggregator {config.kind!r} needs layers of equal numbers of terms, got {counts}")
        if config.kind == "layer_per_table" and num_tables != len(term_counts):
            raise ValueError(f"layer_per_table needs one table a layer, got {num_tables} for {len(term_counts)} layers")
        sizes = [count * (1 if config.reduce_dim else dim) for count in term_counts]
        sizes = [num_fields * dim, *sizes] if config.include_raw else sizes
        concat = config.kind == "concat" or config.combine == "concat"
        self.width = sum(sizes) if concat else sizes[-1]
        self.weights = nn.ParameterList(
            nn.Parameter(torch.ones(_weight_shape(config.kind, num_tables, count, size // count)))
            for count, size in zip(counts, sizes, strict=True)
            if config.kind in _WEIGHTED
        )

    def forward(
        self, raw: Float[Tensor, "tables batch fields dim"], products: Iterable[Tensor]
    ) -> Float[Tensor, "tables batch width"]:
        """`products` are the layers after the raw one, each (tables batch terms dim)."""
        layers = self._scaled(self._chosen(raw, products))
        if self.config.adds:
            return reduce(torch.add, layers).flatten(2)
        match self.config.kind:
            case "last":
                return deque(layers, maxlen=1)[0].flatten(2)
            case "layer_per_table":
                return torch.stack([terms[table] for table, terms in enumerate(layers)]).flatten(2)
            case "sum" | "concat" | "layer_weight" | "term_weight" | "dim_weight":
                return torch.cat([terms.flatten(2) for terms in layers], 2)
            case _:
                assert_never(self.config.kind)

    def _chosen(self, raw: Tensor, products: Iterable[Tensor]) -> Iterator[Tensor]:
        if self.config.include_raw:
            yield raw
        for terms in products:
            yield terms.sum(3, keepdim=True) if self.config.reduce_dim else terms

    def _scaled(self, layers: Iterator[Tensor]) -> Iterator[Tensor]:
        if len(self.weights) == 0:
            return layers
        return (weight * terms for weight, terms in zip(self.weights, layers, strict=True))


def _weight_shape(kind: AggregatorKind, num_tables: int, terms: int, dim: int) -> tuple[int, ...]:
    match kind:
        case "term_weight":
            return num_tables, 1, terms, 1
        case "dim_weight":
            return num_tables, 1, terms, dim
        case _:
            return num_tables, 1, 1, 1
