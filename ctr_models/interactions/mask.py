"""MaskNet: layers multiplied by a mask made of the row's own field vectors (Wang et al., DLP-KDD 2021, arXiv
2102.07619).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_fraction, check_positive, check_sizes
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLayerNorm, TableLinear, xavier


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskNetConfig:
    """`hidden`: sizes of the blocks, one after the other (serial); the first has `num_blocks` blocks side by side, so
    that one size and several blocks are the parallel form. `ratio`: size of a mask's inner layer over that of what it
    masks. `field_norm` normalises each field's vector before the first mask, `layer_norm` each block before its ReLU.
    """

    hidden: tuple[int, ...] = (64, 64)
    num_blocks: int = 1
    ratio: float = 1.0
    field_norm: bool = True
    layer_norm: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_sizes("hidden", self.hidden)
        check_at_least("num_blocks", self.num_blocks, 1)
        check_positive("ratio", self.ratio)
        check_fraction("dropout", self.dropout)


class MaskBlocks(nn.Module):
    """ReLU(LN(W (h * mask))), mask = W_2 ReLU(W_1 e + b_1) + b_2, for `blocks` blocks over one h, side by side
    ("instance-guided mask" and "MaskBlock").
    """

    def __init__(
        self, config: MaskNetConfig, num_tables: int, blocks: int, inputs: int, masked: int, outputs: int
    ) -> None:
        super().__init__()
        self.blocks = blocks
        inner = max(1, int(masked * config.ratio))
        self.down = TableLinear(num_tables, inputs, blocks * inner, parts=blocks)
        self.up = nn.Parameter(xavier(num_tables, blocks, inputs=inner, outputs=masked))
        self.up_bias = nn.Parameter(torch.zeros(num_tables, 1, blocks, masked))
        self.weight = nn.Parameter(xavier(num_tables, blocks, inputs=masked, outputs=outputs))
        self.norm = TableLayerNorm(num_tables, 1, blocks, outputs) if config.layer_norm else None
        self.dropout = Dropout(config.dropout)

    def forward(
        self, fields: Float[Tensor, "tables batch inputs"], hidden: Float[Tensor, "tables batch masked"]
    ) -> Float[Tensor, "tables batch outputs"]:
        inner = torch.unflatten(self.down(fields).relu(), -1, (self.blocks, -1))
        mask = torch.einsum("tbni,tnim->tbnm", inner, self.up) + self.up_bias
        out = torch.einsum("tbnm,tnmo->tbno", mask * hidden.unsqueeze(2), self.weight)
        if self.norm is not None:
            out = self.norm(out)
        dropped: Tensor = self.dropout(out.relu())
        return dropped.flatten(2)


class MaskNet(nn.Module):
    """Blocks one after the other; every mask comes from the raw field vectors.

    Serial: `hidden` of several sizes and one block. Parallel: one size, several blocks, and an MLP on top.
    """

    def __init__(self, config: MaskNetConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        inputs = num_fields * dim
        self.norm = TableLayerNorm(num_tables, 1, num_fields, dim) if config.field_norm else None
        first = config.num_blocks * config.hidden[0]
        self.width = first if len(config.hidden) == 1 else config.hidden[-1]
        self.first = MaskBlocks(config, num_tables, config.num_blocks, inputs, inputs, config.hidden[0])
        sizes = zip((first, *config.hidden[1:]), config.hidden[1:], strict=False)
        self.rest = nn.ModuleList(MaskBlocks(config, num_tables, 1, inputs, size, out) for size, out in sizes)

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        raw = fields.flatten(2)
        start = raw if self.norm is None else self.norm(fields).flatten(2)
        hidden: Tensor = self.first(raw, start)
        for block in self.rest:
            hidden = block(raw, hidden)
        return hidden
