"""Every body of a domain model by its config."""

from typing import TypeAlias

from ctr_models.domains.features import Body, BodySetting
from ctr_models.domains.heads import Heads, TowerHeads
from ctr_models.domains.mixture import ExpertMixture, ExpertMixtureConfig
from ctr_models.layers import MLPConfig

BodyConfig: TypeAlias = ExpertMixtureConfig


def build_body(config: BodyConfig, setting: BodySetting) -> Body:
    """The body of `config`, with its sources."""
    return ExpertMixture(config, setting)


def build_heads(config: BodyConfig, body: Body, tower: MLPConfig, num_heads: int) -> Heads:
    """Heads for the features of `body`, which was built of `config`."""
    return TowerHeads(tower, num_heads, body.width)
