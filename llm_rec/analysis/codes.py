"""How evenly the entries of each codebook are used."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int64


def code_usage(
    codes: Int[np.ndarray, "items books"], codebook_sizes: Sequence[int]
) -> "list[Int64[np.ndarray, 'codes']]":
    """Items per code of every book, in the order of the codes; pass the codes without their padding row.

    >>> [usage.tolist() for usage in code_usage(np.array([[0, 1], [2, 1]]), (3, 2))]
    [[1, 0, 1], [0, 2]]
    """
    if codes.shape[1] != len(codebook_sizes):
        raise ValueError(f"codes have {codes.shape[1]} books but {len(codebook_sizes)} codebook sizes were given")
    for book, size in enumerate(codebook_sizes):
        if codes.size and not 0 <= codes[:, book].min() <= codes[:, book].max() < size:
            raise ValueError(
                f"book {book} has codes 0..{size - 1}, got values from {codes[:, book].min()} to {codes[:, book].max()}"
            )
    return [np.bincount(codes[:, book], minlength=size) for book, size in enumerate(codebook_sizes)]


def perplexity(usage: Int64[np.ndarray, "codes"]) -> float:
    """exp(entropy): the number of codes that would be as informative if all were used alike.

    >>> perplexity(np.array([5, 5, 0, 0]))
    2.0
    """
    total = int(usage.sum())
    if not total:
        return 0.0
    shares = usage[usage > 0] / total
    return math.exp(-float((shares * np.log(shares)).sum()))
