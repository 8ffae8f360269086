"""For any catalog: codes decode to what was quantised, ids are unique, growth keeps them, beams admit them and no more.

Vectors and codewords are small whole numbers, so that float32 is exact and ties are the rule.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semantic_ids.autoencoder import AutoencoderConfig
from semantic_ids.balanced import resolve_balanced
from semantic_ids.code_table import CodeTable
from semantic_ids.growth import CodeSlots, grow
from semantic_ids.quantizers import MixtureOfCodesConfig, PQConfig, RQKMeansConfig, RQVAEConfig
from semantic_ids.quantizers.pq import ProductQuantizer
from semantic_ids.quantizers.rqkmeans import ResidualKMeans
from semantic_ids.quantizers.trained import AutoencoderQuantizer, build_autoencoder
from semantic_ids.trie import ROOT, CodeTrie

BOOKS, SIZE, DIM = 3, 4, 4
SIZES = (2, 2, 3)
vectors = arrays(np.float32, st.tuples(st.integers(1, 12), st.just(DIM)), elements=st.integers(-6, 6))
code_rows = arrays(np.int64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.integers(0, 1))
digits = st.sampled_from(["tiger", "grid"])


def whole_numbers(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).integers(-6, 7, shape)).float()


def some_distances(codes, seed):
    prices = torch.from_numpy(np.random.default_rng(seed).random((len(codes), SIZES[-1])))
    return lambda rows: prices[torch.from_numpy(rows) - 1]


def ids_of(trie):
    """Every tuple that a beam could end in, by going to all children of all nodes."""
    nodes, found = torch.tensor([ROOT]), [()]
    for depth in range(len(trie.levels)):
        below = trie.children(depth, nodes)
        places = below.mask.nonzero()[:, 0].tolist()
        found = [(*found[place], code) for place, code in zip(places, below.codes[below.mask].tolist(), strict=True)]
        nodes = below.nodes[below.mask]
    return found


@given(vectors, st.integers(0, 10**6))
def test_residual_codes_decode_to_the_nearest_codewords_summed(rows, seed):
    quantizer = ResidualKMeans(RQKMeansConfig(num_codebooks=BOOKS, codebook_size=SIZE), DIM)
    tables = whole_numbers(seed, BOOKS, SIZE, DIM)
    quantizer.restore({"tables": tables, "lengths": torch.ones(BOOKS)})
    codes = quantizer.encode(rows)
    residual = rows.astype(np.float64)
    for book in range(BOOKS):
        distances = ((residual[:, None] - tables[book].numpy()) ** 2).sum(-1)
        assert np.array_equal(codes[:, book], distances.argmin(1))
        residual -= tables[book].numpy()[codes[:, book]]
    assert np.array_equal(quantizer.decode(codes), rows - residual.astype(np.float32))


@given(vectors, st.integers(0, 10**6))
def test_product_codes_decode_to_the_nearest_codeword_of_each_block(rows, seed):
    quantizer = ProductQuantizer(PQConfig(num_codebooks=2, codebook_size=SIZE), DIM)
    tables = whole_numbers(seed, 2, SIZE, 2)
    quantizer.restore({"tables": tables, "rotation": torch.eye(DIM)})
    codes = quantizer.encode(rows)
    blocks = rows.reshape(-1, 2, 2)
    for book in range(2):
        distances = ((blocks[:, book, None] - tables[book].numpy()) ** 2).sum(-1)
        assert np.array_equal(codes[:, book], distances.argmin(1))
    expected = np.stack([tables[book].numpy()[codes[:, book]] for book in range(2)], 1)
    assert np.array_equal(quantizer.decode(codes), expected.reshape(-1, DIM))


@pytest.mark.parametrize("kind", [RQVAEConfig, MixtureOfCodesConfig])
@given(rows=vectors)
@settings(max_examples=15)
def test_codes_of_an_autoencoder_decode_to_what_its_bottleneck_passes_on(kind, rows):
    config = kind(
        num_codebooks=BOOKS, codebook_size=SIZE, autoencoder=AutoencoderConfig(hidden_dims=(5,), latent_dim=3)
    )
    torch.manual_seed(0)
    quantizer = AutoencoderQuantizer(config, DIM)
    quantizer.restore(build_autoencoder(config, DIM).state_dict())
    model = quantizer.model
    with torch.no_grad():
        passed = model.bottleneck(model.latent(torch.from_numpy(rows)))
        expected = model.standardise.inverse(model.expand(passed.vectors))
    assert np.array_equal(quantizer.encode(rows), passed.codes.numpy())
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(rows)), expected.numpy(), rtol=1e-4, atol=1e-5)


@given(code_rows, digits, st.booleans(), st.integers(0, 10**6))
def test_ids_are_unique_after_resolution(codes, digit, balanced, seed):
    table = CodeTable.from_codes(codes, SIZES)
    if balanced:
        found = resolve_balanced(table, some_distances(codes, seed))
        table = found.table
        assert table.is_injective() == (len(found.unplaced) == 0)
    table = table.with_digit(digit)
    assert len(set(map(tuple, table.items.tolist()))) == len(codes)
    for row in range(1, len(codes) + 1):
        assert table.items_of(table.codes[row]).tolist() == [row]


@given(code_rows, code_rows, digits, st.integers(0, 10**6))
def test_the_constraint_admits_exactly_the_ids_of_a_resolved_and_grown_catalog(old, new, digit, seed):
    """Of items that left it admits none, though their ids stay reserved."""
    rng = np.random.default_rng(seed)
    slots = CodeSlots.first(
        resolve_balanced(CodeTable.from_codes(old, SIZES), some_distances(old, seed)).table.with_digit(digit)
    )
    stay = np.flatnonzero(rng.random(len(old)) < 0.5) + 1
    known = rng.permutation(np.append(stay, np.zeros(len(new), dtype=np.int64)))
    grown = grow(slots, known, new, some_distances([*old, *new], seed))
    table = grown.slots.table_of(grown.rows)
    admitted = ids_of(CodeTrie.of(table))
    assert sorted(admitted) == sorted(map(tuple, table.items.tolist()))
    assert len(set(admitted)) == len(known)
    gone = {tuple(grown.slots.table.codes[slot].tolist()) for slot in grown.slots.reserved}
    assert len(gone) == len(old) - len(stay)
    assert not gone & set(admitted)
