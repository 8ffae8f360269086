"""AdaSparse: one network whose neurons a pruner scales and switches off by domain (Yang et al., CIKM 2022).

    h_l = f(W_l h_(l-1) + b_l) * pi_l,    v_l = P_l [h_l before the factor; domain]

| form | pi |
|---|---|
| scaling | beta sigmoid(v) |
| binary | 1 where sigmoid(alpha v) reaches the threshold, else 0 |
| fusion | beta sigmoid(v) where that reaches the threshold, else 0 |

A reconstruction from memory of the paper. A loss draws the pruned share of each layer, 1 - mean(pi), towards the middle
of a range, with a weight that grows with the distance and is 0 inside it. Where a form cuts, the gradient passes as if
it had not (straight-through); the paper anneals alpha, here it stays (our choices).

The paper's model has one output for all domains: that is ``heads="root"`` with an empty tower.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_positive
from ctr_models.domains.features import BodyOutputs, BodySetting, as_module, plain_features
from ctr_models.domains.fields import domain_place
from ctr_models.layers import MLP, MLPConfig, TableLinear

HIDDEN = MLPConfig(widths=(128, 64))


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaSparseConfig:
    """`sparsity`: the range of the pruned share, with `sparsity_weight`; scaling prunes nothing and has no such loss.
    `hidden` with batch normalisation normalises rows of all domains together.
    """

    hidden: MLPConfig = HIDDEN
    form: Literal["scaling", "binary", "fusion"] = "fusion"
    beta: float = 2.0
    alpha: float = 1.0
    threshold: float = 0.25
    sparsity: tuple[float, float] = (0.15, 0.25)
    sparsity_weight: float = 0.01

    def __post_init__(self) -> None:
        check_positive("beta", self.beta)
        check_positive("alpha", self.alpha)
        if not self.hidden.widths:
            raise ValueError("hidden must have at least one layer, whose neurons the pruner weighs")
        if not 0 <= self.sparsity[0] <= self.sparsity[1] <= 1:
            raise ValueError(f"sparsity must be a range within [0, 1], got {self.sparsity}")
        if not 0 <= self.sparsity_weight < float("inf"):
            raise ValueError(f"sparsity_weight must be finite and not negative, got {self.sparsity_weight}")


class AdaSparse(nn.Module):
    """Hidden vectors of the pruned network, see the module."""

    def __init__(self, config: AdaSparseConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        self.domain = domain_place(setting.schema, "AdaSparse")
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        sizes = (source.num_fields * setting.dim, *config.hidden.widths)
        self.layers = nn.ModuleList(_layer(config.hidden, inward, outward) for inward, outward in pairwise(sizes))
        self.pruners = nn.ModuleList(TableLinear(1, width + setting.dim, width) for width in config.hidden.widths)
        self.width = sizes[-1]

    def forward(self, batch: FeatureBatch, routing: object) -> BodyOutputs:
        """All heads read the same vectors, so `routing` plays no part."""
        fields: Tensor = self.sources[0](batch)
        domain, h = fields[:, :, self.domain], fields.flatten(2)
        losses = []
        for layer, pruner in zip(self.layers, self.pruners, strict=True):
            h = layer(h)
            factors = self.factors(pruner(torch.cat([h, domain], 2)))
            h = h * factors
            losses.append(self._sparsity(factors))
        added = {"sparsity": torch.stack(losses).mean()} if self.training and self.config.form != "scaling" else {}
        return BodyOutputs(plain_features(h, self.setting.num_outputs), None, added)

    def factors(self, v: Float[Tensor, "*shape neurons"]) -> Float[Tensor, "*shape neurons"]:
        """pi, see the module."""
        config = self.config
        match config.form:
            case "scaling":
                return config.beta * v.sigmoid()
            case "binary":
                soft = (config.alpha * v).sigmoid()
                return soft + (soft.ge(config.threshold).to(soft.dtype) - soft).detach()
            case "fusion":
                scaled = config.beta * v.sigmoid()
                return scaled - (scaled * scaled.lt(config.threshold)).detach()
            case _:
                assert_never(config.form)

    def _sparsity(self, factors: Float[Tensor, "1 batch neurons"]) -> Float[Tensor, ""]:
        low, high = self.config.sparsity
        away = 1 - factors.mean() - (low + high) / 2
        outside = away.detach().abs() * (away.detach().abs() > (high - low) / 2)
        return self.config.sparsity_weight * outside * away.square()


def _layer(hidden: MLPConfig, inward: int, outward: int) -> MLP:
    alone = MLPConfig(
        widths=(outward,), activation=hidden.activation, batch_norm=hidden.batch_norm, dropout=hidden.dropout
    )
    return MLP(alone, 1, inward)
