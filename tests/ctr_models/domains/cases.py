"""A small config of every kind of body, with the ways it runs."""

from ctr_models.domains.adasparse import AdaSparseConfig
from ctr_models.domains.crocodile import CrocodileConfig
from ctr_models.domains.decorrelation import SimilarityConfig
from ctr_models.domains.hinet import HiNetConfig
from ctr_models.domains.mixture import ExpertMixtureConfig
from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.pepnet import PEPNetConfig
from ctr_models.domains.scenario_hmoe import ScenarioHMoEConfig
from ctr_models.domains.star import STARConfig
from ctr_models.domains.table_experts import HeteroMoEConfig, TableExpertConfig
from ctr_models.interactions.network import ProductNetworkConfig
from ctr_models.layers import MLPConfig
from tests.ctr_models.domains.worlds import EXPERT

COSINE = SimilarityConfig(measure="cosine", weight=0.1)
MIXED = (
    TableExpertConfig(layers=EXPERT),
    TableExpertConfig(interaction=ProductNetworkConfig(), layers=EXPERT),
    TableExpertConfig(layers=EXPERT),
)
DIMS = tuple(TableExpertConfig(layers=EXPERT, dim=dim, num_experts=2) for dim in (2, 4, 3))
CASES = {
    "shared_bottom": ExpertMixtureConfig(num_shared=1, expert=EXPERT),
    "omoe": ExpertMixtureConfig(num_shared=3, expert=EXPERT, gates="one"),
    "mmoe": ExpertMixtureConfig(num_shared=3, expert=EXPERT, gate=MLPConfig(widths=(4,))),
    "mmoe_levels": ExpertMixtureConfig(num_shared=2, expert=EXPERT, num_levels=2),
    "cgc": ExpertMixtureConfig(num_shared=2, num_specific=2, expert=EXPERT),
    "ple": ExpertMixtureConfig(num_shared=2, num_specific=2, num_levels=3, expert=EXPERT),
    "own_alone": ExpertMixtureConfig(num_shared=0, num_specific=1, expert=EXPERT),
    "stem": ExpertMixtureConfig(
        num_shared=2, num_specific=1, expert=EXPERT, tables="head", foreign="stopped", gate_reads="own_and_shared"
    ),
    "stem_levels": ExpertMixtureConfig(
        num_shared=2,
        num_specific=2,
        num_levels=2,
        expert=EXPERT,
        tables="head",
        foreign="stopped",
        gate_reads="own_and_shared",
    ),
    "stem_open": ExpertMixtureConfig(num_shared=1, num_specific=1, expert=EXPERT, tables="head", foreign="open"),
    "stem_al": ExpertMixtureConfig(
        num_shared=0, num_specific=2, expert=EXPERT, tables="head", foreign="stopped", main=0
    ),
    "me_mmoe": ExpertMixtureConfig(num_shared=3, expert=EXPERT, tables="expert"),
    "me_ple": ExpertMixtureConfig(
        num_shared=1, num_specific=2, expert=EXPERT, tables="expert", gate_reads="own_and_shared"
    ),
    "me_ple_levels": ExpertMixtureConfig(
        num_shared=2, num_specific=2, num_levels=2, expert=EXPERT, tables="expert", gate_reads="own_and_shared"
    ),
    "star": STARConfig(auxiliary=MLPConfig(widths=(4,))),
    "star_alone": STARConfig(auxiliary=None, partitioned_norm=False),
    "pepnet": PEPNetConfig(hidden=EXPERT, gate_dim=4, prior_fields=("user", "item")),
    "adasparse": AdaSparseConfig(hidden=EXPERT),
    "adasparse_binary": AdaSparseConfig(hidden=EXPERT, form="binary"),
    "adasparse_scaling": AdaSparseConfig(hidden=EXPERT, form="scaling"),
    "hinet": HiNetConfig(expert=EXPERT),
    "scenario_hmoe": ScenarioHMoEConfig(num_experts=3, expert=EXPERT, tower=MLPConfig(widths=(4,))),
    "crocodile": CrocodileConfig(num_experts=3, expert=EXPERT, prior_dim=2),
    "crocodile_shared_gate": CrocodileConfig(
        num_experts=2, expert=EXPERT, gate_per_domain=False, prior_fields=("user", "page")
    ),
    "crocodile_scalar": CrocodileConfig(num_experts=3, expert=EXPERT, elementwise=False, decorrelation=COSINE),
    "crocodile_off": CrocodileConfig(num_experts=3, expert=EXPERT, decorrelation=None, use_me=False, use_peg=False),
    "hetero": HeteroMoEConfig(experts=MIXED, gate=MLPConfig(widths=(4,))),
    "hetero_static": HeteroMoEConfig(experts=MIXED, merge="static"),
    "hetero_mean": HeteroMoEConfig(experts=MIXED, merge="mean"),
    "ame": HeteroMoEConfig(experts=DIMS),
}
BY_TASK = ("omoe", "ple", "stem", "stem_al", "me_ple", "pepnet", "adasparse", "hinet", "scenario_hmoe")
BY_TASK += ("crocodile", "ame")
EVERY = [*((name, "domain") for name in CASES), *((name, "task") for name in BY_TASK)]
DOMAIN = ("mmoe", "ple", "stem_levels", "stem_al", "me_ple", "star", "pepnet", "adasparse", "hinet", "scenario_hmoe")
DOMAIN += ("crocodile", "crocodile_shared_gate", "hetero")
BODIES = ("ple", "star", "pepnet", "adasparse", "hinet", "scenario_hmoe", "crocodile", "hetero")
SOME = [*((name, "domain") for name in DOMAIN), *((name, "task") for name in ("ple", "stem", "pepnet", "crocodile"))]


def config_of(name, by="domain", **settings):
    return DomainModelConfig(body=CASES[name], by=by, **settings)
