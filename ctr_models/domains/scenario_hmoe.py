"""HMoE of several scenarios: experts mixed for each, then scores of all of them mixed (Li et al., CIKM 2020).

    z_j = sum_e g_je O_e,    s_j = tower_j(z_j),    logit_k = sum_j a_kj s_j,    a_k = softmax(A_k x)

Tasks are related where labels are, not only where features are: every tower scores every row, and a row's scenario
weighs all scores; those of other scenarios enter as constants, so that a tower learns from its own rows alone. A
reconstruction from memory of the paper; that the second gate reads the field vectors is our choice. Not `HeteroMoE`,
which others call HMoE too.

A logit depends on the towers of all scenarios, so these are the backbone's; heads are the gates A_k.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.features import BodyOutputs, BodySetting, DomainFeatures, as_module
from ctr_models.domains.mixture import mix
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLP, MLPConfig

EXPERT, TOWER, LINEAR = MLPConfig(widths=(64,)), MLPConfig(widths=(32,)), MLPConfig(widths=())


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioHMoEConfig:
    """`num_experts` that all scenarios share, with linear gates, and hidden layers of each scenario's `tower` (the
    model's own plays no part). Experts with batch normalisation normalise rows of all domains together.
    """

    num_experts: int = 4
    expert: MLPConfig = EXPERT
    tower: MLPConfig = TOWER

    def __post_init__(self) -> None:
        check_at_least("num_experts", self.num_experts, 2)
        check_no_batch_norm("tower", self.tower)
        if not self.expert.widths:
            raise ValueError("an expert needs at least one hidden layer")


class ScenarioHMoE(nn.Module):
    """Scores of all scenarios, of which a row's own alone has a gradient; see the module."""

    mine: Tensor

    def __init__(self, config: ScenarioHMoEConfig, setting: BodySetting) -> None:
        super().__init__()
        self.config, self.every = config, EveryHead(setting.num_heads)
        self.num_outputs = setting.num_outputs
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        self.context = source.num_fields * setting.dim
        self.experts = MLP(config.expert, config.num_experts, self.context)
        self.gate = HeadMLP(LINEAR, setting.num_heads, self.context, outputs=config.num_experts)
        self.towers = HeadMLP(config.tower, setting.num_heads, self.experts.width, outputs=1)
        self.register_buffer("mine", torch.eye(setting.num_heads), persistent=False)
        self.width = setting.num_heads

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        x: Tensor = self.sources[0](batch).flatten(2)
        experts: Tensor = self.experts(x.expand(self.config.num_experts, -1, -1))
        weights: Tensor = self.gate(x, self.every).softmax(-1)
        scores = self.towers(mix(weights, experts), self.every).squeeze(2).T
        mine = routing.rows_of(self.mine).to(scores.dtype)
        views = (mine * scores + (1 - mine) * scores.detach()).transpose(0, 1).contiguous()
        features = DomainFeatures(views, x[0], scores.new_zeros(len(views), self.num_outputs))
        return BodyOutputs(features, experts, {}, routing.own(weights))


class ScoreMixtureHeads(nn.Module):
    """A gate for each head over the scores of all."""

    def __init__(self, body: ScenarioHMoE, num_heads: int) -> None:
        super().__init__()
        self.gate = HeadMLP(LINEAR, num_heads, body.context, outputs=body.width)

    def forward(self, features: DomainFeatures, routing: Routing) -> Float[Tensor, "batch outputs"]:
        weights: Tensor = self.gate(features.context.unsqueeze(0), routing).softmax(-1)
        return (weights * features.vectors.transpose(0, 1)).sum(2).T + features.logits

    def own_parameters(self) -> list[nn.Parameter]:
        return list(self.gate.parameters())
