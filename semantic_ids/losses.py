"""Loss terms of quantised autoencoders, as pure functions of tensors.

Every term is a mean over the batch of a sum, or a mean, over dimensions. The choice matters: with width W of the
input and L of the latent, the "mean" form of the whole loss is 1/W of the "sum" form with beta (and the codebook
term) multiplied by W / L. So beta = .25 under "mean" acts like .25 W / L under "sum"; 3.0 for W = 384, L = 32. Mixing
the two (a mean reconstruction beside summed code terms) is what made public implementations collapse to one code.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

Reduction = Literal["sum", "mean"]


def reconstruction_loss(
    reconstructed: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"], reduction: Reduction = "sum"
) -> Float[Tensor, ""]:
    """|r - r_hat|^2, averaged over the batch. "sum" is exactly `dim` times "mean"."""
    return _over_dims((reconstructed - target).square(), reduction).mean()


def codebook_loss(
    inputs: Float[Tensor, "batch books dim"],
    codewords: Float[Tensor, "batch books dim"],
    reduction: Reduction = "sum",
    books: Reduction = "sum",
) -> Float[Tensor, ""]:
    """sum_n |sg(z_n) - q_n|^2: moves codewords to the vectors assigned to them. No gradient reaches `inputs`."""
    return _over_books((inputs.detach() - codewords).square(), reduction, books)


def commitment_loss(
    inputs: Float[Tensor, "batch books dim"],
    codewords: Float[Tensor, "batch books dim"],
    reduction: Reduction = "sum",
    books: Reduction = "sum",
) -> Float[Tensor, ""]:
    """sum_n |z_n - sg(q_n)|^2: keeps the encoder near its codewords. No gradient reaches `codewords`."""
    return _over_books((inputs - codewords.detach()).square(), reduction, books)


def error_correlation(
    inputs: Float[Tensor, "batch books dim"], codewords: Float[Tensor, "batch books dim"], reduction: Reduction = "sum"
) -> Float[Tensor, ""]:
    """Mean over pairs of books of e_n . e_m with e_n = q_n - sg(z_n): negative correlation learning (Liu and Yao,
    1999).

    The error of the averaged codeword is (sum of |e_n|^2 + sum over pairs of e_n . e_m) / N^2, so books with
    uncorrelated or opposite errors make the average better than its members. Our choice; Mixture-of-Codes does not
    describe one. Zero for a single book. Only codewords receive a gradient.
    """
    errors = codewords - inputs.detach()
    books = errors.shape[1]
    together, alone = errors.sum(1).square(), errors.square().sum(1)
    return _over_dims(together - alone, reduction).mean() / max(1, books * (books - 1))


def _over_dims(values: Tensor, reduction: Reduction) -> Tensor:
    return values.sum(-1) if reduction == "sum" else values.mean(-1)


def _over_books(values: Tensor, reduction: Reduction, books: Reduction) -> Tensor:
    return _over_dims(_over_dims(values, reduction), books).mean()
