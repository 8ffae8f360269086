"""The product network: interaction function x pooling x aggregator, the normal form of arXiv 2411.12441.

    t^1_i = e_i;    t^(l+1)_n = sum over (a, b) in P_l(n) of pi * f(t^l_a, e_b; W^l_ab);    h = A(t^1 .. t^L)

Most CTR models that multiply embeddings are one choice of the three (`ctr_models.interactions.presets` names them).
That the family has these three parts, that f gives a vector and that layer l + 1 reads layer l and the raw vectors is
published; the names of poolings and aggregators, sharing and all switches are our choice.
"""

from dataclasses import dataclass, field
from typing import TypeAlias, assert_never

from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.interactions.aggregators import Aggregator, AggregatorConfig
from ctr_models.interactions.functions import num_slices
from ctr_models.interactions.pooling import (
    MAX_NEWTON_ORDER,
    AnovaPooling,
    FieldPooling,
    PairsPooling,
    PoolingConfig,
    SumPooling,
    WeightedPooling,
)
from ctr_models.interactions.stacks import AnovaStack, FieldStack, PairsStack, SumStack, WeightedStack
from ctr_models.interactions.weights import FunctionConfig

Stack: TypeAlias = PairsStack | SumStack | AnovaStack | FieldStack | WeightedStack


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductNetworkConfig:
    """One member of the family. Layer 1 are the field vectors; `num_layers` counts the product layers after it, so
    that the highest polynomial order is num_layers + 1.
    """

    function: FunctionConfig = field(default_factory=FunctionConfig)
    pooling: PoolingConfig = field(default_factory=FieldPooling)
    aggregator: AggregatorConfig = field(default_factory=AggregatorConfig)
    num_layers: int = 1

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {self.num_layers}")
        _check_pooling(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class FlattenConfig:
    """No interaction: the vectors side by side, (batch, fields * dim), for an MLP after it."""


class ProductNetwork(nn.Module):
    """See `ProductNetworkConfig`."""

    def __init__(self, config: ProductNetworkConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.stack = build_stack(config, num_tables, num_fields, dim)
        term_dim = dim // num_slices(config.function, num_fields)
        self.aggregator = Aggregator(config.aggregator, num_tables, self.stack.term_counts, num_fields, term_dim)
        self.width = self.aggregator.width

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        out: Tensor = self.aggregator(fields, self.stack(fields))
        return out


class Flatten(nn.Module):
    """See `FlattenConfig`."""

    def __init__(self, num_fields: int, dim: int) -> None:
        super().__init__()
        self.width = num_fields * dim

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        return fields.flatten(2)


def build_stack(config: ProductNetworkConfig, num_tables: int, num_fields: int, dim: int) -> Stack:
    """The product layers of `config`: field vectors -> its layers of terms, one by one."""
    function, pooling, count = config.function, config.pooling, config.num_layers
    match pooling:
        case PairsPooling():
            return PairsStack(function, num_tables, num_fields, dim, reduce_dim=config.aggregator.reduce_dim)
        case SumPooling():
            return SumStack(function, count, num_tables, num_fields, dim)
        case AnovaPooling():
            return AnovaStack(pooling, function, count, num_tables, num_fields, dim)
        case FieldPooling():
            return FieldStack(pooling, function, count, num_tables, num_fields, dim)
        case WeightedPooling():
            return WeightedStack(pooling, function, num_tables, num_fields, dim)
        case _:
            assert_never(pooling)


def _check_pooling(config: ProductNetworkConfig) -> None:
    function, pooling, count = config.function, config.pooling, config.num_layers
    if isinstance(pooling, PairsPooling) and (count != 1 or not function.triangular):
        raise ValueError(f"pairs are of second order: num_layers must be 1 (got {count}) and the function triangular")
    if isinstance(pooling, AnovaPooling) and not function.triangular:
        raise ValueError("anova multiplies fields in increasing order; make the function triangular")
    newton = isinstance(pooling, AnovaPooling) and pooling.method == "newton" and function.kind == "naive"
    if newton and count + 1 > MAX_NEWTON_ORDER:
        raise ValueError(f"newton is for orders up to {MAX_NEWTON_ORDER}, got {count + 1}; choose method 'prefix'")
    if isinstance(pooling, WeightedPooling) and len(pooling.widths) != count:
        raise ValueError(f"widths must name each of {count} layers, got {pooling.widths}; set num_layers too")
    if function.whole and isinstance(pooling, PairsPooling | WeightedPooling | AnovaPooling):
        raise ValueError(f"{type(pooling).__name__} needs a W for each source; rank_one and whole low rank have none")
    if function.selector != "none" and not (isinstance(pooling, PairsPooling | SumPooling) and count == 1):
        raise ValueError("a selector is of second order: use it with PairsPooling or SumPooling and num_layers 1")
    if function.selector != "none" and config.aggregator.include_raw:
        raise ValueError("vectors under a selector are wider than its terms; drop include_raw")
