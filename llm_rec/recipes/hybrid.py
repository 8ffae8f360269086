"""The hybrid method: two trained runs of a workspace, a dense and a generative one, as one recommender."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llm_rec.errors import ConfigError
from llm_rec.generative.hybrid import HybridConfig, HybridRecommender, choose_weight
from llm_rec.generative.model import GenerativeModel
from llm_rec.recipes.generative import some_targets
from llm_rec.recipes.material import Material
from llm_rec.serving.models import DenseModel


@dataclass(frozen=True, kw_only=True, slots=True)
class HybridMethodConfig:
    """Names of the two runs, how many candidates each gives, and how their scores are weighed.

    With `choose_weight` the weight is the one that ranks the validation targets best by `metric`, and `search.weight`
    plays no part; `validation_targets` bounds how many are looked at (None: all), the same ones every time.
    """

    dense: str = "sasrec"
    generative: str = "generative"
    search: HybridConfig = field(default_factory=HybridConfig)
    choose_weight: bool = True
    metric: str = "ndcg@10"
    validation_targets: int | None = None


def build_hybrid(
    method: HybridMethodConfig, dense: DenseModel, generative: GenerativeModel, material: Material
) -> tuple[HybridRecommender, Mapping[float, float]]:
    """The hybrid of two trained models, and the validation metric at every weight that was tried.

    `ConfigError` when the weight is to be chosen and there is nothing to choose it by.
    """
    hybrid = HybridRecommender(dense.to(generative.device), generative, material.split.train_counts, method.search)
    if not method.choose_weight:
        return hybrid, {}
    if not len(material.split.validation):
        raise ConfigError(
            "the split has no validation targets to choose the weight by; set method.search.weight and switch "
            "method.choose_weight off"
        )
    weight, values = choose_weight(
        hybrid, some_targets(material.split, method.validation_targets), metric=method.metric
    )
    hybrid.config = replace(method.search, weight=weight)
    return hybrid, values
