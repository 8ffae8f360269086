"""Alignment losses between projected texts and copied item-id vectors (PAD, arXiv 2412.04107, phase 2).

PAD's own is the multi-kernel MMD; the others are the ablations of its released code (InfoNCE, linear, cosine,
Laplacian) and CORAL, our addition. All see the same rows, the distinct items of a batch by default.
"""

from dataclasses import dataclass
from typing import assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from llm_rec.pad.mmd import MultiKernelMMDConfig, RandomFeatureMMDConfig, full_precision, linear_mmd, mkmmd, rff_mmd


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearMMDConfig:
    """|mean text - mean id|^2, with `cosine` after scaling every vector to length 1: first moments only."""

    weight: float = 0.2
    cosine: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class InfoNCEConfig:
    """Each text picks its own id vector among the batch's, and back. Weight as released; the temperature is ours."""

    weight: float = 0.01
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, kw_only=True, slots=True)
class CoralConfig:
    """Distance of the two covariance matrices, |C_text - C_id|^2 / (4 dim^2) (Sun and Saenko, 2016). Blind to means."""

    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAlignmentConfig:
    """No alignment term: phase 2 is then the recommendation loss on the fused vectors alone."""


AlignmentConfig = (
    MultiKernelMMDConfig | RandomFeatureMMDConfig | LinearMMDConfig | InfoNCEConfig | CoralConfig | NoAlignmentConfig
)


def alignment_loss(
    config: AlignmentConfig,
    texts: Float[Tensor, "rows dim"],
    ids: Float[Tensor, "rows dim"],
    mask: Bool[Tensor, "rows"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted alignment term of one batch; row r of both sides is the same item, masked rows change nothing.

    >>> z = torch.eye(3)
    >>> float(alignment_loss(LinearMMDConfig(weight=2.0), z, z + 1))
    6.0
    """
    match config:
        case MultiKernelMMDConfig():
            return config.weight * mkmmd(texts, ids, config, mask, mask)
        case RandomFeatureMMDConfig():
            return config.weight * rff_mmd(texts, ids, config, mask, mask)
        case LinearMMDConfig():
            return config.weight * linear_mmd(texts, ids, mask, mask, cosine=config.cosine)
        case InfoNCEConfig():
            return config.weight * infonce(texts, ids, config.temperature, mask)
        case CoralConfig():
            return config.weight * coral(texts, ids, mask)
        case NoAlignmentConfig():
            return texts.new_zeros(())
        case _:
            assert_never(config)


def infonce(
    texts: Float[Tensor, "rows dim"],
    ids: Float[Tensor, "rows dim"],
    temperature: float,
    mask: Bool[Tensor, "rows"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of both directions of -log softmax_j(cos(text_i, id_j) / temperature) at j = i, over real rows.

    Matches pairs, where `mkmmd` matches distributions. Rows must be distinct items: a duplicate is a false negative.
    """
    with full_precision(texts):
        similarities = functional.normalize(texts.float(), dim=1) @ functional.normalize(ids.float(), dim=1).T
        logits = similarities / temperature
        real = torch.ones_like(logits[:, 0], dtype=torch.bool) if mask is None else mask
        own = logits.diagonal()
        out = torch.finfo(logits.dtype).min
        missed = (
            logits.masked_fill(~real, out).logsumexp(1) + logits.masked_fill(~real[:, None], out).logsumexp(0)
        ) / 2 - own
        return torch.where(real, missed, 0.0).sum() / real.sum().clamp_min(1)


def coral(
    texts: Float[Tensor, "rows dim"], ids: Float[Tensor, "rows dim"], mask: Bool[Tensor, "rows"] | None = None
) -> Float[Tensor, ""]:
    """|C_text - C_id|_F^2 / (4 dim^2) with unbiased covariances of the real rows."""
    with full_precision(texts):
        difference = _covariance(texts.float(), mask) - _covariance(ids.float(), mask)
        return difference.square().sum() / (4 * texts.shape[1] ** 2)


def _covariance(vectors: Tensor, mask: Tensor | None) -> Float[Tensor, "dim dim"]:
    share = torch.ones_like(vectors[:, :1]) if mask is None else mask[:, None].to(vectors.dtype)
    number = share.sum()
    centred = (vectors - (share * vectors).sum(0) / number.clamp_min(1)) * share
    return centred.T @ centred / (number - 1).clamp_min(1)


def first_occurrences(rows: Int64[Tensor, "rows"]) -> Bool[Tensor, "rows"]:
    """True at exactly one position of every distinct item row and nowhere at padding (0); no host synchronisation.

    >>> first_occurrences(torch.tensor([4, 0, 4, 2])).tolist()
    [True, False, False, True]
    """
    ordered, order = rows.sort(stable=True)
    first = functional.pad(ordered[1:] != ordered[:-1], (1, 0), value=True) & (ordered != 0)
    return torch.zeros_like(first).scatter(0, order, first)


def pick_rows(rows: Int64[Tensor, "rows"], limit: int | None) -> tuple[Int64[Tensor, "picked"], Bool[Tensor, "picked"]]:
    """Positions of the distinct items of `rows`, at most `limit` (at random where there are more), and their mask.

    The number of positions is known without looking at the values, so a GPU never waits; on a CPU, where looking is
    free, the positions under a False mask are dropped.
    """
    mask = first_occurrences(rows)
    if rows.device.type == "cpu":
        positions = mask.nonzero().flatten()
        if limit is not None and len(positions) > limit:
            positions = positions[torch.randperm(len(positions))[:limit]]
        return positions, torch.ones_like(positions, dtype=torch.bool)
    return pick_masked(mask, limit)


def pick_masked(
    mask: Bool[Tensor, "rows"], limit: int | None
) -> tuple[Int64[Tensor, "picked"], Bool[Tensor, "picked"]]:
    """min(limit, rows) positions, real ones first, in random order among themselves, and their part of the mask."""
    if limit is None or limit >= len(mask):
        return torch.arange(len(mask), device=mask.device), mask
    keys = torch.rand(len(mask), device=mask.device) + mask
    positions = keys.topk(limit).indices
    return positions, mask[positions]
