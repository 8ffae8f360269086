"""LETTER's two terms against naive loops, and what its fit asks for; SimVQ's frozen codes."""

import numpy as np
import pytest
import torch

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.quantizers import FitConfig, LETTERConfig, RQVAEConfig, SimVQConfig, build_quantizer
from semantic_ids.quantizers.letter import code_clusters, collaborative, diversity, other_codes
from semantic_ids.quantizers.simvq import LinearCodebooks
from semantic_ids.vectors import seeded

DIM, LATENT = 10, 6
SMALL = {
    "num_codebooks": 2,
    "codebook_size": 8,
    "autoencoder": AutoencoderConfig(hidden_dims=(16,), latent_dim=LATENT),
    "fit": FitConfig(steps=300, batch_size=64, warmup_steps=60, reseed_every=20),
}
ROWS = np.random.default_rng(0).normal(size=(240, DIM)).astype(np.float32)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def test_the_collaborative_term_is_cross_entropy_over_the_batch_without_unknown_items():
    z, vectors = draw(7, 4).requires_grad_(), draw(7, 4, seed=1)
    vectors[[2, 5]] = 0
    loss = collaborative(z, vectors)
    known = [0, 1, 3, 4, 6]
    naive = 0.0
    for i in known:
        logits = np.array([float(z[i].detach() @ vectors[j]) for j in known])
        naive += np.log(np.exp(logits).sum()) - logits[known.index(i)]
    assert loss.item() == pytest.approx(naive / 5)
    alone = torch.nn.functional.cross_entropy(z[known] @ vectors[known].T, torch.arange(5))
    expected = torch.autograd.grad(alone, z)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)
    assert collaborative(z, torch.zeros(7, 4, dtype=torch.float64)).item() == 0


def test_the_diversity_term_pulls_a_codeword_to_the_drawn_one_of_its_cluster():
    tables, codes = draw(2, 5, 3).requires_grad_(), torch.tensor([[0, 4], [3, 1], [2, 2]])
    clusters = torch.tensor([[0, 1, 0, 1, 2], [1, 0, 1, 0, 0]])
    draws = torch.tensor([[0.1, 0.9], [0.5, 0.2], [0.3, 0.7]], dtype=torch.float64)
    codewords = torch.stack([tables[book, codes[:, book]] for book in range(2)], 1)
    loss = diversity(codewords, codes, tables, clusters, draws)
    others, exists = other_codes(codes, clusters, draws)
    naive, count = torch.zeros((), dtype=torch.float64), 0
    for row in range(3):
        for book in range(2):
            if not exists[row, book]:
                continue
            own = int(codes[row, book])
            kept = [k for k in range(5) if k != own]
            logits = torch.stack([tables[book, own] @ tables[book, k] for k in kept])
            naive = naive + logits.logsumexp(0) - logits[kept.index(int(others[row, book]))]
            count += 1
    torch.testing.assert_close(loss, naive / count)
    torch.testing.assert_close(torch.autograd.grad(loss, tables)[0], torch.autograd.grad(naive / count, tables)[0])


def test_another_code_of_the_cluster_is_drawn_uniformly_and_never_the_code_itself():
    clusters = torch.tensor([[2, 0, 2, 1, 2, 0]])
    draws = torch.rand(6000, 1, generator=seeded(3))
    others, exists = other_codes(torch.full((6000, 1), 2), clusters, draws)
    assert exists.all()
    counts = torch.bincount(others[:, 0], minlength=6).tolist()
    assert counts[0] + counts[4] == 6000
    assert abs(counts[0] - 3000) < 200
    assert other_codes(torch.tensor([[5]]), clusters, torch.tensor([[0.999]]))[0].item() == 1
    assert not other_codes(torch.tensor([[3]]), clusters, torch.tensor([[0.0]]))[1].any()


def test_clusters_of_codewords_are_capped():
    table = torch.cat([torch.zeros(15, 2) + 0.01 * torch.randn(15, 2, generator=seeded(0)), torch.ones(5, 2)])
    found = code_clusters(table, 4, seeded(1))
    assert torch.bincount(found).tolist() == [5, 5, 5, 5]


def test_collaborative_vectors_change_the_codes_into_agreement_with_them():
    groups = np.arange(240) % LATENT  # which the text vectors show in directions of little variance
    vectors = np.eye(LATENT)[groups].astype(np.float32) * 6
    rows = np.concatenate([2 * ROWS[:, :4], np.eye(LATENT)[groups]], 1).astype(np.float32)

    def agreement(weight):
        config = LETTERConfig(**SMALL, collaborative_weight=weight, code_clusters=3)
        quantizer = build_quantizer(config, DIM, collaborative=vectors)
        quantizer.fit(rows)
        codes = quantizer.encode(rows)
        same = codes[:, None, 0] == codes[:, 0]
        alike = groups[:, None] == groups
        np.fill_diagonal(same, False)
        return float(alike[same].mean())

    assert agreement(3.0) > 1.5 * agreement(0.0)


def test_without_its_terms_it_is_rq_vae_but_for_the_balanced_start():
    letter = build_quantizer(
        LETTERConfig(**SMALL, collaborative_weight=0.0, diversity_weight=0.0, code_clusters=3), DIM
    )
    plain = build_quantizer(RQVAEConfig(**SMALL, reduction="mean", books_reduction="mean"), DIM)
    one, two = letter.fit(ROWS), plain.fit(ROWS)
    assert one.history[0] == two.history[0]  # the warm-up
    assert one.history[-1]["loss"] == pytest.approx(two.history[-1]["loss"], rel=0.15)


@pytest.mark.parametrize(
    ("collaborative_vectors", "message"),
    [
        (None, "LETTER needs collaborative vectors of the items; build it with collaborative=, or set collaborative_"),
        (np.zeros((239, 6), np.float32), r"collaborative vectors are \(239, 6\), wanted \(240, 6\): a row for every"),
        (np.zeros((240, 5), np.float32), r"collaborative vectors are \(240, 5\), wanted \(240, 6\): a row for every"),
    ],
)
def test_collaborative_vectors_that_do_not_fit_are_named(collaborative_vectors, message):
    quantizer = build_quantizer(LETTERConfig(**SMALL, code_clusters=3), DIM, collaborative=collaborative_vectors)
    with pytest.raises(ValueError, match=message):
        quantizer.fit(ROWS)


def test_other_kinds_refuse_collaborative_vectors():
    with pytest.raises(ValueError, match="only letter takes collaborative vectors, a rqvae quantizer does not"):
        build_quantizer(RQVAEConfig(), DIM, collaborative=ROWS)


def test_a_checkpoint_of_other_collaborative_vectors_is_refused(tmp_path):
    config = LETTERConfig(**SMALL, code_clusters=3)
    vectors = np.ones((240, LATENT), np.float32)
    build_quantizer(config, DIM, collaborative=vectors).fit(ROWS, checkpoint=tmp_path / "fit")
    with pytest.raises(ValueError, match="belongs to a fit with another config"):
        build_quantizer(config, DIM, collaborative=2 * vectors).fit(ROWS, checkpoint=tmp_path / "fit")


@pytest.mark.parametrize("settings", [{"code_clusters": 0}, {"code_clusters": 9}])
def test_clusters_fit_the_codebook(settings):
    with pytest.raises(ValueError, match=r"code_clusters must be in 1\.\.codebook_size, got"):
        LETTERConfig(codebook_size=8, **settings)


@pytest.mark.parametrize("frozen", ["k-means", "normal"])
def test_frozen_codes_stay_and_their_map_moves_all_codewords(frozen):
    torch.manual_seed(0)
    module = LinearCodebooks(4, 2, 6, frozen=frozen).double()
    latent = draw(200, 4)
    module.initialise(latent, 0)
    before, tables = module.frozen.clone(), module.tables.detach().clone()
    quantized = module(latent)
    (quantized.codewords - quantized.inputs.detach()).square().sum().backward()
    assert module.frozen.grad is None
    with torch.no_grad():
        module.maps -= 0.01 * module.maps.grad
    assert torch.equal(module.frozen, before)
    assert bool((module.tables != tables).any(2).all())
    assert torch.equal(module.encode(latent), module(latent).codes)


def test_frozen_kmeans_is_the_start_of_rq_vae():
    torch.manual_seed(0)
    from semantic_ids.codebooks import ResidualCodebooks

    latent = torch.randn(200, 4)
    one, two = LinearCodebooks(4, 3, 6), ResidualCodebooks(4, 3, 6)
    for module in (one, two):
        module.initialise(latent, 5)
    torch.testing.assert_close(one.tables, two.tables)
    assert (one.encode(latent) == two.encode(latent)).float().mean() > 0.98


def test_simvq_needs_a_beta_that_is_no_penalty():
    with pytest.raises(ValueError, match="beta must not be negative, got -0.1"):
        SimVQConfig(beta=-0.1)
