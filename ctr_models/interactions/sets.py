"""Linear map and norms with parameters of their own for every embedding set, all sets in one batched operation.

Every parameter and buffer starts with the `tables` axis, so that set m of a module is its slice m.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM, EPSILON = 0.1, 1e-5  # of batch norm, torch's own


def xavier(*sets: int, inputs: int, outputs: int, parts: int = 1) -> Float[Tensor, "*sets inputs outputs"]:
    """Xavier-uniform matrices, each by its own fans: U(-b, b), b = sqrt(6 / (inputs + outputs / parts)).

    `torch.nn.init` counts leading axes as a receptive field and shrinks stacked matrices by its square root. `parts`
    says how many matrices stand side by side in the columns.
    """
    bound = math.sqrt(6 / (inputs + outputs / parts))
    return torch.empty(*sets, inputs, outputs).uniform_(-bound, bound)


class SetLinear(nn.Module):
    """x_m W_m + b_m for every set m: one batched product. Weights (tables inputs outputs), Xavier; bias zero.

    `parts`: how many matrices stand side by side in the columns (it only matters to the initialisation).
    """

    def __init__(self, num_tables: int, inputs: int, outputs: int, *, bias: bool = True, parts: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(xavier(num_tables, inputs=inputs, outputs=outputs, parts=parts))
        self.bias = nn.Parameter(torch.zeros(num_tables, 1, outputs)) if bias else None

    def forward(self, x: Float[Tensor, "tables *shape inputs"]) -> Float[Tensor, "tables *shape outputs"]:
        rows = x.flatten(1, -2)
        if self.bias is None:
            out = torch.bmm(rows, self.weight)
        else:
            out = torch.baddbmm(self.bias, rows, self.weight)
        return torch.unflatten(out, 1, x.shape[1:-1])


class SetLayerNorm(nn.Module):
    """Layer norm over the last axis; scale and shift of `shape`, which starts with the tables and broadcasts."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Float[Tensor, "*shape dim"]) -> Float[Tensor, "*shape dim"]:
        normal = nn.functional.layer_norm(x, x.shape[-1:])
        return normal * self.weight + self.bias


class SetBatchNorm(nn.Module):
    """Batch norm over rows, statistics and affine map per set and column. A training batch needs two rows."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_tables: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_tables, width))
        self.bias = nn.Parameter(torch.zeros(num_tables, width))
        self.register_buffer("running_mean", torch.zeros(num_tables, width))
        self.register_buffer("running_var", torch.ones(num_tables, width))

    def forward(self, x: Float[Tensor, "tables batch width"]) -> Float[Tensor, "tables batch width"]:
        columns = x.transpose(0, 1).flatten(1)
        normal = nn.functional.batch_norm(
            columns,
            self.running_mean.view(-1),
            self.running_var.view(-1),
            self.weight.view(-1),
            self.bias.view(-1),
            training=self.training,
            momentum=MOMENTUM,
            eps=EPSILON,
        )
        return torch.unflatten(normal, 1, self.weight.shape).transpose(0, 1)


class SetMLP(nn.Module):
    """Per layer: linear map, batch norm (optional), ReLU, dropout; one network a set.

    `last_relu=False` ends with the linear map of the last size.
    """

    def __init__(
        self,
        num_tables: int,
        inputs: int,
        sizes: tuple[int, ...],
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
        last_relu: bool = True,
    ) -> None:
        super().__init__()
        self.width = sizes[-1]
        parts: list[nn.Module] = []
        for number, (size_in, size_out) in enumerate(zip((inputs, *sizes), sizes, strict=False), start=1):
            parts.append(SetLinear(num_tables, size_in, size_out))
            if number < len(sizes) or last_relu:
                parts += [SetBatchNorm(num_tables, size_out)] if batch_norm else []
                parts += [nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*parts)

    def forward(self, x: Float[Tensor, "tables batch inputs"]) -> Float[Tensor, "tables batch outputs"]:
        out: Tensor = self.layers(x)
        return out
