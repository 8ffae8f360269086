"""Pieces keep their codes together: equal where all of their codes are, and hardly ever else."""

import numpy as np
import pytest
import torch

from llm_rec.errors import ConfigError
from llm_rec.sequential.code_ngrams import NgramItemsConfig, count_pieces, piece_rows
from llm_rec.sequential.items import ItemSources, build_items

CODES = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (300, 4)))


def naive_pieces(codes, config):
    books = codes.shape[1]
    spans = [(0, end + 1) for end in range(books)]
    if config.pieces == "ngram":
        spans = [(start, start + config.n) for start in range(books - config.n + 1)]
    return [[tuple(row[a:b]) for a, b in spans] for row in codes.tolist()]


@pytest.mark.parametrize("config", [NgramItemsConfig(), *(NgramItemsConfig(pieces="ngram", n=n) for n in (1, 2, 4))])
def test_rows_agree_where_pieces_do_and_almost_only_there(config):
    rows, pieces = piece_rows(CODES, config), naive_pieces(CODES, config)
    assert rows.shape == (300, count_pieces(config, 4))
    assert rows.min() >= 0
    assert rows.max() < config.num_rows
    for place in range(rows.shape[1]):
        known = {}
        for item in range(300):
            known.setdefault(pieces[item][place], set()).add(int(rows[item, place]))
        assert all(len(found) == 1 for found in known.values())
        distinct = len({row for found in known.values() for row in found})
        assert distinct >= 0.97 * len(known)  # 300 pieces in 16,384 rows: three collisions are expected at most


def test_the_order_of_codes_and_their_place_matter():
    config = NgramItemsConfig(pieces="ngram", n=2)
    rows = piece_rows(torch.tensor([[1, 2, 0], [2, 1, 0], [0, 1, 2]]), config)
    assert rows[0, 0] != rows[1, 0]
    assert rows[0, 0] == rows[2, 1]  # the same bigram, in a table of its own


def test_hashes_fill_their_table_evenly():
    grid = torch.cartesian_prod(*[torch.arange(16)] * 4)
    counts = torch.bincount(piece_rows(grid, NgramItemsConfig(num_rows=256))[:, 3], minlength=256)
    assert counts.min() > 256 - 6 * 16  # 65,536 pieces, 256 a row, deviation 16
    assert counts.max() < 256 + 6 * 16


def test_items_share_a_vector_up_to_where_their_codes_part():
    codes = torch.tensor([[0, 0], [1, 2], [1, 3], [1, 2]])
    sources = ItemSources(num_items=3, codes=codes, codebook_sizes=(4, 4))
    torch.manual_seed(0)
    items = build_items(NgramItemsConfig(), sources, 5)
    table = items.embedding.weight
    pieces = items.pieces + items.embedding.offsets
    expected = torch.stack([table[pieces[item]].sum(0) for item in (1, 2, 3)])
    assert torch.equal(items.all()[1:], expected)
    assert torch.equal(items.all()[1], items.all()[3])
    assert not torch.equal(items.all()[1], items.all()[2])


def test_what_cannot_be_is_refused():
    sources = ItemSources(num_items=3, codes=torch.zeros(4, 2, dtype=torch.int64), codebook_sizes=(4, 4))
    with pytest.raises(ValueError, match="n is 3 but an item has 2 codes; choose n of at most 2"):
        build_items(NgramItemsConfig(pieces="ngram", n=3), sources, 5)
    with pytest.raises(ConfigError, match="code items need codes; index the catalog and name them"):
        build_items(NgramItemsConfig(), ItemSources(num_items=3), 5)
    with pytest.raises(ValueError, match="num_rows must be at least 1, got 0"):
        NgramItemsConfig(num_rows=0)
    with pytest.raises(ValueError, match="std must be positive, got 0.0"):
        NgramItemsConfig(std=0.0)
