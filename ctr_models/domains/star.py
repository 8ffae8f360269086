"""STAR: star topology of one shared network and a factor for each domain (Sheng et al., CIKM 2021).

    z' = gamma gamma_p (z - mu_p) / sqrt(var_p + eps) + beta + beta_p          partitioned normalisation of the input
    h  = f( (W_s * W_p) h + b_s + b_p )                                        every layer; none after the logit's
    logit = star(z') + auxiliary(z)                                            all fields, the domain's among them

Equations from memory of the paper; the authors have no public code. Statistics are those of a domain's rows in the
batch, running ones of each domain in evaluation. The paper draws batches of one domain; here rows of all domains mix,
so a domain may have few: one alone becomes beta, and only domains with two rows or more move their running statistics
(our choices).

Heads are the factors: gamma_p and W_p, which start at 1, beta_p and b_p, at 0. Their shared parts and the statistics,
which are by domain for a root too, belong to the backbone.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.domains.features import BodyOutputs, BodySetting, DomainFeatures, as_module
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, Routing, domains_of
from ctr_models.dropout import Dropout
from ctr_models.layers import EPSILON, MOMENTUM, Activation, MLPConfig, activate, table_linear, xavier
from ctr_models.losses.lists import at_least_float32

AUXILIARY = MLPConfig(widths=(32,))


@dataclass(frozen=True, kw_only=True, slots=True)
class STARConfig:
    """The star's layers are the model's `tower`. `auxiliary`: hidden layers of the auxiliary network, None for none.
    `partitioned_norm` False feeds the star the vectors as they are.
    """

    auxiliary: MLPConfig | None = AUXILIARY
    partitioned_norm: bool = True

    def __post_init__(self) -> None:
        if self.auxiliary is not None:
            check_no_batch_norm("auxiliary", self.auxiliary)


class PartitionedNorm(nn.Module):
    """(z - mu_p) / sqrt(var_p + eps): rows by the statistics of their domain, without scale and shift."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_domains: int, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(num_domains, width))
        self.register_buffer("running_var", torch.ones(num_domains, width))

    def forward(
        self, rows: Float[Tensor, "batch width"], domains: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch width"]:
        values = at_least_float32(rows)
        if not self.training:
            mean, var = self.running_mean, self.running_var
            normal = (values - mean.index_select(0, domains)) * (var + EPSILON).rsqrt().index_select(0, domains)
            return normal.to(rows.dtype)
        empty = values.new_zeros(self.running_mean.shape)
        counts = values.new_zeros(len(empty), 1).index_add_(0, domains, torch.ones_like(values[:, :1]))
        filled = counts.clamp(min=1)
        mean = empty.index_add(0, domains, values) / filled
        centred = values - mean.index_select(0, domains)
        var = empty.index_add(0, domains, centred.square()) / filled
        self._update(counts, mean.detach(), var.detach())
        return (centred * (var + EPSILON).rsqrt().index_select(0, domains)).to(rows.dtype)

    @torch.no_grad()
    def _update(
        self,
        counts: Float[Tensor, "domains 1"],
        mean: Float[Tensor, "domains width"],
        var: Float[Tensor, "domains width"],
    ) -> None:
        share = MOMENTUM * counts.ge(2).to(mean.dtype)
        unbiased = var * counts / (counts - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share.expand_as(mean).to(self.running_mean.dtype))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share.expand_as(var).to(self.running_var.dtype))


class STAR(nn.Module):
    """Normalised vectors and the auxiliary logit; the star itself is in `StarHeads`."""

    def __init__(self, config: STARConfig, setting: BodySetting) -> None:
        super().__init__()
        if setting.by_task:
            raise ValueError("STAR is a model of domains; set by 'domain'")
        self.schema = setting.schema
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        self.width = source.num_fields * setting.dim
        self.norm = PartitionedNorm(setting.num_heads, self.width) if config.partitioned_norm else None
        self.auxiliary = None if config.auxiliary is None else HeadMLP(config.auxiliary, 1, self.width, outputs=1)

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        x: Tensor = self.sources[0](batch)[0].flatten(1)
        logits = x.new_zeros(len(x), 1)
        if self.auxiliary is not None:
            logits = self.auxiliary(x.unsqueeze(0), EveryHead(1))[0]
        vectors = x if self.norm is None else self.norm(x, domains_of(self.schema, batch))
        return BodyOutputs(DomainFeatures(vectors.unsqueeze(1), x[:, :0], logits), None, {})


class StarLayer(nn.Module):
    """(W_s * W_p) h + b_s + b_p."""

    def __init__(self, num_heads: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(xavier(1, inputs=inputs, outputs=outputs))
        self.bias = nn.Parameter(torch.zeros(1, outputs))
        self.factor = nn.Parameter(torch.ones(num_heads, inputs, outputs))
        self.shift = nn.Parameter(torch.zeros(num_heads, outputs))

    def forward(
        self, rows: Float[Tensor, "groups size inward"], routing: Routing
    ) -> Float[Tensor, "groups size outward"]:
        weight, bias = self.weight * self.factor, self.bias + self.shift
        return table_linear(rows, routing.select(weight), routing.select(bias))

    def own_parameters(self) -> list[nn.Parameter]:
        return [self.factor, self.shift]


class StarScale(nn.Module):
    """gamma gamma_p z + beta + beta_p."""

    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, width))
        self.bias = nn.Parameter(torch.zeros(1, width))
        self.factor = nn.Parameter(torch.ones(num_heads, width))
        self.shift = nn.Parameter(torch.zeros(num_heads, width))

    def forward(self, rows: Float[Tensor, "groups size width"], routing: Routing) -> Float[Tensor, "groups size width"]:
        scale, shift = self.weight * self.factor, self.bias + self.shift
        return rows * routing.select(scale).unsqueeze(1) + routing.select(shift).unsqueeze(1)

    def own_parameters(self) -> list[nn.Parameter]:
        return [self.factor, self.shift]


class StarHeads(nn.Module):
    """Scale, hidden layers of `tower` and the linear layer to the logit, each shared and with a factor a head."""

    def __init__(self, tower: MLPConfig, num_heads: int, inputs: int, *, scaled: bool) -> None:
        super().__init__()
        if tower.activation == "prelu":
            raise ValueError("a star has no PReLU: its slopes would be no product of shared and own; use relu")
        self.activation: Activation = tower.activation
        self.scale = StarScale(num_heads, inputs) if scaled else None
        self.dropout = Dropout(tower.dropout)
        sizes = (inputs, *tower.widths, 1)
        self.layers = nn.ModuleList(StarLayer(num_heads, inward, outward) for inward, outward in pairwise(sizes))

    def forward(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        h = routing.spread(features.vectors.transpose(0, 1))
        h = h if self.scale is None else self.scale(h, routing)
        for layer in self.layers[:-1]:
            h = self.dropout(activate(layer(h, routing), self.activation))
        logits = routing.collect(self.layers[-1](h, routing))
        return logits.squeeze(2).T + features.logits

    def own_parameters(self) -> list[nn.Parameter]:
        parts = [part for part in self.modules() if isinstance(part, StarScale | StarLayer)]
        return [parameter for part in parts for parameter in part.own_parameters()]
