"""What every quantizer promises, over every member of the union."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.code_table import CodeTable
from semantic_ids.health import health
from semantic_ids.quantizers import (
    FitConfig,
    LibraryRQConfig,
    MixtureOfCodesConfig,
    PQConfig,
    RandomConfig,
    RQKMeansConfig,
    RQVAEConfig,
    build_quantizer,
    load_quantizer,
)

DIM, SIZE = 12, 8
FIT = FitConfig(steps=120, batch_size=64, warmup_steps=20, log_every=10, checkpoint_every=30, reseed_every=10)
NETWORK = AutoencoderConfig(hidden_dims=(24,), latent_dim=8)
TRAINED = {"codebook_size": SIZE, "autoencoder": NETWORK, "fit": FIT}
CONFIGS = [
    RQVAEConfig(**TRAINED),
    RQVAEConfig(**TRAINED, beam_size=3, reduction="mean", books_reduction="mean"),
    MixtureOfCodesConfig(**TRAINED),
    MixtureOfCodesConfig(**TRAINED, decoder="separate", diversity_weight=0.5),
    MixtureOfCodesConfig(**TRAINED, aggregate="concat", projection="linear"),
    RQKMeansConfig(codebook_size=SIZE),
    RQKMeansConfig(codebook_size=SIZE, residual_norm=True, balanced=True),
    PQConfig(codebook_size=SIZE, num_codebooks=5),
    PQConfig(codebook_size=SIZE, rotate=True),
    LibraryRQConfig(codebook_size=SIZE, steps=40, batch_size=64, checkpoint_every=10),
    RandomConfig(codebook_size=SIZE),
]
NAMES = [f"{type(config).__name__}-{place}" for place, config in enumerate(CONFIGS)]
LEARNED = [config for config in CONFIGS if not isinstance(config, RandomConfig)]


def planted(items=400, seed=0):
    """Eight far clusters of items, each with finer structure of low rank."""
    rng = np.random.default_rng(seed)
    centres = np.eye(DIM)[:8] * 4
    fine = rng.normal(size=(items, 3)) @ rng.normal(size=(3, DIM)) * 0.5
    return (centres[np.arange(items) % 8] + fine + 0.05 * rng.normal(size=(items, DIM))).astype(np.float32)


VECTORS = planted()


def fitted(config, seed=0, **options):
    quantizer = build_quantizer(config, DIM)
    log = quantizer.fit(VECTORS, seed=seed, **options)
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
    one, two = fitted(config)[0], fitted(config)[0]
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
    for calls in (1, 2, 7):
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


@pytest.mark.parametrize("config", LEARNED, ids=NAMES[:-1])
def test_codes_use_their_books_and_keep_neighbours_far_better_than_a_random_hash(config):
    quantizer, control = fitted(config)[0], fitted(RandomConfig(codebook_size=SIZE))[0]

    def figures(chosen):
        codes = chosen.encode(VECTORS)
        table = CodeTable.from_codes(codes, chosen.codebook_sizes)
        return health(table, vectors=VECTORS, reconstructed=chosen.decode(codes))

    learned, random = figures(quantizer), figures(control)
    assert min(learned.usage) >= 0.75
    assert learned.perplexity[0] >= 0.6 * SIZE
    assert learned.neighbour_overlap > 4 * random.neighbour_overlap
    assert learned.reconstruction_relative < 0.5
    assert random.reconstruction_relative == pytest.approx(1, abs=1e-3)


@every
def test_the_global_random_state_is_left_alone(config):
    state = torch.get_rng_state()
    fitted(config)[0].encode(VECTORS)
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
    books = len(quantizer.codebook_sizes)
    with pytest.raises(ValueError, match=f"row 0, book 0: code {SIZE} is not in 0..{SIZE - 1}"):
        quantizer.decode(np.full((1, books), SIZE))
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
