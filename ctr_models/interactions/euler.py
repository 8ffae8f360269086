"""EulerNet: products of learned, non-integer order in polar form (Tian et al., SIGIR 2023, arXiv 2304.10711)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.checks import check_fraction, check_positive, check_sizes
from ctr_models.dropout import Dropout
from ctr_models.layers import TableLayerNorm, TableLinear

TINY = 1e-8  # added to squared moduli before the logarithm
SHARPNESS = 0.01  # temperature of the released initialisation: nearly one field an order vector


@dataclass(frozen=True, kw_only=True, slots=True)
class EulerNetConfig:
    """`num_orders`: order vectors of every layer, that is complex fields it gives (the default is ours).

    Training depends on where the orders start: the released code takes the identity where a layer keeps the number of
    fields, and else nearly one random field an order vector; so do we ("released"). "uniform" starts every order at
    1 / fields (our choice: a geometric mean). `scale` shrinks the complex inputs: the authors advise 1/4 for wide
    embeddings, where moduli grow with every layer. `layer_norm` normalises real and imaginary parts after each layer.
    `output`: "sum" gives re + im, which under a linear head is the paper's Re(w z) + Im(w z) with one w for both;
    "concat" lets the head weigh them apart (our choice).
    """

    num_orders: tuple[int, ...] = (16,)
    layer_norm: bool = True
    explicit_dropout: float = 0.0
    implicit_dropout: float = 0.0
    scale: float = 1.0
    initial_orders: Literal["released", "uniform"] = "released"
    output: Literal["sum", "concat"] = "sum"

    def __post_init__(self) -> None:
        check_sizes("num_orders", self.num_orders)
        check_fraction("explicit_dropout", self.explicit_dropout)
        check_fraction("implicit_dropout", self.implicit_dropout)
        check_positive("scale", self.scale)


def to_polar(parts: Float[Tensor, "tables 2 *shape"]) -> Float[Tensor, "tables 2 *shape"]:
    """(re, im) -> (log modulus, angle). Where the modulus is 0 the angle is 0 and neither has a gradient.

    >>> to_polar(torch.tensor([[[0.0], [2.0]]]))  # log 2 and a quarter turn
    tensor([[[0.6931],
             [1.5708]]])
    """
    real, imaginary = parts.unbind(1)
    square = real.square() + imaginary.square()
    empty = square < TINY
    angle = torch.atan2(imaginary.masked_fill(empty, 0.0), real.masked_fill(empty, 1.0))
    return torch.stack([0.5 * torch.log(square + TINY), angle], dim=1)


class EulerLayer(nn.Module):
    """The k-th complex field is prod_j z_j^(alpha_jk) e^(delta_k) + relu(W z + b)_k.

    With z = e^(log r + i theta) the product is a linear map of log r and theta by the orders alpha, shared by all
    coordinates: modulus exp(sum_j alpha_jk log r_j + delta_k), angle sum_j alpha_jk theta_j + delta'_k. The
    implicit part applies one real W, b and ReLU to the real and to the imaginary parts. Adding TINY to the squared
    modulus and zeroing the angle of an empty number keep the logarithm and atan2 finite in both passes.
    """

    def __init__(self, config: EulerNetConfig, num_tables: int, fields_in: int, fields_out: int, dim: int) -> None:
        super().__init__()
        self.orders = nn.Parameter(_initial_orders(config, num_tables, fields_in, fields_out))
        self.shift = nn.Parameter(torch.randn(num_tables, 2, 1, fields_out, dim) * 0.01)
        self.implicit = TableLinear(num_tables, fields_in * dim, fields_out * dim)
        self.explicit_dropout = Dropout(config.explicit_dropout)
        self.implicit_dropout = Dropout(config.implicit_dropout)
        self.norm = TableLayerNorm(num_tables, 2, 1, 1, dim) if config.layer_norm else None

    def forward(self, parts: Float[Tensor, "tables 2 batch fields dim"]) -> Float[Tensor, "tables 2 batch orders dim"]:
        implicit = self.implicit(self.implicit_dropout(parts).flatten(3)).relu()
        explicit = self.explicit(parts)
        out: Tensor = explicit + implicit.view_as(explicit)
        if self.norm is not None:
            out = self.norm(out)
        return out

    def explicit(self, parts: Float[Tensor, "tables 2 batch fields dim"]) -> Float[Tensor, "tables 2 batch orders dim"]:
        """The product of powers alone."""
        polar = self.explicit_dropout(to_polar(parts))
        log_modulus, angle = (torch.einsum("tpbfd,tfk->tpbkd", polar, self.orders) + self.shift).unbind(1)
        modulus = log_modulus.exp()
        return torch.stack([modulus * angle.cos(), modulus * angle.sin()], dim=1)


class EulerNet(nn.Module):
    """e -> mu (cos e + i sin e) with one learned mu a field, then Euler layers; real and imaginary parts to the head.

    Orders of interaction are learned rather than enumerated: prefer a cross network when they should be known.
    """

    def __init__(self, config: EulerNetConfig, num_tables: int, num_fields: int, dim: int) -> None:
        super().__init__()
        self.scale = config.scale
        self.output = config.output
        self.width = config.num_orders[-1] * dim * (2 if config.output == "concat" else 1)
        self.modulus = nn.Parameter(torch.ones(num_tables, 1, num_fields, 1))
        sizes = zip((num_fields, *config.num_orders), config.num_orders, strict=False)
        self.layers = nn.Sequential(*(EulerLayer(config, num_tables, size, out, dim) for size, out in sizes))

    def forward(self, fields: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, "tables batch width"]:
        modulus = self.modulus * self.scale
        parts = self.layers(torch.stack([modulus * fields.cos(), modulus * fields.sin()], dim=1)).flatten(3)
        return parts.sum(1) if self.output == "sum" else torch.cat(parts.unbind(1), dim=-1)


def _initial_orders(
    config: EulerNetConfig, num_tables: int, fields_in: int, fields_out: int
) -> Float[Tensor, "tables fields orders"]:
    if config.initial_orders == "uniform":
        return torch.full((num_tables, fields_in, fields_out), 1 / fields_in)
    if fields_in == fields_out:
        return torch.eye(fields_in).repeat(num_tables, 1, 1)
    return torch.softmax(torch.randn(num_tables, fields_in, fields_out) / SHARPNESS, dim=1)
