"""Batches of token rows through a torch model into one array, without waiting for the device in between."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from llm_rec.encoders.tokens import TokenRows


def forward_batches(
    forward: Callable[[Tensor, Tensor], Tensor],
    tokens: TokenRows,
    batches: Iterable[Int64[np.ndarray, "batch"]],
    dim: int,
    device: torch.device,
    *,
    left: bool = False,
) -> Float32[np.ndarray, "texts dim"]:
    """`forward(ids, mask)` of every batch. The vectors stay on the device until the last batch is queued."""
    vectors = torch.zeros(len(tokens), dim, device=device)
    with torch.inference_mode():
        for batch in batches:
            ids, mask = tokens.padded(batch, left=left)
            rows = torch.from_numpy(batch).to(device)
            vectors[rows] = forward(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device))
    return vectors.cpu().numpy()
