"""xDeepInt: the polynomial interaction network (Yan and Li, DLP-KDD 2020, arXiv 2301.01089)."""

from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_at_least, check_divides
from ctr_models.layers import xavier


@dataclass(frozen=True, kw_only=True, slots=True)
class PolynomialConfig:
    """`num_subspaces`: vectors are cut into that many parts and crossed between parts too; 1 crosses only equal
    coordinates (vector-wise), `dim` crosses every coordinate with every other (bit-wise).

    `residual=True` gives the last layer, which holds all orders; False drops the residual term and gives every order
    beside the others. `reduce_dim` sums a field's coordinates, so that a linear head weighs fields, as released.
    """

    num_layers: int = 3
    num_subspaces: int = 1
    residual: bool = True
    reduce_dim: bool = True

    def __post_init__(self) -> None:
        check_at_least("num_layers", self.num_layers, 1)
        check_at_least("num_subspaces", self.num_subspaces, 1)


class PolynomialNet(nn.Module):
    """X_l = X_(l-1) * (W_l X_0) + X_(l-1), W_l over fields (and subspaces), without bias or activation.

    Here the matrix stands on the side of X_0, in a cross network on the side of x_l; so the factors 1 + W_l X_0 of all
    layers come of one product, and the result is X_0 * prod_l (1 + W_l X_0), whose factors commute. Weights are
    (fields subspaces)^2 a layer, where a cross layer has (fields dim)^2.
    """

    def __init__(self, config: PolynomialConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        check_divides("num_subspaces", config.num_subspaces, "dim", dim)
        self.config = config
        terms = num_fields if config.reduce_dim else num_fields * dim
        self.width = terms * (1 if config.residual else config.num_layers + 1)
        parts = num_fields * config.num_subspaces
        self.weight = nn.Parameter(xavier(num_tables, config.num_layers, inputs=parts, outputs=parts))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        parts = torch.unflatten(fields, -1, (self.config.num_subspaces, -1))
        factors = torch.einsum("tbnd,tlnm->ltbmd", parts.flatten(2, 3), self.weight)
        factors = torch.unflatten(factors, 3, parts.shape[2:4])
        if self.config.residual:
            orders = [reduce(torch.mul, 1 + factors, parts)]
        else:
            orders = list(accumulate(factors, torch.mul, initial=parts))
        joined = [order.flatten(3) for order in orders]
        return torch.cat([order.sum(-1) if self.config.reduce_dim else order.flatten(2) for order in joined], dim=-1)
