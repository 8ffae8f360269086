"""Residual and parallel codebooks against naive loops; straight-through gradients; the identity of both at one book."""

import pytest
import torch

from semantic_ids.autoencoder import AutoencoderConfig, LossWeights, QuantizedAutoencoder
from semantic_ids.codebooks import ParallelCodebooks, ResidualCodebooks, gather_codewords, reseed, residual_codes
from semantic_ids.losses import codebook_loss
from semantic_ids.vectors import seeded


def latents(count=50, dim=4, seed=0):
    return torch.randn(count, dim, generator=seeded(seed), dtype=torch.float64)


def residual(books=3):
    torch.manual_seed(0)
    return ResidualCodebooks(4, books, 6).double()


def parallel(books=3, **options):
    torch.manual_seed(0)
    return ParallelCodebooks(4, books, 6, **options).double()


def test_residual_levels_equal_a_naive_loop():
    module, z = residual(), latents()
    out = module(z)
    for row in range(len(z)):
        left, total = z[row], torch.zeros(4, dtype=torch.float64)
        for level in range(3):
            code = min(range(6), key=lambda k: (left - module.tables[level, k]).square().sum().item())
            assert out.codes[row, level] == code
            torch.testing.assert_close(out.inputs[row, level], left)
            left, total = left - module.tables[level, code], total + module.tables[level, code]
        torch.testing.assert_close(out.vectors[row], total)
    assert torch.equal(module.encode(z), out.codes)
    torch.testing.assert_close(module.decode(out.codes), out.vectors)


@pytest.mark.parametrize("projection", ["none", "linear"])
def test_parallel_books_equal_a_naive_loop(projection):
    module, z = parallel(projection=projection), latents()
    out = module(z)
    maps = [torch.eye(4).double()] * 3 if module.maps is None else module.maps.view(3, 4, 4)
    for book in range(3):
        seen = z @ maps[book].T
        for row in range(len(z)):
            code = min(range(6), key=lambda k: (seen[row] - module.tables[book, k]).square().sum().item())
            assert out.codes[row, book] == code
    torch.testing.assert_close(out.vectors, out.codewords.mean(1))
    assert torch.equal(module.encode(z), out.codes)


@pytest.mark.parametrize(("aggregate", "factor"), [("mean", 1.0), ("sum", 3.0)])
def test_straight_through_gradient_at_z_is_that_at_the_quantised_vector(aggregate, factor):
    z = latents().requires_grad_()
    out = parallel(aggregate=aggregate)(z)
    weights = latents(seed=9)
    (out.vectors * weights).sum().backward()
    torch.testing.assert_close(z.grad, factor * weights)
    z = latents().requires_grad_()
    (residual()(z).vectors * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_equal_books_average_to_the_single_book():
    many, one, z = parallel(), parallel(books=1), latents()
    with torch.no_grad():
        many.tables.copy_(one.tables.expand(3, -1, -1))
    torch.testing.assert_close(many(z).vectors, one(z).vectors)


@pytest.mark.parametrize("build", [residual, parallel])
def test_each_codeword_learns_only_from_rows_assigned_to_it(build):
    module, z = build(), latents()
    out = module(z)
    codebook_loss(out.inputs, out.codewords).backward()
    for book in range(3):
        for code in range(6):
            mine = out.inputs[:, book][out.codes[:, book] == code]
            expected = 2 * (module.tables[book, code] - mine).sum(0) / len(z)
            torch.testing.assert_close(module.tables.grad[book, code], expected.detach())


@pytest.mark.parametrize("kind", [ResidualCodebooks, ParallelCodebooks])
def test_loss_gives_the_codebook_only_its_term_and_the_encoder_only_the_rest(kind):
    torch.manual_seed(1)
    config = AutoencoderConfig(hidden_dims=(), latent_dim=4, standardise="none")
    model = QuantizedAutoencoder(5, config, kind(4, 2, 6)).double()
    x = torch.randn(20, 5, dtype=torch.float64)

    def gradients(beta):
        model.zero_grad()
        parts, quantized = model(x, LossWeights(beta, "sum", "sum", 0.0))
        parts.total.backward()
        return [p.grad.clone() for p in (model.bottleneck.tables, *model.encoder.parameters())], quantized

    (table_0, *encoder_0), quantized = gradients(0.0)
    (table_1, *encoder_1), _ = gradients(1.0)
    (_, *encoder_q), _ = gradients(0.25)
    assert torch.equal(table_0, table_1)  # beta never reaches the codebook
    with torch.no_grad():
        inputs = quantized.inputs.clone()
    codewords = gather_codewords(model.bottleneck.tables, quantized.codes)
    alone = torch.autograd.grad(codebook_loss(inputs, codewords), model.bottleneck.tables)[0]
    torch.testing.assert_close(table_0, alone)  # neither does the reconstruction
    for none, full, quarter in zip(encoder_0, encoder_1, encoder_q, strict=True):
        torch.testing.assert_close(quarter, none + 0.25 * (full - none))
    model.zero_grad()
    parts, _ = model(x, LossWeights(0.0, "sum", "sum", 0.0))
    through = torch.autograd.grad(parts.reconstruction, list(model.encoder.parameters()))
    for grad, expected in zip(encoder_0, through, strict=True):
        torch.testing.assert_close(grad, expected)


def test_reductions_rescale_beta_by_input_over_latent_width():
    torch.manual_seed(2)
    model = QuantizedAutoencoder(
        12, AutoencoderConfig(hidden_dims=(), latent_dim=4), ResidualCodebooks(4, 2, 6)
    ).double()
    x = torch.randn(20, 12, dtype=torch.float64)
    mean = model(x, LossWeights(0.25, "mean", "sum", 0.0))[0]
    summed = model(x, LossWeights(0.25, "sum", "sum", 0.0))[0]
    torch.testing.assert_close(12 * mean.reconstruction, summed.reconstruction)
    torch.testing.assert_close(
        12 * mean.total, summed.reconstruction + 3 * (summed.codebook + 0.25 * summed.commitment)
    )


def test_one_level_equals_one_book():
    z = latents(100)
    level, book = residual(1), parallel(1)
    for module in (level, book):
        module.initialise(z, 7)
    assert torch.equal(level.tables, book.tables)
    assert torch.equal(level.encode(z), book.encode(z))


def test_one_level_and_one_book_choose_alike_where_rounding_decides():
    """Far from the origin |z|^2 takes the digits that tell near codes apart: the arithmetic must be the same."""
    level, book = ResidualCodebooks(4, 1, 64), ParallelCodebooks(4, 1, 64)
    with torch.no_grad():
        level.tables.copy_(torch.randn(1, 64, 4, generator=torch.Generator().manual_seed(0)) + 300)
        book.tables.copy_(level.tables)
    z = torch.randn(2000, 4, generator=torch.Generator().manual_seed(1)) + 300
    assert torch.equal(level.encode(z), book.encode(z))
    assert torch.equal(level(z).codes, book(z).codes)


def test_books_are_seeded_differently():
    module = parallel()
    module.initialise(latents(200), 0)
    assert not torch.equal(module.tables[0], module.tables[1])


def test_beam_of_all_prefixes_finds_the_best_sum_and_one_is_greedy():
    tables, z = residual(2).tables.detach(), latents()
    best = residual_codes(z, tables, beam=6)
    sums = (tables[0].unsqueeze(1) + tables[1]).reshape(36, 4)
    errors = torch.cdist(z, sums).square()
    assert torch.equal(best[:, 0] * 6 + best[:, 1], errors.argmin(1))
    greedy = residual_codes(z, tables)
    narrow = residual_codes(z, tables, beam=2)

    def error(codes):
        return (z - gather_codewords(tables, codes).sum(1)).square().sum(1).mean()

    assert error(best) <= error(narrow) <= error(greedy)
    assert error(best) < error(greedy)


def test_last_costs_equal_distances_of_what_is_left():
    module, z = residual(), latents()
    codes = module.encode(z)
    costs = module.last_costs(z, codes)
    assert torch.equal(costs.argmin(1), codes[:, -1])
    left = z[0] - module.tables[0, codes[0, 0]] - module.tables[1, codes[0, 1]]
    torch.testing.assert_close(costs[0], (left - module.tables[2]).square().sum(1))
    assert torch.equal(parallel().last_costs(z, codes).argmin(1), parallel().encode(z)[:, -1])


def test_reseeding_moves_dead_codes_to_vectors_of_the_batch_and_no_others():
    module, z = residual(), latents()
    before, inputs = module.tables.detach().clone(), module(z).inputs
    dead = torch.zeros(3, 6, dtype=torch.bool)
    dead[0, 2] = dead[2, 5] = True
    reseed(module.tables, inputs, dead, seeded(0))
    assert torch.equal(module.tables[~dead], before[~dead])
    assert any(torch.equal(module.tables[2, 5], row) for row in inputs[:, 2])
    assert any(torch.equal(module.tables[0, 2], row) for row in z)


def test_separate_decoders_average_reconstructions():
    torch.manual_seed(0)
    config = AutoencoderConfig(hidden_dims=(3,), latent_dim=4)
    model = QuantizedAutoencoder(5, config, ParallelCodebooks(4, 2, 6, aggregate="concat"), separate_decoders=True)
    quantized = torch.randn(7, 8)
    expected = (model.decoders[0](quantized[:, :4]) + model.decoders[1](quantized[:, 4:])) / 2
    torch.testing.assert_close(model.expand(quantized), expected)
