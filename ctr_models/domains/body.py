"""Every body of a domain model by its config, with the heads that read it."""

from typing import TypeAlias, assert_never

from ctr_models.domains.adasparse import AdaSparse, AdaSparseConfig
from ctr_models.domains.crocodile import Crocodile, CrocodileConfig, GatedHeads
from ctr_models.domains.features import Body, BodySetting
from ctr_models.domains.heads import Heads, TowerHeads
from ctr_models.domains.hinet import HiNet, HiNetConfig
from ctr_models.domains.mixture import ExpertMixture, ExpertMixtureConfig
from ctr_models.domains.pepnet import PEPNet, PEPNetConfig
from ctr_models.domains.scenario_hmoe import ScenarioHMoE, ScenarioHMoEConfig, ScoreMixtureHeads
from ctr_models.domains.star import STAR, STARConfig, StarHeads
from ctr_models.domains.table_experts import HeteroMoE, HeteroMoEConfig
from ctr_models.layers import MLPConfig

BodyConfig: TypeAlias = (
    ExpertMixtureConfig
    | STARConfig
    | PEPNetConfig
    | AdaSparseConfig
    | HiNetConfig
    | ScenarioHMoEConfig
    | CrocodileConfig
    | HeteroMoEConfig
)


def build_body(config: BodyConfig, setting: BodySetting) -> Body:
    """The body of `config`, with its sources."""
    match config:
        case ExpertMixtureConfig():
            return ExpertMixture(config, setting)
        case STARConfig():
            return STAR(config, setting)
        case PEPNetConfig():
            return PEPNet(config, setting)
        case AdaSparseConfig():
            return AdaSparse(config, setting)
        case HiNetConfig():
            return HiNet(config, setting)
        case ScenarioHMoEConfig():
            return ScenarioHMoE(config, setting)
        case CrocodileConfig():
            return Crocodile(config, setting)
        case HeteroMoEConfig():
            return HeteroMoE(config, setting)
        case _:
            assert_never(config)


def build_heads(body: Body, tower: MLPConfig, num_heads: int) -> Heads:
    """Heads for the features of `body`."""
    match body:
        case Crocodile():
            return GatedHeads(body.config, body, tower, num_heads)
        case ScenarioHMoE():
            return ScoreMixtureHeads(body, num_heads)
        case STAR():
            return StarHeads(tower, num_heads, body.width, scaled=body.norm is not None)
        case PEPNet():
            return TowerHeads(MLPConfig(widths=()), num_heads, body.width)
        case _:
            return TowerHeads(tower, num_heads, body.width)
