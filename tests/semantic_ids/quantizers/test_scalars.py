"""Arithmetic of scalar codes against brute force and against vector-quantize-pytorch's own classes."""

import itertools

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import FSQ, LFQ

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.quantizers import FitConfig, FSQConfig, LFQConfig, build_quantizer
from semantic_ids.quantizers.fsq import FiniteScalarCodebooks, bound, factored
from semantic_ids.quantizers.lfq import LookupFreeCodebooks, entropy_terms
from semantic_ids.vectors import seeded


def numbers(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=seeded(seed))


def straightened(module):
    """The bottleneck with identities for its linear maps, so that latent numbers are what is rounded."""
    for linear in (module.into, module.out):
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    return module


@pytest.mark.parametrize("levels", [(3,), (4,), (5, 4), (8, 8, 4), (7, 3, 5)])
def test_codes_of_levels_are_the_mixed_radix_digits_of_the_nearest_level(levels):
    module = straightened(FiniteScalarCodebooks(2 * len(levels), 2, levels))
    latent = numbers(200, 2 * len(levels))
    for row, codes in zip(latent.tolist(), module.encode(latent).tolist(), strict=True):
        for book, code in enumerate(codes):
            expected, base = 0, 1
            for level, z in zip(levels, row[book * len(levels) :], strict=False):
                half, offset = (level - 1) * 1.001 / 2, 0.0 if level % 2 else 0.5
                inside = np.tanh(z + np.arctanh(offset / half)) * half - offset
                expected += base * min(range(level), key=lambda k: abs(inside - (k - level // 2)))
                base *= level
            assert code == expected


@pytest.mark.parametrize("levels", [(5, 4), (8, 8, 4)])
def test_every_code_is_reached_decodes_to_its_own_vector_and_is_its_own_nearest(levels):
    module = straightened(FiniteScalarCodebooks(len(levels), 1, levels))
    every = torch.arange(int(np.prod(levels))).unsqueeze(1)
    decoded = module.decode(every)
    grid = list(itertools.product(*[[(k - level // 2) / (level // 2) for k in range(level)] for level in levels]))
    assert {tuple(np.round(row, 5)) for row in decoded.tolist()} == {tuple(np.round(row, 5)) for row in grid}
    reached = module.encode(5 * torch.rand(60_000, len(levels), generator=seeded(1)) - 2.5)
    assert len(reached.unique()) == len(every)
    latent = numbers(50, len(levels))
    costs = module.last_costs(latent, module.encode(latent))
    assert torch.equal(costs.argmin(1, keepdim=True), module.encode(latent))


def test_fsq_agrees_with_the_library_forward_and_backward():
    levels = (8, 5, 4)
    ours, theirs = straightened(FiniteScalarCodebooks(3, 1, levels)), FSQ(list(levels))
    mine, other = numbers(64, 3).requires_grad_(), numbers(64, 3).requires_grad_()
    quantized = ours(mine)
    vectors, codes = theirs(other.unsqueeze(0))
    torch.testing.assert_close(quantized.vectors, vectors[0])
    assert torch.equal(quantized.codes[:, 0], codes[0].long())
    weights = numbers(64, 3, seed=2)
    for out, given in ((quantized.vectors, mine), (vectors[0], other)):
        (out * weights).sum().backward()
        assert given.grad.abs().sum() > 0
    torch.testing.assert_close(mine.grad, other.grad)


def test_zero_stays_zero_for_odd_and_even_levels():
    assert bound(torch.zeros(2), torch.tensor([5, 4])).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_signs_are_the_bits_of_a_code():
    module = straightened(LookupFreeCodebooks(6, 2, 8))
    latent = numbers(40, 6)
    for row, codes in zip(latent.tolist(), module.encode(latent).tolist(), strict=True):
        assert codes == [sum(2**k for k in range(3) if row[3 * book + k] > 0) for book in range(2)]
    assert torch.equal(module.decode(module.encode(latent)), latent.sign())
    costs = module.last_costs(latent, module.encode(latent))
    for code in range(8):
        corner = torch.tensor([1.0 if code >> k & 1 else -1.0 for k in range(3)])
        torch.testing.assert_close(costs[:, code], (latent[:, 3:] - corner).square().sum(1))


def test_lfq_entropies_agree_with_a_loop_and_with_the_library():
    latent = numbers(30, 3).double()
    module = LookupFreeCodebooks(3, 1, 8)
    cube = module.cube().double()
    found = entropy_terms(latent.unsqueeze(1), cube, 0.7, 1.3)
    sure, mean = 0.0, np.zeros(8)
    for row in latent.numpy():
        weights = np.exp(-np.square(row - cube.numpy()).sum(1) / 0.7)
        p = weights / weights.sum()
        sure, mean = sure - (p * np.log(p)).sum() / 30, mean + p / 30
    assert float(found) == pytest.approx(sure + 1.3 * (mean * np.log(mean)).sum())
    library = LFQ(codebook_size=8, dim=3, diversity_gamma=1.3, entropy_loss_weight=1.0, commitment_loss_weight=0.0)
    _, _, loss = library.train()(latent.float().unsqueeze(0), inv_temperature=1 / 0.7)
    assert float(loss) == pytest.approx(float(found), rel=1e-4)


def test_sizes_are_factored_into_levels():
    assert [factored(size) for size in (3, 8, 9, 12, 240, 256, 4096)] == [
        (3,), (8,), (3, 3), (4, 3), (8, 6, 5), (8, 8, 4), (8, 8, 8, 8),
    ]  # fmt: skip
    assert [factored(size) for size in (2, 11, 22)] == [None] * 3
    for size in range(3, 600):
        found = factored(size)
        assert found is None or (np.prod(found) == size and min(found) >= 3 and max(found) <= 8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FSQConfig(levels=(8, 6, 5)), r"levels \(8, 6, 5\) have 240 combinations, but codebook_size is 256"),
        (lambda: FSQConfig(codebook_size=6, levels=(3, 2)), r"levels must be at least 3 each, got \(3, 2\)"),
        (lambda: FSQConfig(codebook_size=22), "codebook_size 22 is no product of numbers from 3 to 8; set levels, or"),
        (lambda: LFQConfig(codebook_size=12), "codebook_size must be a power of two, a bit for each number; got 12"),
        (lambda: LFQConfig(temperature=0.0), "temperature must be positive, got 0.0"),
        (lambda: LFQConfig(entropy_weight=-1.0), "entropy_weight must not be negative, got -1.0"),
    ],
)
def test_settings_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_scalar_codes_are_decoded_from_their_numbers_alone():
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    network = AutoencoderConfig(hidden_dims=(), latent_dim=4)
    fit = FitConfig(steps=8, warmup_steps=2, batch_size=32)
    quantizer = build_quantizer(FSQConfig(codebook_size=12, num_codebooks=2, autoencoder=network, fit=fit), 5)
    quantizer.fit(rows)
    codes = quantizer.encode(rows)
    decoded = quantizer.decode(codes)
    same = (codes[:, None] == codes).all(-1)
    for row in range(60):
        np.testing.assert_allclose(decoded[same[row]], decoded[row][None].repeat(same[row].sum(), 0), atol=1e-6)
