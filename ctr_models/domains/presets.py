"""Models of several domains or tasks by name.

Widths without a source are our choice, near those of public toolkits: vectors of 16, experts (64,), towers (32,).
Models that their papers made for tasks have `by` "task" here, the others "domain"; most run either way.
"""

from collections.abc import Callable
from types import MappingProxyType

from ctr_models.domains.adasparse import AdaSparseConfig
from ctr_models.domains.crocodile import CrocodileConfig
from ctr_models.domains.hinet import HiNetConfig
from ctr_models.domains.mixture import ExpertMixtureConfig
from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.pepnet import PEPNetConfig
from ctr_models.domains.scenario_hmoe import ScenarioHMoEConfig
from ctr_models.domains.star import STARConfig
from ctr_models.domains.table_experts import HeteroMoEConfig, TableExpertConfig
from ctr_models.interactions.aggregators import AggregatorConfig
from ctr_models.interactions.network import FlattenConfig, ProductNetworkConfig
from ctr_models.interactions.pooling import FieldPooling, PairsPooling
from ctr_models.interactions.weights import FunctionConfig
from ctr_models.layers import MLPConfig

STEM_EXPERT, STEM_GATE, STEM_TOWER = (
    MLPConfig(widths=(512, 512, 512)),
    MLPConfig(widths=(128, 64)),
    MLPConfig(widths=(128, 64)),
)
EXPERT_LAYER = MLPConfig(widths=(64,))


def shared_bottom() -> DomainModelConfig:
    """One MLP for all, a tower each (Caruana, 1997)."""
    return DomainModelConfig(body=ExpertMixtureConfig(num_shared=1))


def omoe(*, num_experts: int = 4) -> DomainModelConfig:
    """Experts and one gate for all heads (Ma et al., KDD 2018, their ablation)."""
    return DomainModelConfig(body=ExpertMixtureConfig(num_shared=num_experts, gates="one"))


def mmoe(*, num_experts: int = 4) -> DomainModelConfig:
    """Experts for all, a gate for each head (Ma et al., KDD 2018)."""
    return DomainModelConfig(body=ExpertMixtureConfig(num_shared=num_experts))


def ple(*, num_shared: int = 1, num_specific: int = 2, num_levels: int = 1) -> DomainModelConfig:
    """Shared and own experts in levels (Tang et al., RecSys 2020); one level is CGC."""
    body = ExpertMixtureConfig(num_shared=num_shared, num_specific=num_specific, num_levels=num_levels)
    return DomainModelConfig(body=body)


def star() -> DomainModelConfig:
    """Partitioned normalisation, a star of three layers, an auxiliary network; widths of Scenario-Wise-Rec."""
    return DomainModelConfig(body=STARConfig(), tower=MLPConfig(widths=(128, 64, 32)))


def pepnet() -> DomainModelConfig:
    """EPNet, then PPNet on the tower of each head."""
    return DomainModelConfig(body=PEPNetConfig())


def adasparse() -> DomainModelConfig:
    """One network for all domains, pruned by domain: one output, as published; split it for a head each."""
    return DomainModelConfig(body=AdaSparseConfig(), tower=MLPConfig(widths=()), heads="root")


def hinet() -> DomainModelConfig:
    """Shared, own and others' extraction."""
    return DomainModelConfig(body=HiNetConfig())


def scenario_hmoe(*, num_experts: int = 4) -> DomainModelConfig:
    """MMoE whose scores are mixed again, over all scenarios."""
    return DomainModelConfig(body=ScenarioHMoEConfig(num_experts=num_experts))


def stem(*, num_shared: int = 8, num_specific: int = 1, num_levels: int = 1) -> DomainModelConfig:
    """A table for each task and a shared one, foreign experts stopped (arXiv 2308.13537). Numbers of the authors'
    config for TikTok, whose training is Adam 1e-3, batches of 4,096 and L2 1e-6 on embeddings.
    """
    return DomainModelConfig(body=_stem(num_shared, num_specific, num_levels), by="task", tower=STEM_TOWER)


def stem_al(*, main: int = 0, num_specific: int = 1) -> DomainModelConfig:
    """STEM for one main task: it sees the experts of all, an auxiliary task its own, and none is shared."""
    body = ExpertMixtureConfig(
        num_shared=0,
        num_specific=num_specific,
        expert=STEM_EXPERT,
        gate=STEM_GATE,
        tables="head",
        foreign="stopped",
        main=main,
    )
    return DomainModelConfig(body=body, by="task", tower=STEM_TOWER)


def sdem(*, num_shared: int = 8, num_specific: int = 1) -> DomainModelConfig:
    """STEM with domains for tasks, as the Crocodile paper ports it."""
    return DomainModelConfig(body=_stem(num_shared, num_specific, 1), tower=STEM_TOWER)


def ame(*, dims: tuple[int, ...] = (16, 32, 64), num_experts: int = 1) -> DomainModelConfig:
    """Tables of different dims, experts on each, a gate for each task, nothing stopped (arXiv 2403.00793)."""
    experts = tuple(TableExpertConfig(dim=dim, num_experts=num_experts) for dim in dims)
    return DomainModelConfig(body=HeteroMoEConfig(experts=experts), by="task")


def me_mmoe(*, num_experts: int = 5) -> DomainModelConfig:
    """MMoE whose experts have a table each: our definition of a baseline without public code."""
    return DomainModelConfig(body=ExpertMixtureConfig(num_shared=num_experts, tables="expert"))


def me_ple(*, num_shared: int = 1, num_specific: int = 1) -> DomainModelConfig:
    """PLE whose experts, shared and own, have a table each: our definition of a baseline without public code."""
    body = ExpertMixtureConfig(
        num_shared=num_shared, num_specific=num_specific, tables="expert", gate_reads="own_and_shared"
    )
    return DomainModelConfig(body=body)


def crocodile(*, num_experts: int = 5) -> DomainModelConfig:
    """Five tables and experts, covariance loss 2e-5, prior gate (arXiv 2405.12706, a reconstruction). Widths, dim and
    training are not published: those of Scenario-Wise-Rec are Adam 1e-3, weight decay 1e-5, batches of 4,096.
    """
    return DomainModelConfig(body=CrocodileConfig(num_experts=num_experts))


def hetero_moe(*, gate: MLPConfig | None = None) -> DomainModelConfig:
    """Three tables, read by a cross network, inner products and an MLP (arXiv 2403.00793; the choice is ours)."""
    cross = ProductNetworkConfig(
        function=FunctionConfig(kind="projected", init="xavier_whole"),
        pooling=FieldPooling(residual="previous", bias="inner"),
        num_layers=2,
    )
    products = ProductNetworkConfig(
        function=FunctionConfig(triangular=True),
        pooling=PairsPooling(),
        aggregator=AggregatorConfig(kind="concat", reduce_dim=True),
    )
    experts = tuple(
        TableExpertConfig(interaction=interaction, layers=EXPERT_LAYER)
        for interaction in (cross, products, FlattenConfig())
    )
    return DomainModelConfig(body=HeteroMoEConfig(experts=experts, gate=gate or MLPConfig(widths=())))


def _stem(num_shared: int, num_specific: int, num_levels: int) -> ExpertMixtureConfig:
    return ExpertMixtureConfig(
        num_shared=num_shared,
        num_specific=num_specific,
        num_levels=num_levels,
        expert=STEM_EXPERT,
        gate=STEM_GATE,
        gate_reads="own_and_shared",
        tables="head",
        foreign="stopped",
    )


PRESETS: MappingProxyType[str, Callable[[], DomainModelConfig]] = MappingProxyType(
    {
        "shared_bottom": shared_bottom,
        "omoe": omoe,
        "mmoe": mmoe,
        "ple": ple,
        "star": star,
        "pepnet": pepnet,
        "adasparse": adasparse,
        "hinet": hinet,
        "scenario_hmoe": scenario_hmoe,
        "stem": stem,
        "stem_al": stem_al,
        "sdem": sdem,
        "ame": ame,
        "me_mmoe": me_mmoe,
        "me_ple": me_ple,
        "crocodile": crocodile,
        "hetero_moe": hetero_moe,
    }
)
