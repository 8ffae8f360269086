"""Rows of a few domains and two labels, and float64 models of them whose parameters have left their start."""

from dataclasses import replace

import torch
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.domains.model import DomainModel, DomainModelConfig, build_domain_model
from ctr_models.embeddings import FieldVectors, NormalInit, schema_vectors
from ctr_models.layers import MLPConfig
from ctr_models.schema import RESERVED, Categorical, Numeric, Schema

DOMAINS, TASKS, DIM = 3, 2, 4
TOWER = MLPConfig(widths=(5,))
EXPERT = MLPConfig(widths=(6, 5))


def schema(domains: int = DOMAINS) -> Schema:
    fields = (
        Categorical(name="user", size=9),
        Categorical(name="page", size=RESERVED + domains),
        Numeric(name="age"),
        Categorical(name="item", size=7),
    )
    return Schema(fields=fields, labels=("click", "like"), group="user", history=("item",), domain="page")


def batch(rows: int = 40, seed: int = 0, domains: int = DOMAINS, only: int | None = None) -> FeatureBatch:
    """`only`: all rows in that domain."""
    draw = torch.Generator().manual_seed(seed)
    page = torch.randint(RESERVED, RESERVED + domains, (rows,), generator=draw)
    user, item = (torch.randint(1, size, (rows,), generator=draw) for size in (9, 7))
    ids = torch.stack([user, page if only is None else torch.full_like(page, RESERVED + only), item], 1)
    labels = torch.randint(0, 2, (rows, TASKS), generator=draw).float()
    return FeatureBatch(ids, torch.rand(rows, 1, generator=draw) + 0.5, torch.zeros(rows, 0), labels)


def sources(given: Schema, dim: int, num_tables: int) -> FieldVectors:
    return schema_vectors(given, dim, num_tables, init=NormalInit(std=1.0))


def build(
    config: DomainModelConfig, *, domains: int = DOMAINS, seed: int = 0, dtype: torch.dtype = torch.float64
) -> DomainModel:
    """In evaluation mode; padding rows of tables stay zero."""
    torch.manual_seed(seed)
    small = replace(config, dim=DIM, tower=TOWER)
    model = build_domain_model(small, schema(domains), build_sources=sources).to(dtype)
    with torch.no_grad():
        tables = {id(parameter) for parameter in model.table_parameters()}
        for parameter in model.parameters():
            if id(parameter) not in tables:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def gradients(value: Tensor, model: DomainModel) -> dict[str, Tensor]:
    """Of every parameter by name, zeros where `value` does not depend on it."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))
