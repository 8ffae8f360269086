"""Product, optimised product, grouped residual and size-balanced quantisers: identities, and what faiss is for."""

import builtins

import numpy as np
import pytest
import torch

from semantic_ids.kmeans import kmeans
from semantic_ids.quantizers import GroupedRQConfig, OPQConfig, PQConfig, RQKMeansConfig, build_quantizer
from semantic_ids.quantizers.blocks import Blocks
from semantic_ids.quantizers.opq import learned_rotation

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(300, 12)).astype(np.float32)
SIZES = {"num_codebooks": 4, "codebook_size": 8}


def fitted(config, rows=ROWS):
    quantizer = build_quantizer(config, rows.shape[1])
    quantizer.fit(rows, seed=3)
    return quantizer


def error(quantizer, rows):
    return float(np.square(rows - quantizer.decode(quantizer.encode(rows))).sum())


@pytest.mark.parametrize(
    ("groups", "other"), [(1, RQKMeansConfig(**SIZES)), (4, PQConfig(**SIZES))], ids=["rqkmeans", "pq"]
)
def test_one_group_is_residual_kmeans_and_one_level_is_product_quantisation(groups, other):
    grouped, plain = fitted(GroupedRQConfig(**SIZES, num_groups=groups)), fitted(other)
    torch.testing.assert_close(grouped.tables, plain.tables, rtol=0, atol=1e-5)
    assert (grouped.encode(ROWS) == plain.encode(ROWS)).mean() > 0.99
    assert error(grouped, ROWS) == pytest.approx(error(plain, ROWS), rel=1e-3)


def test_books_of_groups_go_level_by_level_and_add_up_in_their_blocks():
    quantizer = fitted(GroupedRQConfig(**SIZES))
    codes, tables = quantizer.encode(ROWS), quantizer.tables.numpy()
    expected = np.zeros_like(ROWS)
    for row in range(len(ROWS)):
        for group in range(2):
            columns = slice(6 * group, 6 * group + 6)
            for level in range(2):
                left = ROWS[row, columns] - expected[row, columns]
                book = tables[2 * level + group]
                nearest = np.square(left - book[codes[row, 2 * level + group]]).sum()
                assert nearest <= np.square(left - book).sum(1).min() + 1e-4
                expected[row, columns] += book[codes[row, 2 * level + group]]
    np.testing.assert_allclose(quantizer.decode(codes), expected, rtol=1e-5, atol=1e-5)


def test_costs_of_the_last_book_are_the_distances_of_what_is_decoded():
    for config in (GroupedRQConfig(**SIZES), OPQConfig(**SIZES, rotation_iterations=3)):
        quantizer = fitted(config)
        codes = quantizer.encode(ROWS)[:9]
        costs = quantizer.last_costs(ROWS[:9], codes).numpy()
        for last in range(8):
            changed = codes.copy()
            changed[:, -1] = last
            away = np.square(ROWS[:9] - quantizer.decode(changed)).sum(1)
            np.testing.assert_allclose(away - away.min() >= -1e-4, True)
            same = np.square(ROWS[:9] - quantizer.decode(codes)).sum(1) - costs[np.arange(9), codes[:, -1]]
            np.testing.assert_allclose(away - costs[:, last], same, atol=1e-3)


def test_blocks_are_cut_and_joined_as_array_split_does():
    rows = torch.from_numpy(ROWS[:, :11].copy())
    blocks = Blocks(11, 3, torch.device("cpu"))
    for block, expected in zip(blocks.split(rows).unbind(1), np.array_split(rows.numpy(), 3, axis=1), strict=True):
        assert np.array_equal(block[:, : expected.shape[1]].numpy(), expected)
    assert torch.equal(blocks.join(blocks.split(rows)), rows)


def test_a_learned_rotation_is_orthogonal_and_loses_less_than_none():
    mixing = np.linalg.qr(RNG.normal(size=(12, 12)))[0]
    rows = (RNG.normal(size=(600, 12)) * np.r_[np.full(4, 5.0), np.full(8, 0.2)] @ mixing).astype(np.float32)
    rotation = learned_rotation(OPQConfig(**SIZES), torch.from_numpy(rows), 0)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(12), rtol=0, atol=1e-4)
    assert error(fitted(OPQConfig(**SIZES), rows), rows) < 0.8 * error(fitted(PQConfig(**SIZES), rows), rows)


def test_without_faiss_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"with faiss, which is not installed; pip install 'llm-rec\[faiss\]'"):
        fitted(OPQConfig(**SIZES))


def test_the_cap_of_clusters_follows_the_slack():
    rows = torch.from_numpy(np.r_[ROWS[:200] * 0.01, ROWS[200:]])  # two thirds of all rows are near one point
    sizes = {}
    for slack in (1.0, 1.5, 8.0):
        found = kmeans(rows, 8, generator=torch.Generator().manual_seed(0), balanced=True, slack=slack)
        sizes[slack] = int(torch.bincount(found.codes).max())
    assert sizes[1.0] <= 38
    assert 38 < sizes[1.5] <= 57
    free = kmeans(rows, 8, generator=torch.Generator().manual_seed(0))
    assert sizes[8.0] == int(torch.bincount(free.codes).max())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GroupedRQConfig(num_codebooks=3), "num_groups must divide num_codebooks, got 2 groups of 3 codebooks"),
        (lambda: RQKMeansConfig(slack=0.5), "slack must be at least 1, where every row has a place; got 0.5"),
        (lambda: build_quantizer(OPQConfig(num_codebooks=5), 12), "width 12 does not divide by 5; choose another num_"),
        (lambda: build_quantizer(GroupedRQConfig(), 1), "vectors of width 1 cannot be cut into 2 blocks"),
        (lambda: OPQConfig(rotation_rows=9), "rotation_rows 9 is smaller than codebook_size 256"),
        (lambda: fitted(OPQConfig(), ROWS[:99]), "99 rows cannot fill 256"),
    ],
)
def test_settings_that_do_not_fit_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
