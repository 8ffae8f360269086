"""Target attention: scores of events against the candidate, weights of those found, and their pooled vector.

    h = sum over found i of w_i r_i,    w = softmax over found of score(a_t, a_i)

DARE's score (arXiv 2410.02604, its code) adds two scaled products, one of what an event is and one of when it was:

    s_i = <a_i^sem, a_t^sem> / sqrt(d_sem) + <a_i^time, a_t^time> / sqrt(d_time)

which is one product with a query whose parts are scaled beforehand.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias, assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.checks import check_sizes
from ctr_models.layers import HiddenActivation, TableLinear, TablePReLU, activate, xavier
from ctr_models.sequences.found import masked_softmax, take_events
from ctr_models.sequences.search import dot_scores

Scale = Literal["split", "joint", "repeated_time"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DotScoreConfig:
    """Scaled dot product. `scale`: "split" is the equation above, that of the released code; "joint" divides the whole
    product by sqrt(d_sem + d_time), as summaries of the paper write it. "repeated_time" is what the released code
    computes for hard search, for parity alone: the joint product plus the time part once more, over sqrt(d_time).
    """

    scale: Scale = "split"


@dataclass(frozen=True, kw_only=True, slots=True)
class MLPScoreConfig:
    """DIN's score (arXiv 1706.06978), as in the DARE repository: MLP([q, k, q - k, q * k]) / width of q. The last layer
    has one output and no activation.
    """

    hidden: tuple[int, ...] = (36,)
    activation: HiddenActivation = "prelu"

    def __post_init__(self) -> None:
        check_sizes("hidden", self.hidden)


ScoreConfig: TypeAlias = DotScoreConfig | MLPScoreConfig


class DotScore(nn.Module):
    """See `DotScoreConfig`. The last `time_width` of `width` numbers are the time part, 0 where there is none."""

    scales: Tensor

    def __init__(self, config: DotScoreConfig, width: int, time_width: int) -> None:
        super().__init__()
        self.register_buffer("scales", query_scales(config.scale, width, time_width), persistent=False)

    def forward(
        self, query: Float[Tensor, "tables batch width"], keys: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch length"]:
        return dot_scores(self.scaled(query), keys)

    def scaled(self, query: Float[Tensor, "tables batch width"]) -> Float[Tensor, "tables batch width"]:
        """The vector whose plain dot product with an event's is the score: what a server or an index searches with."""
        return query * self.scales.to(query.dtype)


def query_scales(scale: Scale, width: int, time_width: int) -> Float[Tensor, "width"]:
    """What each number of a query is multiplied by.

    >>> query_scales("split", 5, 1).tolist(), query_scales("joint", 4, 1).tolist()
    ([0.5, 0.5, 0.5, 0.5, 1.0], [0.5, 0.5, 0.5, 0.5])
    """
    semantic = width - time_width
    match scale:
        case "split":
            numbers = [1 / math.sqrt(max(semantic, 1))] * semantic + [1 / math.sqrt(max(time_width, 1))] * time_width
        case "joint":
            numbers = [1 / math.sqrt(width)] * width
        case "repeated_time":
            again = 1 / math.sqrt(width) + 1 / math.sqrt(max(time_width, 1))
            numbers = [1 / math.sqrt(width)] * semantic + [again] * time_width
        case _:
            assert_never(scale)
    return torch.tensor(numbers)


class MLPScore(nn.Module):
    """See `MLPScoreConfig`. The first layer is W_q q + W_k k + W_d (q - k) + W_p (q * k), so what multiplies k is one
    matrix a row, W_k - W_d + diag(q) W_p: a quarter of the work, and nothing four times as wide is ever there.
    """

    def __init__(self, config: MLPScoreConfig, num_tables: int, width: int) -> None:
        super().__init__()
        sizes = (*config.hidden, 1)
        self.weight = nn.Parameter(xavier(num_tables, inputs=4 * width, outputs=sizes[0]))
        self.bias = nn.Parameter(torch.zeros(num_tables, sizes[0]))
        self.config, self.width = config, width
        self.layers = nn.ModuleList(TableLinear(num_tables, inward, outward) for inward, outward in pairwise(sizes))
        slopes = config.hidden if config.activation == "prelu" else ()
        self.slopes = nn.ModuleList(TablePReLU(num_tables) for _ in slopes)

    def forward(
        self, query: Float[Tensor, "tables batch width"], keys: Float[Tensor, "tables batch length width"]
    ) -> Float[Tensor, "tables batch length"]:
        of_query, of_key, of_difference, of_product = self.weight.chunk(4, dim=1)
        matrices = (of_key - of_difference).unsqueeze(1) + query.unsqueeze(-1) * of_product.unsqueeze(1)
        constant = torch.baddbmm(self.bias.unsqueeze(1), query, of_query + of_difference)
        out = keys @ matrices + constant.unsqueeze(2)
        for number, layer in enumerate(self.layers):
            out = layer(self._activate(out, number))
        scores: Tensor = out.squeeze(-1) / self.width
        return scores

    def _activate(self, values: Tensor, number: int) -> Tensor:
        if self.config.activation == "prelu":
            bent: Tensor = self.slopes[number](values)
            return bent
        return activate(values, self.config.activation)


Score: TypeAlias = DotScore | MLPScore


def build_score(config: ScoreConfig, num_tables: int, width: int, time_width: int) -> Score:
    """The score of `config` over attention vectors `width` wide, whose last `time_width` numbers are the time part."""
    match config:
        case DotScoreConfig():
            return DotScore(config, width, time_width)
        case MLPScoreConfig():
            return MLPScore(config, num_tables, width)
        case _:
            assert_never(config)


def attention_weights(
    scores: Float[Tensor, "tables batch events"], real: Bool[Tensor, "#tables batch events"]
) -> Float[Tensor, "tables batch events"]:
    """Softmax over real events, in float32 at least; others weigh exactly 0, and a row without any all 0.

    >>> attention_weights(torch.tensor([[[9.0, 1.0, 1.0]]]), torch.tensor([[[False, True, True]]])).tolist()
    [[[0.0, 0.5, 0.5]]]
    """
    return masked_softmax(scores, real.expand_as(scores)).to(scores.dtype)


def pool(
    weights: Float[Tensor, "tables batch length"], events: Float[Tensor, "tables batch length width"]
) -> Float[Tensor, "tables batch width"]:
    """sum_i w_i r_i over all events."""
    pooled: Tensor = torch.einsum("tbl,tblw->tbw", weights, events)
    return pooled


def pool_found(
    weights: Float[Tensor, "tables batch k"],
    events: Float[Tensor, "tables batch length width"],
    indices: Int64[Tensor, "tables batch k"],
) -> Float[Tensor, "tables batch width"]:
    """sum_i w_i r_i over the events at `indices`: k rows are read, not `length`."""
    return pool(weights, take_events(events, indices))
