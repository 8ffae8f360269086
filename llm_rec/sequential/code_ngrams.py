"""Item vectors from pieces of semantic IDs: n-grams and prefixes, hashed into tables.

The baseline family of "Better Generalization with Semantic IDs" (arXiv 2306.08121), which ranks by pieces of an ID and
generates nothing. A single code means another thing under another prefix; a piece keeps its codes together.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from semantic_ids.fusion import Pooling


@dataclass(frozen=True, kw_only=True, slots=True)
class NgramItemsConfig:
    """One learned vector a piece, pooled over the pieces of an item.

    Pieces of codes c_1..c_L, L the number of books: "prefix" takes c_1, c_1 c_2, ..., c_1..c_L; "ngram" the
    L - n + 1 windows of `n` codes in a row. Each place has a table of `num_rows` rows, into which its pieces are hashed
    (windows that overlap, and the number of rows, are our choice). Items with equal codes get equal vectors.
    """

    pieces: Literal["prefix", "ngram"] = "prefix"
    n: int = 2
    num_rows: int = 16384
    pooling: Pooling = "sum"
    std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("n", "num_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.std <= 0:
            raise ValueError(f"std must be positive, got {self.std}")


def count_pieces(config: NgramItemsConfig, books: int) -> int:
    """Pieces of an item with so many codes; `ValueError` when an n-gram is longer than that."""
    if config.pieces == "prefix":
        return books
    if config.n > books:
        raise ValueError(f"n is {config.n} but an item has {books} codes; choose n of at most {books}")
    return books - config.n + 1


def piece_rows(
    codes: Int64[Tensor, "items_plus_one books"], config: NgramItemsConfig
) -> Int64[Tensor, "items_plus_one pieces"]:
    """The row, 0..num_rows - 1, of every piece in the table of its place.

    >>> codes = torch.tensor([[0, 0, 0], [1, 2, 3], [1, 2, 4]])
    >>> one, two = piece_rows(codes, NgramItemsConfig())[1:].tolist()
    >>> [a == b for a, b in zip(one, two)]
    [True, True, False]
    """
    number = count_pieces(config, codes.shape[1])
    if config.pieces == "prefix":
        keys, hashed = [], torch.zeros_like(codes[:, 0])
        for book in range(number):
            hashed = _mix(hashed, codes[:, book])
            keys.append(hashed)
    else:
        keys = [torch.zeros_like(codes[:, 0])] * number
        for place in range(config.n):
            keys = [_mix(key, codes[:, start + place]) for start, key in enumerate(keys)]
    return torch.stack(keys, 1) % config.num_rows


def _mix(hashed: Int64[Tensor, "items"], codes: Int64[Tensor, "items"]) -> Int64[Tensor, "items"]:
    """One more code into a hash of 31 bits: products of two such numbers fit 64 bits, so the result is the same
    everywhere."""
    mixed = (hashed * 1_000_003 + codes + 1) % 2_147_483_647
    mixed = (mixed ^ (mixed >> 15)) * 739_982_445 % 2_147_483_647
    return (mixed ^ (mixed >> 12)) % 2_147_483_647
