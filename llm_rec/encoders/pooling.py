"""From token states to one vector a text. Every function gives the same vectors for left and right padding."""

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

Pooling = Literal["mean", "last"]


def pool(
    states: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch length"], pooling: Pooling
) -> Float32[Tensor, "batch width"]:
    """Mean over real tokens, or the state of the last real token, in float32; zero for a row without tokens."""
    match pooling:
        case "mean":
            return mean_pool(states, mask)
        case "last":
            return last_pool(states, mask)
        case _:
            assert_never(pooling)


def mean_pool(
    states: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch length"]
) -> Float32[Tensor, "batch width"]:
    """sum_t m_t h_t / sum_t m_t. For decoders every token counts alike, though only late ones have seen the text."""
    kept = states.float().masked_fill(~mask.unsqueeze(-1), 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def last_pool(
    states: Float[Tensor, "batch length width"], mask: Bool[Tensor, "batch length"]
) -> Float32[Tensor, "batch width"]:
    """State of the last real token: the only one of a causal model that has seen the whole text."""
    place = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, place, 0).amax(dim=1)
    picked = states[torch.arange(len(states), device=states.device), last].float()
    return picked.masked_fill(~mask.any(dim=1, keepdim=True), 0.0)


def finish(
    vectors: Float[Tensor, "batch width"], truncate_dim: int | None, *, normalize: bool
) -> Float32[Tensor, "batch dim"]:
    """The first `truncate_dim` components (Matryoshka, Kusupati et al., arXiv 2205.13147), then length 1 if asked.

    A zero vector stays zero.
    """
    vectors = vectors.float()[:, :truncate_dim]
    if normalize:
        vectors = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return vectors
