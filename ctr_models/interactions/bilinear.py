"""FinalMLP: two MLP streams and their bilinear fusion (Mao et al., AAAI 2023, arXiv 2304.00902).

Streams hold parameters per embedding set; the fusion is shared. With several sets each stream is averaged over them
before the fusion (arXiv 2310.04400, where the field gates are off and the fusion has one head and starts at zero).
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides, check_sizes
from ctr_models.layers import MLP, MLPConfig, TableLinear, xavier


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldGateConfig:
    """Stream-specific selection of features. `context`: positions of the fields that set the gate, by a network with
    layers of sizes `hidden`; without any the gate is learned, one for all rows.
    """

    context: tuple[int, ...] = ()
    hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        check_sizes("hidden", self.hidden)
        if min(self.context, default=0) < 0 or len(set(self.context)) < len(self.context):
            raise ValueError(f"context must hold distinct positions of fields, from 0, got {self.context}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """One MLP over all fields side by side, behind a gate or not."""

    hidden: MLPConfig = field(default_factory=lambda: MLPConfig(widths=(400, 400)))
    gate: FieldGateConfig | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BilinearFusionConfig:
    """`initial`: the bilinear weights start at "zero" (multi-embedding's code), so that training starts from the sum
    of two linear heads, or as "xavier" matrices, each head by its own sizes.
    """

    num_heads: int = 1
    initial: Literal["zero", "xavier"] = "zero"

    def __post_init__(self) -> None:
        check_at_least("num_heads", self.num_heads, 1)


class FieldGate(nn.Module):
    """e * 2 sigmoid(MLP(context)), one gate an element ("stream-specific feature selection"): 1 at a zero
    logit.

    The context is the vectors of chosen fields in the same embedding set (our choice; the released code gives the gate
    tables of its own). Without a context the logits are parameters, from zero: the released network of a learned
    vector gives the same constants, but its ReLU starts at zero, where all but the last bias stay.
    """

    context: Tensor

    def __init__(self, config: FieldGateConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        if max(config.context, default=0) >= num_fields:
            raise ValueError(f"gate context {config.context} names a field beyond the {num_fields} there are")
        self.register_buffer("context", torch.tensor(config.context, dtype=torch.int64), persistent=False)
        self.network: nn.Sequential | None = None
        if config.context:
            hidden = MLP(MLPConfig(widths=config.hidden), num_tables, len(config.context) * dim)
            self.network = nn.Sequential(hidden, TableLinear(num_tables, hidden.width, num_fields * dim))
        else:
            self.logits = nn.Parameter(torch.zeros(num_tables, 1, num_fields, dim))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch fields dim"]:
        if self.network is None:
            return fields * (2 * torch.sigmoid(self.logits))
        logits: Tensor = self.network(fields.index_select(2, self.context).flatten(2))
        return fields * (2 * torch.sigmoid(torch.unflatten(logits, -1, fields.shape[2:])))


class Stream(nn.Module):
    """The MLP of one stream, behind its gate if it has one. Alone it is the deep branch of any CTR model."""

    def __init__(self, config: StreamConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.gate = None if config.gate is None else FieldGate(config.gate, num_tables, num_fields, dim)
        self.network = MLP(config.hidden, num_tables, num_fields * dim)
        self.width = self.network.width

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        chosen = fields if self.gate is None else self.gate(fields)
        out: Tensor = self.network(chosen.flatten(2))
        return out


class BilinearFusion(nn.Module):
    """u . x + v . y + sum_h x_h^T W_h y_h, x and y cut into heads ("stream-level interaction aggregation").

    One W a head and output: num_heads times fewer parameters than the one-head form. The bias is the model's.
    """

    def __init__(self, config: BilinearFusionConfig, first: int, second: int, num_outputs: int = 1) -> None:
        super().__init__()
        check_divides("num_heads", config.num_heads, "first stream's width", first)
        check_divides("num_heads", config.num_heads, "second stream's width", second)
        self.num_heads = config.num_heads
        self.first = nn.Parameter(xavier(inputs=first, outputs=num_outputs))
        self.second = nn.Parameter(xavier(inputs=second, outputs=num_outputs))
        heads = xavier(num_outputs, self.num_heads, inputs=first // self.num_heads, outputs=second // self.num_heads)
        self.weight = nn.Parameter(torch.zeros_like(heads) if config.initial == "zero" else heads)

    def forward(
        self, first: Float[Tensor, "batch first"], second: Float[Tensor, "batch second"]
    ) -> Float[Tensor, "batch outputs"]:
        left, right = (torch.unflatten(part, -1, (self.num_heads, -1)) for part in (first, second))
        turned = torch.einsum("bhx,ohxy->bohy", left, self.weight)
        product = (turned * right.unsqueeze(1)).sum((-1, -2))
        return first @ self.first + second @ self.second + product
