"""Named methods of domains and tasks: ``llm-rec train domains --preset``; every number can be set.

A name is that of a model (`ctr_models.domains.presets`), trained jointly; with ``d_train-`` before it, by the three
phases of D-Train. Crocodile has the loss of its paper, a sum of means by domain.
"""

from dataclasses import replace

from ctr_models.domains.presets import PRESETS
from llm_rec.ctr.d_train import DTrainConfig
from llm_rec.ctr.domain_method import DomainMethodConfig

D_TRAIN = "d_train-"


def _method(name: str, plan: DTrainConfig | None = None) -> DomainMethodConfig:
    model = PRESETS[name]()
    model = model if plan is None else replace(model, heads="own")
    weighted = name == "crocodile" and model.by == "domain"
    return DomainMethodConfig(model=model, weighting="domain_sum" if weighted else "sample", d_train=plan)


DOMAIN_METHODS: dict[str, DomainMethodConfig] = {
    **{name: _method(name) for name in PRESETS},
    **{f"{D_TRAIN}{name}": _method(name, DTrainConfig()) for name in PRESETS if PRESETS[name]().by == "domain"},
}
