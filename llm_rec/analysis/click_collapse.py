"""Embedding collapse of a trained click model: its tables, and what its first projected layer makes of them.

The diagnoses of arXiv 2310.04400 from a model and the log it was trained on: information abundance by set and field,
over all values of the train rows and over frequent ones; spectra; sub-embeddings of the first cross layer.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from ctr_models.embeddings import EmbeddingTable
from ctr_models.interactions.functions import InteractionFunction
from ctr_models.model import CTRModel
from ctr_models.schema import RESERVED
from llm_rec.analysis.collapse import CollapseReport, block_norms, collapse_report, field_factors, projected_abundance
from llm_rec.data.columns import ClickLog
from llm_rec.errors import DataError


@dataclass(frozen=True, eq=False)
class ClickCollapse:
    """`seen` is over values with a train row, `frequent` over those with `min_count` or more.

    `spectra` are singular values over the largest, of seen values. `projected` and `norms` are the heat maps of each
    set, entry (i, j) for field i mapped into field j by the first full-matrix layer; None for models without one.
    Abundance relative to initialisation takes a random normal table for the initial one: abundance does not depend on
    scale, and hardly on the law of independent entries.
    """

    seen: CollapseReport
    frequent: CollapseReport
    min_count: int
    spectra: Float64[np.ndarray, "tables fields dim"]
    projected: Float64[np.ndarray, "tables fields fields"] | None
    norms: Float64[np.ndarray, "tables fields fields"] | None

    def means(self) -> dict[str, float]:
        """Means over sets and fields that keep a value: with frequency filter, relative, and of the heat map."""
        found = {
            "abundance": self.seen.abundance,
            "abundance_frequent": self.frequent.abundance,
            "abundance_over_dim": self.seen.relative_to_dim,
            "abundance_over_initial": self.seen.relative_to_initial,
            "abundance_frequent_over_initial": self.frequent.relative_to_initial,
        }
        if self.projected is not None:
            found["abundance_projected"] = self.projected
        return {name: float(np.nanmean(values)) for name, values in found.items() if np.isfinite(values).any()}


def analyse_collapse(model: CTRModel, log: ClickLog, *, min_count: int = 10, seed: int = 0) -> ClickCollapse:
    """Diagnose the tables of `model`. Padding and unknown take no part. `DataError` when it has no table of ids."""
    table = id_table(model)
    weight = rearrange(table.embedding.weight.detach(), "r (t d) -> r t d", t=table.num_tables).cpu()
    fields = {name: slice(rows.start + RESERVED, rows.stop) for name, rows in table.rows.items()}
    counts = row_counts(table, log)
    seen = collapse_report(weight, fields, counts=counts, seed=seed)
    frequent = collapse_report(weight, fields, counts=counts, min_count=min_count, seed=seed)
    rows = [torch.arange(len(weight))[part][torch.from_numpy(counts[part] > 0)] for part in fields.values()]
    factors = field_factors(weight, rows)
    blocks = first_cross_blocks(model, len(fields))
    return ClickCollapse(
        seen=seen,
        frequent=frequent,
        min_count=min_count,
        spectra=_normalised(torch.linalg.svdvals(factors)),
        projected=None if blocks is None else projected_abundance(factors, blocks),
        norms=None if blocks is None else block_norms(blocks),
    )


def id_table(model: CTRModel) -> EmbeddingTable:
    """The table of the model's field vectors."""
    for name, module in model.named_modules():
        if name.startswith("sources.") and isinstance(module, EmbeddingTable):
            return module
    raise DataError("this model has no embedding table of ids (logistic regression has weights alone); choose another")


def row_counts(table: EmbeddingTable, log: ClickLog) -> Int64[np.ndarray, "rows"]:
    """Train occurrences of every row of the fused table; fields that share rows count together."""
    counts = np.zeros(len(table.embedding.weight), dtype=np.int64)
    for name, rows in table.rows.items():
        counts[rows] += log.train_counts(name)
    return counts


def first_cross_blocks(model: CTRModel, num_fields: int) -> Float[Tensor, "tables fields dim fields dim"] | None:
    """Blocks of the first projected layer over all fields and by pair, as `projected_abundance` takes them; None when
    there is none, or the model has fields of numbers between those of ids.
    """
    for module in model.modules():
        if isinstance(module, InteractionFunction) and module.config.kind == "projected" and not module.config.whole:
            blocks = module.block_weight().detach()  # (tables sources fields dim dim): e_a W_ab
            if blocks.shape[1] == blocks.shape[2] == num_fields:
                return rearrange(blocks, "t i j d a -> t j a i d")
    return None


def _normalised(values: Float64[Tensor, "tables fields dim"]) -> Float64[np.ndarray, "tables fields dim"]:
    spectra: np.ndarray = (values / values[..., :1].clamp(min=torch.finfo(torch.float64).tiny)).numpy()
    return spectra
