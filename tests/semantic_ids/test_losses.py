"""Reductions, and who gets which gradient."""

import pytest
import torch

from semantic_ids.losses import codebook_loss, commitment_loss, error_correlation, reconstruction_loss
from semantic_ids.vectors import seeded


def pair(batch=6, books=3, dim=4):
    draw = torch.randn(2, batch, books, dim, generator=seeded(0), dtype=torch.float64)
    return draw[0].clone().requires_grad_(), draw[1].clone().requires_grad_()


def test_summed_reconstruction_is_width_times_the_mean_one():
    given, target = torch.randn(2, 5, 7, generator=seeded(1), dtype=torch.float64)
    summed, mean = (reconstruction_loss(given, target, how) for how in ("sum", "mean"))
    torch.testing.assert_close(summed, 7 * mean)
    torch.testing.assert_close(summed, torch.stack([(g - t).square().sum() for g, t in zip(given, target)]).mean())


@pytest.mark.parametrize("loss", [codebook_loss, commitment_loss])
def test_code_terms_add_over_books_and_dimensions_or_average(loss):
    inputs, codewords = pair()
    naive = sum((inputs[i, n] - codewords[i, n]).square().sum() for i in range(6) for n in range(3)) / 6
    torch.testing.assert_close(loss(inputs, codewords), naive)
    torch.testing.assert_close(loss(inputs, codewords, "mean", "sum"), naive / 4)
    torch.testing.assert_close(loss(inputs, codewords, "sum", "mean"), naive / 3)


def test_each_term_moves_its_own_side_only():
    inputs, codewords = pair()
    codebook_loss(inputs, codewords).backward()
    assert inputs.grad is None
    torch.testing.assert_close(codewords.grad, 2 * (codewords - inputs).detach() / 6)
    inputs, codewords = pair()
    commitment_loss(inputs, codewords).backward()
    assert codewords.grad is None
    torch.testing.assert_close(inputs.grad, 2 * (inputs - codewords).detach() / 6)


def test_error_correlation_equals_pairs_of_errors_and_completes_the_square():
    inputs, codewords = pair()
    errors = (codewords - inputs).detach()
    naive = sum((errors[:, a] * errors[:, b]).sum(1) for a in range(3) for b in range(3) if a != b).mean() / 6
    torch.testing.assert_close(error_correlation(inputs, codewords).detach(), naive)
    averaged = errors.mean(1).square().sum(1).mean()
    torch.testing.assert_close(averaged, (errors.square().sum((1, 2)).mean() + 6 * naive) / 9)
    error_correlation(inputs, codewords).backward()
    assert inputs.grad is None


def test_error_correlation_of_one_book_is_zero():
    inputs, codewords = pair(books=1)
    assert error_correlation(inputs, codewords).item() == pytest.approx(0)
