"""What every quantizer promises, over every member of the union."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.code_table import CodeTable
from semantic_ids.health import RedundantBooksWarning, health
from semantic_ids.quantizers import (
    FitConfig,
    FSQConfig,
    GroupedRQConfig,
    LETTERConfig,
    LFQConfig,
    LibraryRQConfig,
    MixtureOfCodesConfig,
    OPQConfig,
    PQConfig,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    SimVQConfig,
    load_quantizer,
)
from semantic_ids.quantizers import (
    build_quantizer as build_any,
)

DIM, SIZE = 12, 8
FIT = FitConfig(steps=60, batch_size=64, warmup_steps=10, log_every=5, checkpoint_every=15, reseed_every=10)
NETWORK = AutoencoderConfig(hidden_dims=(24,), latent_dim=8)
TRAINED = {"codebook_size": SIZE, "autoencoder": NETWORK, "fit": FIT}
CONFIGS = [
    RQVAEConfig(**TRAINED),
    RQVAEConfig(**TRAINED, beam_size=3, reduction="mean", books_reduction="mean"),
    MixtureOfCodesConfig(**TRAINED),
    MixtureOfCodesConfig(**TRAINED, decoder="separate", diversity_weight=0.5),
    MixtureOfCodesConfig(**TRAINED, aggregate="concat", projection="linear"),
    RQKMeansConfig(codebook_size=SIZE),
    RQKMeansConfig(codebook_size=SIZE, residual_norm=True, balanced=True, slack=1.2),
    PQConfig(codebook_size=SIZE, num_codebooks=5),
    PQConfig(codebook_size=SIZE, rotate=True),
    OPQConfig(codebook_size=SIZE, rotation_iterations=5),
    GroupedRQConfig(codebook_size=SIZE),
    LibraryRQConfig(codebook_size=SIZE, steps=40, batch_size=64, checkpoint_every=10),
    SimVQConfig(**TRAINED),
    SimVQConfig(**TRAINED, frozen="normal"),
    FSQConfig(**TRAINED),
    FSQConfig(**{**TRAINED, "codebook_size": 12}, levels=(4, 3)),
    LFQConfig(**TRAINED),
    LETTERConfig(**TRAINED, code_clusters=3, cluster_every=7),
    RandomConfig(codebook_size=SIZE),
]
TRAINED_CONFIGS = RQVAEConfig | MixtureOfCodesConfig | SimVQConfig | FSQConfig | LFQConfig | LETTERConfig
NAMES = [f"{type(config).__name__}-{place}" for place, config in enumerate(CONFIGS)]
RANDOM_STARTS = (SimVQConfig(**TRAINED, frozen="normal"), RandomConfig(codebook_size=SIZE))  # may leave codes unused
LEARNED = {name: config for name, config in zip(NAMES, CONFIGS, strict=True) if config not in RANDOM_STARTS}


def planted(items=400, seed=0):
    """Eight far clusters of items, each with finer structure of low rank."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[:8] * 4
    fine = rng.normal(size=(items, 3)) @ rng.normal(size=(3, DIM)) * 0.5
    return (centres[np.arange(items) % 8] + fine + 0.05 * rng.normal(size=(items, DIM))).astype(np.float32)


VECTORS = planted()
COLLABORATIVE = np.random.default_rng(1).normal(size=(400, 8)).astype(np.float32)


def build_quantizer(config, dim, **options):
    """With collaborative vectors for the one kind that takes them."""
    extra = {"collaborative": COLLABORATIVE} if isinstance(config, LETTERConfig) else {}
    return build_any(config, dim, **options, **extra)


@cache
def fitted(config):
    quantizer = build_quantizer(config, DIM)
    log = quantizer.fit(VECTORS)
    return quantizer, log


every = pytest.mark.parametrize("config", CONFIGS, ids=NAMES)


@every
def test_codes_and_vectors_have_their_shapes_and_ranges(config):
    quantizer, log = fitted(config)
    codes = quantizer.encode(VECTORS)
    assert codes.dtype == np.int64
    assert codes.shape == (400, len(quantizer.codebook_sizes))
    assert (codes >= 0).all()
    assert (codes < np.array(quantizer.codebook_sizes)).all()
    decoded = quantizer.decode(codes)
    assert decoded.dtype == np.float32
    assert decoded.shape == VECTORS.shape
    assert np.isfinite(decoded).all()
    assert log.steps >= 1


@every
def test_same_seed_same_codes_and_encoding_twice_changes_nothing(config):
    one, two = fitted(config)[0], build_quantizer(config, DIM)
    two.fit(VECTORS)
    codes = one.encode(VECTORS)
    assert np.array_equal(codes, two.encode(VECTORS))
    assert np.array_equal(codes, one.encode(VECTORS))
    assert np.array_equal(codes, one.encode(torch.from_numpy(VECTORS)))


@every
def test_saved_and_loaded_is_bit_equal(config, tmp_path):
    quantizer = fitted(config)[0]
    quantizer.save(tmp_path / "q.safetensors")
    loaded = load_quantizer(tmp_path / "q.safetensors")
    codes = quantizer.encode(VECTORS)
    assert np.array_equal(loaded.encode(VECTORS), codes)
    assert np.array_equal(loaded.decode(codes), quantizer.decode(codes))
    assert (loaded.input_dim, loaded.codebook_sizes) == (DIM, quantizer.codebook_sizes)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "q.safetensors").read_bytes()


@every
def test_a_batch_of_one_gives_the_code_of_the_whole(config):
    quantizer = fitted(config)[0]
    whole = quantizer.encode(VECTORS)
    assert np.array_equal(np.concatenate([quantizer.encode(VECTORS[i : i + 1]) for i in range(20)]), whole[:20])
    assert quantizer.decode(whole[:1]).shape == (1, DIM)


@every
def test_a_fit_killed_anywhere_goes_on_to_the_same_bits(config, tmp_path):
    straight, log = fitted(config)
    codes = straight.encode(VECTORS)
    for calls in (2, 7):
        checkpoint, seen = tmp_path / f"fit-{calls}", []

        def kill(step, total, figures, seen=seen, calls=calls):
            seen.append(step)
            if len(seen) == calls:
                raise KeyboardInterrupt

        quantizer = build_quantizer(config, DIM)
        try:
            quantizer.fit(VECTORS, checkpoint=checkpoint, progress=kill)
        except KeyboardInterrupt:
            quantizer = build_quantizer(config, DIM)
            assert quantizer.fit(VECTORS, checkpoint=checkpoint) == log
        assert np.array_equal(quantizer.encode(VECTORS), codes)
        assert np.array_equal(quantizer.decode(codes), straight.decode(codes))


@pytest.mark.parametrize("config", LEARNED.values(), ids=LEARNED)
def test_codes_use_their_books_and_keep_neighbours_far_better_than_a_random_hash(config):
    if isinstance(config, TRAINED_CONFIGS):
        config = replace(config, fit=replace(FIT, steps=500, warmup_steps=150, reseed_every=25))
    quantizer, control = fitted(config)[0], fitted(RandomConfig(codebook_size=SIZE))[0]

    def figures(chosen):
        codes = chosen.encode(VECTORS)
        table = CodeTable.from_codes(codes, chosen.codebook_sizes)
        with warnings.catch_warnings():  # eight clusters for eight codes: parallel books are copies here
            warnings.simplefilter("ignore", RedundantBooksWarning)
            return health(table, vectors=VECTORS, reconstructed=chosen.decode(codes))

    learned, random = figures(quantizer), figures(control)
    assert min(learned.usage) >= 0.75
    assert learned.perplexity[0] >= 0.6 * config.codebook_size
    assert learned.neighbour_overlap > 4 * random.neighbour_overlap
    assert learned.reconstruction_relative < 0.5
    assert random.reconstruction_relative == pytest.approx(1, abs=1e-3)


def test_one_level_and_one_book_are_the_same_model_code_for_code():
    level = fitted(RQVAEConfig(**TRAINED, num_codebooks=1))[0]
    book = fitted(MixtureOfCodesConfig(**TRAINED, num_codebooks=1))[0]
    codes = level.encode(VECTORS)
    assert np.array_equal(codes, book.encode(VECTORS))
    assert np.array_equal(level.decode(codes), book.decode(codes))


def test_a_checkpoint_of_another_seed_is_refused(tmp_path):
    config = RQKMeansConfig(codebook_size=SIZE)
    build_quantizer(config, DIM).fit(VECTORS, checkpoint=tmp_path / "fit")
    with pytest.raises(ValueError, match=r"belongs to a fit with another seed \(0, now 1\); remove the file or name"):
        build_quantizer(config, DIM).fit(VECTORS, seed=1, checkpoint=tmp_path / "fit")


def test_residual_kmeans_loses_less_with_every_level_and_adds_up():
    quantizer = fitted(RQKMeansConfig(codebook_size=SIZE))[0]
    codes, tables = quantizer.encode(VECTORS), quantizer.tables.numpy()
    total, errors = np.zeros_like(VECTORS), []
    for level in range(3):
        total = total + tables[level, codes[:, level]]
        errors.append(float(np.square(VECTORS - total).sum()))
    assert errors[0] > errors[1] > errors[2]
    np.testing.assert_allclose(quantizer.decode(codes), total, rtol=1e-5, atol=1e-5)


@every
def test_the_global_random_state_is_left_alone(config):
    state = torch.get_rng_state()
    quantizer = build_quantizer(config, DIM)
    quantizer.fit(VECTORS)
    quantizer.encode(VECTORS)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_wrong_input_is_named(config, tmp_path):
    fresh = build_quantizer(config, DIM)
    with pytest.raises(ValueError, match="quantizer is not fitted; call fit, or load one by load_quantizer"):
        fresh.encode(VECTORS)
    with pytest.raises(ValueError, match="is not fitted"):
        fresh.save(tmp_path / "q")
    with pytest.raises(ValueError, match="vectors are 3 wide but this quantizer was built for 12"):
        fresh.fit(VECTORS[:, :3])
    broken = VECTORS.copy()
    broken[7, 2] = np.nan
    with pytest.raises(ValueError, match="row 7 of the vectors is not finite"):
        fresh.fit(broken)
    quantizer = fitted(config)[0]
    books, size = len(quantizer.codebook_sizes), config.codebook_size
    with pytest.raises(ValueError, match=f"row 0, book 0: code {size} is not in 0..{size - 1}"):
        quantizer.decode(np.full((1, books), size))
    with pytest.raises(ValueError, match=f"codes have {books + 1} columns but the quantizer has {books} books"):
        quantizer.decode(np.zeros((1, books + 1), dtype=np.int64))
    with pytest.raises(ValueError, match="num_codebooks must be at least 1, got 0"):
        replace(config, num_codebooks=0)
    with pytest.raises(ValueError, match="codebook_size must be at least 2, got 1"):
        replace(config, codebook_size=1)


@pytest.mark.gpu
@every
def test_fits_on_a_gpu_and_loads_on_a_cpu(config, tmp_path):
    quantizer = build_quantizer(config, DIM, device="cuda")
    quantizer.fit(VECTORS)
    codes = quantizer.encode(VECTORS)
    quantizer.save(tmp_path / "q")
    assert (load_quantizer(tmp_path / "q").encode(VECTORS) == codes).mean() > 0.98
    again = build_quantizer(config, DIM, device="cuda")
    again.fit(VECTORS)
    assert np.array_equal(again.encode(VECTORS), codes)
