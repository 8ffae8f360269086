"""Small logs and methods of several domains."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.presets import PRESETS, shared_bottom
from ctr_models.embeddings import NormalInit
from ctr_models.layers import MLPConfig
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.ctr.planted_domains import PlantedDomainsConfig, planted_domains, write_domains
from llm_rec.data.columns import ClickLog
from llm_rec.training.trainer import TrainerConfig

TRAINER = TrainerConfig(epochs=2, learning_rate=0.01, optimizer="adam", monitor="macro_auc", device="cpu")
TINY = PlantedDomainsConfig(rows=300, evaluation_rows=60, sizes=(8.0, 4.0, 1.0), num_users=12, num_items=12)

OWN_HEADS = [name for name, make in PRESETS.items() if make().by == "domain" and make().heads == "own"]


def mostly_slow(names: Sequence[str], *quick: str) -> list[ParameterSet]:
    """Parameters of a test, those that are not `quick` in the slow tier."""
    return [pytest.param(name, marks=() if name in quick else (pytest.mark.slow,)) for name in names]


def small(model: DomainModelConfig) -> DomainModelConfig:
    """The model with narrow vectors and towers."""
    return replace(model, dim=4, tower=MLPConfig(widths=(6,)))


METHOD = DomainMethodConfig(
    model=small(shared_bottom()),
    init=NormalInit(std=0.3),
    batches=ClickBatchConfig(batch_size=100),
    trainer=TRAINER,
)


def tiny_log(folder: Path, config: PlantedDomainsConfig = TINY, **settings: tuple[str, ...]) -> ClickLog:
    """A log to look at, too small to learn from."""
    return write_domains(planted_domains(config), folder, **settings)
