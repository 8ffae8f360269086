"""HiNet: what scenarios share, what each has, and what each takes of the others (Zhou et al., ICDE 2023).

    G = SEI(x),  S_i = SEI_i(x),  A_i = sum over n != i of a_in S_n,  a_i = softmax(W_i x),  tower_i([G; S_i; A_i])

SEI: sub-experts mixed by a linear gate. A reconstruction from memory of the paper's scenario extraction; the attention
over other scenarios reads all fields, the scenario's among them, and the layer of tasks within scenarios is left out
(our choices): scenarios are the heads. With one head A is 0.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.domains.features import BodyOutputs, BodySetting, as_module, plain_features
from ctr_models.domains.mixture import as_list, mix
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLPConfig

EXPERT, LINEAR = MLPConfig(widths=(64,)), MLPConfig(widths=())


@dataclass(frozen=True, kw_only=True, slots=True)
class HiNetConfig:
    """`num_sub_experts` for the shared extraction and for each scenario's."""

    num_sub_experts: int = 2
    expert: MLPConfig = EXPERT

    def __post_init__(self) -> None:
        check_at_least("num_sub_experts", self.num_sub_experts, 1)
        check_no_batch_norm("expert", self.expert)
        if not self.expert.widths:
            raise ValueError("an expert needs at least one hidden layer")


class SubExperts(nn.Module):
    """SEI of each of `num_sets`, all on the same rows."""

    def __init__(self, config: HiNetConfig, num_sets: int, inputs: int) -> None:
        super().__init__()
        self.copies, self.every = config.num_sub_experts, EveryHead(num_sets)
        self.experts = HeadMLP(config.expert, num_sets, inputs, copies=self.copies)
        self.gate = HeadMLP(LINEAR, num_sets, inputs, outputs=self.copies) if self.copies > 1 else None

    def forward(self, x: Float[Tensor, "1 batch inward"]) -> Float[Tensor, "sets batch dim"]:
        outputs: Tensor = self.experts(x, self.every)
        if self.gate is None:
            return outputs
        weights: Tensor = self.gate(x, self.every).softmax(-1)
        return (weights.unsqueeze(3) * torch.unflatten(outputs, 2, (self.copies, -1))).sum(2)


class HiNet(nn.Module):
    """[G; S_i; A_i] of a row's head, see the module."""

    others: Tensor

    def __init__(self, config: HiNetConfig, setting: BodySetting) -> None:
        super().__init__()
        self.setting = setting
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        inputs, heads = source.num_fields * setting.dim, setting.num_heads
        self.common, self.scenarios = SubExperts(config, 1, inputs), SubExperts(config, heads, inputs)
        self.attention = HeadMLP(LINEAR, heads, inputs, outputs=heads) if heads > 2 else None
        self.register_buffer("others", torch.where(torch.eye(heads) > 0, -torch.inf, 0.0), persistent=False)
        self.width = 3 * config.expert.widths[-1]

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        x: Tensor = self.sources[0](batch).flatten(2)
        common, scenarios = self.common(x), self.scenarios(x)
        own = routing.own(scenarios)
        weights = self._weights(x, routing)
        taken = torch.zeros_like(own) if weights is None else mix(weights, scenarios)
        vectors = torch.cat([common.expand_as(own), own, taken], 2)
        experts = as_list(scenarios, 1, common)
        return BodyOutputs(plain_features(vectors, self.setting.num_outputs), experts, {}, weights)

    def _weights(
        self, x: Float[Tensor, "1 batch inward"], routing: Routing
    ) -> Float[Tensor, "views batch heads"] | None:
        """Over other scenarios; of two heads each has but one other."""
        if self.setting.num_heads == 1:
            return None
        others = routing.rows_of(self.others).to(x.dtype).expand(-1, x.shape[1], -1)
        return (others if self.attention is None else others + self.attention(x, routing)).softmax(-1)
