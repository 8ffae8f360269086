"""Penalties of the multi-embedding ablations (arXiv 2310.04400, section 5 and its code); the caller sets their weight.

They exist to be compared with plain multi-embedding: the paper finds that aligning sets, or forcing abundance on one
set, removes the gain. Cross weights come as (tables, layers, fields, dim, fields, dim): block (i, :, j, :) maps field j
into field i.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Blocks = Float[Tensor, "*shape fields dim fields dim"]


def cross_blocks(weight: Float[Tensor, "*shape width width"], num_fields: int) -> Blocks:
    """The blocks of cross matrices (fields dim x fields dim), a view. Raises `ValueError` for another width."""
    width = weight.shape[-1]
    if width % num_fields:
        raise ValueError(f"cross matrices of width {width} have no equal blocks for {num_fields} fields")
    dim = width // num_fields
    return weight.view(*weight.shape[:-2], num_fields, dim, num_fields, dim)


def weight_norm_alignment(blocks: Float[Tensor, "tables *layers fields dim fields dim"]) -> Float[Tensor, ""]:
    """Variance over sets of ||W_(i->j)||_F^2, averaged over layers and blocks: 0 when all sets weigh pairs alike.

    The paper's ablation gives it weight 1. The norms are squared, as in its code. One set gives 0.
    """
    return blocks.square().sum(dim=(-3, -1)).var(dim=0, unbiased=False).mean()


def subspace_similarity(vectors: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, ""]:
    """How alike two sets are on a batch: with s(m, n, i) the singular values of e_i^(m)^T e_i^(n) over the batch,

        mean over pairs m > n and over positions of ( mean over fields i of s(m, n, i) )^2

    Code of the paper's rebuttal; weights 1e-3 to 1e-5. It grows with the batch, as that code does. One set gives 0.
    """
    tables = len(vectors)
    if tables < 2:
        return vectors.sum() * 0.0
    first, second = torch.tril_indices(tables, tables, -1, device=vectors.device)
    products = torch.einsum("pbfk,pbfl->pfkl", vectors[first], vectors[second])
    values: Tensor = torch.linalg.svdvals(products)
    return values.mean(dim=1).square().mean()


def singular_value_variance(vectors: Float[Tensor, "tables batch fields dim"]) -> Float[Tensor, ""]:
    """Variance (unbiased) of S / mean(S), S the singular values of a field's vectors over the batch, averaged over
    fields and sets: 0 for an isotropic field. Code of the paper's rebuttal; weights 1e-3 to 1e-5.
    """
    values: Tensor = torch.linalg.svdvals(vectors.transpose(1, 2))
    return (values / values.mean(dim=-1, keepdim=True)).var(dim=-1).mean()


def orthogonality(blocks: Blocks, scale: Float[Tensor, "*shape fields fields"] | None = None) -> Float[Tensor, ""]:
    """Sum over blocks of ||W W^T - I||_F^2 (code of the paper), or with `scale` of ||W^T W - lambda I||_F^2 with a
    learned lambda per block (its text).

    The code's second variant multiplies W by a learned scale in the forward pass and penalises the unscaled blocks:
    call this without `scale` on them. Weights there: 1e-4, and 1e-5 for that variant.
    """
    squares = blocks.movedim(-2, -3)  # (*shape fields fields dim dim)
    identity = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    if scale is None:
        return (squares @ squares.mT - identity).square().sum()
    return (squares.mT @ squares - scale[..., None, None] * identity).square().sum()
