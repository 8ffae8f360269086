"""Poolings: how the terms of layer l and the raw vectors make the terms of layer l + 1.

With sources t^l_a and a function f of `ctr_models.interactions.functions`:

- `PairsPooling`: every f(e_a, e_b), a < b; second order only, for heads that read single products (IPNN, FiBiNET);
- `SumPooling`: one term, the sum of all (FM, NFM);
- `AnovaPooling`: one term, the sum over strictly increasing tuples of fields (HOFM);
- `FieldPooling`: for each field b the sum over a (cross layers of DCN, DCNv2, GDCN, PFL): one product a layer;
- `WeightedPooling`: learned weightings of all (a, b) (the compressed interaction network of xDeepFM).
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ctr_models.layers import Activation

MAX_NEWTON_ORDER = 5  # the identities subtract powers; above this order the sums over prefixes are safer


@dataclass(frozen=True, kw_only=True, slots=True)
class PairsPooling:
    """Keep all pairs a < b as terms: (batch, pairs, dim) in memory, or (batch, pairs) where the aggregator adds dim."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SumPooling:
    """One term: sum over pairs of f. Later layers, which have one source t, give sum_b f(t, e_b)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnovaPooling:
    """One term a layer: sum over a_1 < ... < a_l of f(... f(f(e_a1, e_a2), e_a3) ..., e_al).

    `prefix` sums from left to right (one running sum an order, exact at any order and for every function); `newton`
    (naive functions to order 5) needs only sums of powers: E_l = (1/l) sum_i (-1)^(i-1) E_(l-i) p_i.
    """

    method: Literal["newton", "prefix"] = "newton"


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldPooling:
    """t^(l+1)_b = (sum_a left_a W_ab + bias_b) * right_b [* sigmoid(gate_b)] [+ residual_b].

    DCNv2 takes left from the layer before and right from the raw vectors; xDeepInt the other way round; with
    `right="mapped"` the right factor is a second linear map of the layer before (FinalNet), so that the order doubles.
    `residual`: `previous` adds t^l (it unrolls to a sum over layers), `right` adds the right factor. `bias`: `inner` is
    multiplied by the right factor (DCNv2), `outer` is not (DCN v1). The gate is a projection of the layer before
    without bias (GDCN). `initial_bias`: "zero" (ours), or "uniform" in (0, 1) as GDCN's released code draws it, so that
    a fresh gated layer adds about a quarter of x_0 before it has learned anything.
    """

    left: Literal["previous", "raw"] = "previous"
    right: Literal["raw", "previous", "mapped"] = "raw"
    residual: Literal["none", "previous", "right"] = "none"
    bias: Literal["none", "inner", "outer"] = "none"
    gate: bool = False
    initial_bias: Literal["zero", "uniform"] = "zero"


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedPooling:
    """t^(l+1)_n = activation(sum_(a,b) C_nab f(t^l_a, e_b) + bias_n) for n up to `widths[l]`.

    The equation of xDeepFM has neither bias nor activation; common code has the bias, the multi-embedding code ReLU.
    """

    widths: tuple[int, ...] = (16, 16)
    activation: Activation = "none"
    bias: bool = False

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must name at least one layer, each at least 1 wide, got {self.widths}")


PoolingConfig: TypeAlias = PairsPooling | SumPooling | AnovaPooling | FieldPooling | WeightedPooling
