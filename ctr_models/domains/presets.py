"""Models of several domains or tasks by name. Widths without a source are our choice: experts (64,), towers (32,)."""

from collections.abc import Callable
from types import MappingProxyType

from ctr_models.domains.mixture import ExpertMixtureConfig
from ctr_models.domains.model import DomainModelConfig


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


PRESETS: MappingProxyType[str, Callable[[], DomainModelConfig]] = MappingProxyType(
    {"shared_bottom": shared_bottom, "omoe": omoe, "mmoe": mmoe, "ple": ple}
)
