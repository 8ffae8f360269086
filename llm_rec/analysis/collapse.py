"""Embedding collapse of CTR models (Guo et al., arXiv 2310.04400): information abundance of tables, of the vectors that
interactions make of them, and the toy experiment that shows how a partner of few values collapses a field.

A fused table is (rows, tables, dim): the rows of all fields, and an axis of embedding sets (1 for ordinary models).
Abundance grows with dim, rows and the norm of single rows: compare equal dims and equal filters, and read it relative
to initialisation. Rows that training never saw keep their initialisation and look abundant; filter by `min_count`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from llm_rec.analysis.spectrum import Method, abundance_of, compact_factor


@dataclass(frozen=True, eq=False)
class CollapseReport:
    """Abundance per set and field, also relative to dim and to initialisation. NaN where a field keeps no row."""

    fields: tuple[str, ...]
    rows: Int64[np.ndarray, "fields"]  # kept by the filter
    abundance: Float64[np.ndarray, "tables fields"]
    relative_to_dim: Float64[np.ndarray, "tables fields"]  # abundance / min(rows, dim), its upper bound
    relative_to_initial: Float64[np.ndarray, "tables fields"]


def collapse_report(
    weight: Float[Tensor, "rows tables dim"],
    fields: Mapping[str, slice],
    *,
    counts: Int64[np.ndarray, "counted"] | None = None,
    min_count: int = 1,
    initial: Float[Tensor, "rows tables dim"] | None = None,
    seed: int = 0,
) -> CollapseReport:
    """Every field of every set. `fields` names the rows of each field (leave out padding and unknown); with `counts`,
    train occurrences per row, only rows seen `min_count` times take part.

    `initial` is the table before training; without it, a standard normal matrix of the same shape stands in (`seed`).
    """
    kept = [_kept(rows, len(weight), counts, min_count) for rows in fields.values()]
    abundance = abundance_of(field_factors(weight, kept))
    if initial is None:
        generator = torch.Generator().manual_seed(seed)
        initial = torch.randn(weight.shape, generator=generator)
    sizes = np.array([len(rows) for rows in kept], dtype=np.int64)
    bound = np.minimum(sizes, weight.shape[-1]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return CollapseReport(
            fields=tuple(fields),
            rows=sizes,
            abundance=abundance,
            relative_to_dim=abundance / bound,
            relative_to_initial=abundance / abundance_of(field_factors(initial, kept)),
        )


def field_factors(
    weight: Float[Tensor, "rows tables dim"], rows: Sequence[slice | Tensor], *, method: Method = "auto"
) -> Float64[Tensor, "tables fields dim dim"]:
    """`compact_factor` of every field and set: all that abundance, of tables and of their projections, needs."""
    return torch.stack([compact_factor(weight[part], method=method) for part in rows], dim=1)


def projected_abundance(
    factors: Float64[Tensor, "tables fields dim dim"], blocks: Float[Tensor, "tables fields dim fields dim"]
) -> Float64[np.ndarray, "tables fields fields"]:
    """Abundance of sub-embeddings E_i W_(i->j)^T of a projected model, entry (i, j) of each set's heat map.

    `blocks` are those of a cross matrix as `ctr_models.losses.cross_blocks` gives them: block (j, :, i, :) maps field i
    into field j. The paper takes the first cross layer of DCNv2. No pass over rows: factors stand for the tables.
    """
    projected = torch.einsum("tikd,tjaid->tijka", factors, blocks.detach().cpu().double())
    return abundance_of(projected)


def field_aware_abundance(
    weight: Float[Tensor, "rows fields dim"], rows: Sequence[slice | Tensor]
) -> Float64[np.ndarray, "fields fields"]:
    """Abundance of the sub-embeddings E_i^(->j) of FFM: every row holds one vector for each partner field j."""
    return abundance_of(field_factors(weight, rows).transpose(0, 1))


def block_norms(blocks: Float[Tensor, "tables fields dim fields dim"]) -> Float64[np.ndarray, "tables fields fields"]:
    """||W_(i->j)||_F of each set, entry (i, j): which pairs a set attends to, and whether the sets differ."""
    norms: np.ndarray = blocks.detach().cpu().double().square().sum(dim=(-3, -1)).sqrt().mT.numpy()
    return norms


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyCollapse:
    """Abundance of the trained table before and after, and of its partner."""

    initial: float
    final: float
    partner: float


def toy_collapse(
    partner_size: int, *, dim: int = 10, steps: int = 5000, learning_rate: float = 1.0, seed: int = 0
) -> ToyCollapse:
    """The toy experiment of arXiv 2310.04400, section 4: an FM field trained beside a partner of few values.

    Fields of 100, 100 and `partner_size` values; every (x1, x2) once, x3 uniform; labels are coins; logit
    e1 e2 + e1 e3 + e2 e3; E2 and E3 are frozen standard normal, E1 is trained by full-batch gradient descent. With a
    partner of 3 values E1 loses abundance, with 100 it does not. The paper does not state dim (10 here), nor whether
    the loss is a mean (it is here). Deterministic in `seed`; about a second.
    """
    size = 100
    generator = torch.Generator().manual_seed(seed)
    first, second, third = (
        torch.randn(rows, dim, dtype=torch.float64, generator=generator) for rows in (size, size, partner_size)
    )
    values = torch.randint(partner_size, (size, size), generator=generator)
    labels = torch.randint(2, (size, size), generator=generator).double()
    partners = second + third[values]  # h is linear in e1, with this slope and this offset
    offsets = (second * third[values]).sum(dim=2)
    initial = _single(first)
    for _ in range(steps):
        logits = torch.einsum("ad,abd->ab", first, partners) + offsets
        errors = (logits.sigmoid_() - labels).mul_(learning_rate / size**2)
        first = first - torch.einsum("ab,abd->ad", errors, partners)
    return ToyCollapse(initial=initial, final=_single(first), partner=_single(third))


def _single(table: Float[Tensor, "rows dim"]) -> float:
    return float(abundance_of(compact_factor(table)))


def _kept(
    rows: slice, number: int, counts: Int64[np.ndarray, "counted"] | None, min_count: int
) -> Int64[Tensor, "kept"]:
    found = torch.arange(number)[rows]
    if counts is None:
        return found
    if len(counts) != number:
        raise ValueError(f"the table has {number} rows but there are {len(counts)} counts; count every row")
    return found[torch.from_numpy(counts[rows] >= min_count)]
