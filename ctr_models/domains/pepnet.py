"""PEPNet: gates that personalise embeddings by domain and towers by prior fields (Chang et al., KDD 2023).

    gate(x) = gamma sigmoid( W' ReLU(W x + b) + b' ),  gamma = 2: it starts near 1           GateNU
    EPNet:  o   = gate([domain, stop(e)]) * e
    PPNet:  h_l = gate_l([prior, stop(o)]) * f(W_l h_(l-1) + b_l)                            for each head, h_0 = o

Equations from memory of the paper. The stopped inputs inform the gates and learn nothing from them. Gates multiply the
outputs of hidden layers (our reading of "every layer of the task towers"); the hidden layer of a gate is shared by
heads, its last layer theirs, which equals one network whose result is cut into heads.

Domain and prior vectors are those of the table itself. Towers are the backbone's, without their last layers, which are
the heads.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least, check_positive
from ctr_models.domains.features import BodyOutputs, BodySetting, as_module, plain_features
from ctr_models.domains.fields import domain_place, id_field_names, places_of
from ctr_models.domains.networks import HeadMLP, check_no_batch_norm
from ctr_models.domains.routing import EveryHead, Routing
from ctr_models.layers import MLPConfig

HIDDEN = MLPConfig(widths=(64, 32))


@dataclass(frozen=True, kw_only=True, slots=True)
class PEPNetConfig:
    """`hidden`: layers of PPNet's towers (the model's `tower` plays no part). `gate_dim`: hidden width of the gates.
    `prior_fields`: names of fields with ids, all of them when empty (our choice; the paper's are user, item, author).
    """

    hidden: MLPConfig = HIDDEN
    gate_dim: int = 64
    gamma: float = 2.0
    prior_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_at_least("gate_dim", self.gate_dim, 1)
        check_positive("gamma", self.gamma)
        check_no_batch_norm("hidden", self.hidden)
        if not self.hidden.widths:
            raise ValueError("hidden must have at least one layer, whose output a gate multiplies")


class Gate(nn.Module):
    """GateNU with a last layer for each of `num_heads` heads."""

    def __init__(self, num_heads: int, inputs: int, dim: int, outputs: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.hidden = HeadMLP(MLPConfig(widths=(dim,)), 1, inputs)
        self.last = HeadMLP(MLPConfig(widths=()), num_heads, dim, outputs=outputs)

    def forward(self, rows: Float[Tensor, "1 batch inward"], routing: Routing) -> Float[Tensor, "views batch outward"]:
        gate: Tensor = self.last(self.hidden(rows, EveryHead(1)), routing)
        return self.gamma * gate.sigmoid()


class PEPNet(nn.Module):
    """Hidden vectors of a row's own tower, see the module."""

    def __init__(self, config: PEPNetConfig, setting: BodySetting) -> None:
        super().__init__()
        self.setting = setting
        self.domain = domain_place(setting.schema, "PEPNet")
        self.prior = places_of(setting.schema, id_field_names(setting.schema, config.prior_fields))
        source = setting.build_sources(setting.schema, setting.dim, 1)
        self.sources = nn.ModuleList([as_module(source)])
        inputs, heads = source.num_fields * setting.dim, setting.num_heads
        self.embedding_gate = Gate(1, setting.dim + inputs, config.gate_dim, inputs, config.gamma)
        sizes, prior = (inputs, *config.hidden.widths), len(self.prior) * setting.dim
        alone = [replace(config.hidden, widths=(width,)) for width in config.hidden.widths]
        self.towers = nn.ModuleList(
            HeadMLP(layer, heads, inward) for layer, (inward, _) in zip(alone, pairwise(sizes), strict=True)
        )
        self.tower_gates = nn.ModuleList(
            Gate(heads, prior + inputs, config.gate_dim, width, config.gamma) for width in config.hidden.widths
        )
        self.width = sizes[-1]

    def forward(self, batch: FeatureBatch, routing: Routing) -> BodyOutputs:
        fields: Tensor = self.sources[0](batch)[0]
        e = fields.flatten(1).unsqueeze(0)
        domain = fields[:, self.domain].unsqueeze(0)
        o = self.embedding_gate(torch.cat([domain, e.detach()], 2), EveryHead(1)) * e
        prior = torch.cat([fields[:, self.prior].flatten(1).unsqueeze(0), o.detach()], 2)
        hidden = o
        for tower, gate in zip(self.towers, self.tower_gates, strict=True):
            hidden = gate(prior, routing) * tower(hidden, routing)
        return BodyOutputs(plain_features(hidden, self.setting.num_outputs), None, {})
