"""HMoE of several scenarios: experts mixed for each, then scores of all of them mixed (Li et al., CIKM 2020).

    z_j = sum_e g_je O_e,    s_j = tower_j(z_j),    logit_k = sum_j a_kj s_j,    a_k = softmax(A_k x)

Tasks are related where labels are, not only where features are: every tower scores every row, and a row's scenario
weighs all scores; those of other scenarios enter as constants, so that a tower learns from its own rows alone. A
reconstruction from memory of the paper; that the second gate reads the field vectors is our choice. Not `HeteroMoE`,
which others call HMoE too.

Heads are (A_k, tower_k). A logit depends on the towers of all domains, so training of heads alone (D-Train) keeps each
head from the gradients of other domains, but not from their moves.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.features import BodyOutputs, BodySetting, DomainFeatures, as_module
from ctr_models.domains.mixture import mix
from ctr_models.domains.networks import HeadMLP
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLP, MLPConfig

EXPERT, LINEAR = MLPConfig(widths=(64,)), MLPConfig(widths=())


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioHMoEConfig:
    """`num_experts` that all scenarios share, with linear gates. Experts with batch normalisation normalise rows of all
    domains together.
    """

    num_experts: int = 4
    expert: MLPConfig = EXPERT

    def __post_init__(self) -> None:
        check_at_least("num_experts", self.num_experts, 2)
        if not self.expert.widths:
            raise ValueError("an expert needs at least one hidden layer")


class ScenarioHMoE(nn.Module):
    """z of all heads, which the heads score; see the module."""

    def __init__(self, config: ScenarioHMoEConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.setting = config, setting
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        self.context = source.num_fields * setting.dim
        self.experts = MLP(config.expert, config.num_experts, self.context)
        self.gate = HeadMLP(LINEAR, setting.num_heads, self.context, outputs=config.num_experts)
        self.width = self.experts.width

    def forward(self, batch: FeatureBatch, routing: object) -> BodyOutputs:
        """Every head has a view of every row, so `routing` plays no part."""
        x: Tensor = self.sources[0](batch).flatten(2)
        experts: Tensor = self.experts(x.expand(self.config.num_experts, -1, -1))
        weights: Tensor = self.gate(x, EveryHead(self.setting.num_heads)).softmax(-1)
        views = mix(weights, experts).transpose(0, 1).contiguous()
        logits = views.new_zeros(len(views), self.setting.num_outputs)
        return BodyOutputs(DomainFeatures(views, x[0], logits), experts, {}, weights)


class ScoreMixtureHeads(nn.Module):
    """A tower for each head on its own view, and a gate for each head over the scores of all."""

    mine: Tensor

    def __init__(self, body: ScenarioHMoE, tower: MLPConfig, num_heads: int) -> None:
        super().__init__()
        heads = body.setting.num_heads
        self.towers = HeadMLP(tower, num_heads, body.width, outputs=1)
        self.gate = HeadMLP(LINEAR, num_heads, body.context, outputs=heads)
        self.register_buffer("mine", torch.eye(heads), persistent=False)

    def forward(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        every = EveryHead(len(self.mine))
        every = every.as_root() if len(next(self.towers.parameters())) < len(self.mine) else every
        scores: Tensor = self.towers(features.vectors.transpose(0, 1), every)
        by_row = scores.squeeze(2).T
        weights: Tensor = self.gate(features.context.unsqueeze(0), routing).softmax(-1)
        mine = routing.rows_of(self.mine).to(weights.dtype)
        mixed = (weights * (mine * by_row + (1 - mine) * by_row.detach())).sum(2)
        return mixed.T + features.logits

    def own_parameters(self) -> list[nn.Parameter]:
        return [parameter for part in (self.gate, self.towers) for parameter in part.parameters()]
