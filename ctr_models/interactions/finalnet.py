"""FinalNet: an MLP whose layers multiply (Zhu et al., SIGIR 2023, "FINAL: Factorized Interaction Layer for CTR
Prediction").
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_fraction, check_sizes
from ctr_models.dropout import Dropout
from ctr_models.layers import TableBatchNorm, TableLinear


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalBlockConfig:
    """`hidden`: widths of the layers. `residual`: "concat" keeps the linear half beside the product, "sum" adds them.
    `gate` puts e * (A e + a), A over fields, beside e before the first layer. Activation: none, as released.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    residual: Literal["concat", "sum"] = "concat"
    batch_norm: bool = False
    dropout: float = 0.0
    gate: bool = False

    def __post_init__(self) -> None:
        check_sizes("hidden", self.hidden)
        check_fraction("dropout", self.dropout)
        if self.residual == "concat" and any(size % 2 for size in self.hidden):
            raise ValueError(f"hidden must hold even sizes when residual is 'concat', got {self.hidden}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalNetConfig:
    """One block, or two with parameters of their own."""

    first: FinalBlockConfig = FinalBlockConfig()
    second: FinalBlockConfig | None = None


class FactorizedInteraction(nn.Module):
    """[u; v] = W x + b -> u beside u * v, or u + u * v: the degree in x doubles with every layer.

    W acts on x_l alone, never on x_0, where a cross layer raises the degree by one.
    """

    def __init__(self, num_tables: int, inputs: int, outputs: int, residual: Literal["concat", "sum"]) -> None:
        super().__init__()
        self.residual = residual
        self.project = TableLinear(num_tables, inputs, outputs if residual == "concat" else 2 * outputs)

    def forward(self, x: Float[Tensor, "tables batch inputs"]) -> Float[Tensor, "tables batch outputs"]:
        linear, factor = self.project(x).chunk(2, dim=-1)
        if self.residual == "concat":
            return torch.cat([linear, linear * factor], dim=-1)
        out: Tensor = linear + linear * factor
        return out


class FieldGating(nn.Module):
    """e beside e * (A e + a), A over fields and the same for all coordinates; starts at A = 0, a = 1: e twice."""

    def __init__(self, num_tables: int, num_fields: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_tables, num_fields, num_fields))
        self.bias = nn.Parameter(torch.ones(num_tables, 1, num_fields, 1))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch twice dim"]:
        gates = torch.einsum("tbfd,tgf->tbgd", fields, self.weight) + self.bias
        return torch.cat([fields, fields * gates], dim=2)


class FinalBlock(nn.Module):
    """Factorised interaction layers over all fields side by side, with batch norm and dropout after each."""

    def __init__(self, config: FinalBlockConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.width = config.hidden[-1]
        self.gate = FieldGating(num_tables, num_fields) if config.gate else None
        inputs = num_fields * dim * (2 if config.gate else 1)
        parts: list[nn.Module] = []
        for size_in, size_out in zip((inputs, *config.hidden), config.hidden, strict=False):
            parts.append(FactorizedInteraction(num_tables, size_in, size_out, config.residual))
            parts += [TableBatchNorm(num_tables, size_out)] if config.batch_norm else []
            parts.append(Dropout(config.dropout))
        self.layers = nn.Sequential(*parts)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        gated = fields if self.gate is None else self.gate(fields)
        out: Tensor = self.layers(gated.flatten(2))
        return out


class FinalNet(nn.Module):
    """The blocks' results side by side. A linear head over them is the released mean of one head a block.

    The released two-block model also teaches each block's own prediction by the mean of both; a caller that wants this
    cuts the result at `split` and puts a head on either side.
    """

    def __init__(self, config: FinalNetConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.first = FinalBlock(config.first, num_tables, num_fields, dim)
        self.second = None if config.second is None else FinalBlock(config.second, num_tables, num_fields, dim)
        self.split = self.first.width
        self.width = self.split + (0 if self.second is None else self.second.width)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        first: Tensor = self.first(fields)
        return first if self.second is None else torch.cat([first, self.second(fields)], dim=-1)
