"""Linear maps and MLPs of which every head has its own, run by a routing."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.domains.routing import Routing
from ctr_models.dropout import Dropout
from ctr_models.layers import Activation, MLPConfig, activate, table_linear, xavier


class HeadLinear(nn.Module):
    """A linear map for each of so many sets, heads or copies of heads; it starts as `TableLinear`."""

    def __init__(self, num_sets: int, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(xavier(num_sets, inputs=inputs, outputs=outputs))
        self.bias = nn.Parameter(torch.zeros(num_sets, outputs)) if bias else None

    def forward(
        self, rows: Float[Tensor, "groups size inward"], routing: Routing, copies: int = 1
    ) -> Float[Tensor, "groups size outward"]:
        """Of rows in groups, by the head of each group."""
        bias = None if self.bias is None else routing.select(self.bias, copies)
        return table_linear(rows, routing.select(self.weight, copies), bias)


class HeadMLP(nn.Module):
    """Hidden layers of `config` and, with `outputs`, a linear layer: a network for each of `num_heads` heads, or
    `copies` of them a head, side by side in the result.

    Every parameter starts with an axis of num_heads * copies sets, a head's copies in a row. Batch normalisation has
    no place here, since the rows of a head may be few: `check_no_batch_norm` refuses it where configs are made.
    """

    def __init__(
        self,
        config: MLPConfig,
        num_heads: int,
        inputs: int,
        *,
        outputs: int | None = None,
        copies: int = 1,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        sizes, sets = (inputs, *config.widths), num_heads * copies
        self.copies, self.activation = copies, config.activation
        self.input_dropout, self.dropout = Dropout(config.input_dropout), nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(HeadLinear(sets, inward, outward) for inward, outward in pairwise(sizes))
        slopes = config.widths if config.activation == "prelu" else ()
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((sets,), 0.25)) for _ in slopes)
        self.last = None if outputs is None else HeadLinear(sets, sizes[-1], outputs, bias=last_bias)
        self.width = (sizes[-1] if outputs is None else outputs) * copies

    def forward(
        self, rows: Float[Tensor, "views batch inward"], routing: Routing, *, separate: bool = False
    ) -> Float[Tensor, "result_views batch outward"]:
        """`separate`: the rows hold the input of each copy, side by side; otherwise all copies read the same."""
        x = self._for_copies(routing.spread(self.input_dropout(rows)), separate)
        for number, layer in enumerate(self.layers):
            x = self.dropout(self._activate(layer(x, routing, self.copies), number, routing))
        if self.last is not None:
            x = self.last(x, routing, self.copies)
        if self.copies > 1:
            x = torch.unflatten(x, 0, (-1, self.copies)).transpose(1, 2).flatten(2)
        return routing.collect(x)

    def _for_copies(self, x: Tensor, separate: bool) -> Tensor:
        if self.copies == 1:
            return x
        if separate:
            return torch.unflatten(x, 2, (self.copies, -1)).transpose(1, 2).flatten(0, 1)
        return x.unsqueeze(1).expand(-1, self.copies, -1, -1).flatten(0, 1)

    def _activate(self, x: Tensor, number: int, routing: Routing) -> Tensor:
        if self.activation == "prelu":
            slope = routing.select(self.slopes[number], self.copies)[:, None, None]
            return torch.where(x > 0, x, slope * x)
        named: Activation = self.activation
        return activate(x, named)


def check_no_batch_norm(name: str, config: MLPConfig) -> None:
    """Networks of a head see the rows of one domain, perhaps none or one: their statistics would be noise."""
    if config.batch_norm or config.input_batch_norm:
        raise ValueError(f"{name} cannot have batch normalisation: a batch may hold no row or one of a domain")
