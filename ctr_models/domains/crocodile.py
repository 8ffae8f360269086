"""Crocodile (arXiv 2405.12706): several embedding sets and experts that all domains share, kept apart by a covariance
loss, mixed by a gate that reads prior fields and weighs every dimension. A reconstruction: there is no public code.

    O_p = MLP_p(e^(p)),    g = softmax over p of (r W_g^s)_p,    t = sum_p g_p * O_p,    logit = tower_s(t)

r are the vectors of the prior fields (user, item, domain) in tables of their own. What no source settles is a setting:
`gate_per_domain`, `stop_prior_gradient`, and those of `CovarianceConfig`. That the softmax goes over experts for each
dimension by itself is our reading, the only one that makes the mixture convex.

Heads are (W_g^s, tower_s), as D-Train needs them. Experts with batch normalisation normalise rows of all domains
together.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.covariance import CovarianceConfig
from ctr_models.domains.decorrelation import DecorrelationConfig, decorrelation
from ctr_models.domains.features import BodyOutputs, BodySetting, DomainFeatures, as_module
from ctr_models.domains.fields import id_field_names, part_source
from ctr_models.domains.networks import HeadMLP
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLP, MLPConfig

EXPERT, LINEAR, COVARIANCE = MLPConfig(widths=(64,)), MLPConfig(widths=()), CovarianceConfig()


@dataclass(frozen=True, kw_only=True, slots=True)
class CrocodileConfig:
    """`use_me`: a table for each expert, or one for all. `decorrelation`: None for none. `use_peg`: the gate reads
    prior fields; without it, a linear gate of one weight an expert reads the sum of the tables' vectors, as in MMoE.
    `elementwise` False is a prior gate of one weight an expert. `prior_fields`: names of fields with ids, all of them
    when empty (our choice; the paper's are user, item and domain). `prior_dim`: None for the model's dim.
    """

    num_experts: int = 5
    expert: MLPConfig = EXPERT
    decorrelation: DecorrelationConfig | None = COVARIANCE
    use_me: bool = True
    use_peg: bool = True
    elementwise: bool = True
    prior_fields: tuple[str, ...] = ()
    prior_dim: int | None = None
    gate_per_domain: bool = True
    stop_prior_gradient: bool = False

    def __post_init__(self) -> None:
        check_at_least("num_experts", self.num_experts, 1)
        if not self.expert.widths:
            raise ValueError("an expert needs at least one hidden layer")
        if self.prior_dim is not None:
            check_at_least("prior_dim", self.prior_dim, 1)


class Crocodile(nn.Module):
    """Expert outputs and what the gates read, see the module. Its covariance loss is there in training alone."""

    def __init__(self, config: CrocodileConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        tables = config.num_experts if config.use_me else 1
        source = setting.build_sources(setting.schema, setting.dim, tables)
        inputs = source.num_fields * setting.dim
        parts = [as_module(source)]
        self.context = inputs
        if config.use_peg:
            names = id_field_names(setting.schema, config.prior_fields)
            dim = setting.dim if config.prior_dim is None else config.prior_dim
            parts.append(part_source(setting, names, dim))
            self.context = len(names) * dim
        self.sources = nn.ModuleList(parts)
        self.experts = MLP(config.expert, config.num_experts, inputs)
        self.width = self.experts.width

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        x: Tensor = self.sources[0](batch).flatten(2)
        experts: Tensor = self.experts(x.expand(self.config.num_experts, -1, -1))
        features = DomainFeatures(
            experts.transpose(0, 1).contiguous(),
            self._context(batch, x),
            experts.new_zeros(experts.shape[1], self.setting.num_outputs),
        )
        losses = {}
        if self.training and self.config.decorrelation is not None:
            losses["decorrelation"] = decorrelation(self.config.decorrelation, experts)
        return BodyOutputs(features, experts, losses)

    def _context(self, batch: FeatureBatch, x: Float[Tensor, "tables batch width"]) -> Float[Tensor, "batch context"]:
        if not self.config.use_peg:
            return x.sum(0)
        prior: Tensor = self.sources[1](batch)[0].flatten(1)
        return prior.detach() if self.config.stop_prior_gradient else prior


class GatedHeads(nn.Module):
    """A gate and a tower for each head; with one gate for all, that gate is the backbone's."""

    def __init__(self, config: CrocodileConfig, body: Crocodile, tower: MLPConfig, num_heads: int) -> None:
        super().__init__()
        self.config = config
        self.width = body.width if config.use_peg and config.elementwise else 1
        gates = num_heads if config.gate_per_domain else 1
        outputs = config.num_experts * self.width
        self.gate = HeadMLP(LINEAR, gates, body.context, outputs=outputs, last_bias=False)
        self.towers = HeadMLP(tower, num_heads, body.width, outputs=1)

    def forward(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        mixed = (self.weights(features, routing) * features.vectors).sum(2)
        logits: Tensor = self.towers(mixed, routing)
        return logits.squeeze(2).T + features.logits

    def weights(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "views batch experts gate_width"]:
        """Of each expert, for each dimension (or one for all): they sum to 1 over experts."""
        context = features.context.unsqueeze(0)
        logits: Tensor = self.gate(context, routing if self.config.gate_per_domain else EveryHead(1))
        return torch.unflatten(logits, 2, (self.config.num_experts, self.width)).softmax(2)

    def own_parameters(self) -> list[nn.Parameter]:
        parts = [self.gate, self.towers] if self.config.gate_per_domain else [self.towers]
        return [parameter for part in parts for parameter in part.parameters()]
