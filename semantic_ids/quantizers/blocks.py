"""A vector cut into blocks of near equal width, as product quantisers see it."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class Blocks:
    """Blocks narrower than the widest are filled up with zeros, which no distance sees.

    >>> blocks = Blocks(3, 2, torch.device("cpu"))
    >>> blocks.split(torch.tensor([[1.0, 2.0, 3.0]])).tolist()
    [[[1.0, 2.0], [3.0, 0.0]]]
    """

    def __init__(self, dim: int, number: int, device: torch.device) -> None:
        if dim < number:
            raise ValueError(f"vectors of width {dim} cannot be cut into {number} blocks")
        sizes = [len(block) for block in np.array_split(np.arange(dim), number)]
        place = torch.arange(max(sizes))
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        inside = place < torch.tensor(sizes).unsqueeze(1)
        self._inside = inside.flatten().nonzero().flatten().to(device)  # where input column j lies in the blocks
        self._columns = torch.where(inside, starts.unsqueeze(1) + place, dim).to(device)

    def split(self, vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch blocks width"]:
        return torch.nn.functional.pad(vectors, (0, 1))[:, self._columns]

    def join(self, blocks: Float[Tensor, "batch blocks width"]) -> Float[Tensor, "batch dim"]:
        """The inverse of `split`."""
        return blocks.flatten(1)[:, self._inside]
