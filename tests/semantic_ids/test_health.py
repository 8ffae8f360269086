"""Hand-made catalogs with known figures; neighbour overlap against a naive loop."""

import numpy as np
import pytest
import torch

from semantic_ids.code_table import CodeTable
from semantic_ids.health import RedundantBooksWarning, book_nmi, health, neighbour_overlap, reconstruction

RNG = np.random.default_rng(0)


def test_all_unique_and_uniform():
    codes = np.array(list(np.ndindex(4, 4)))
    figures = health(CodeTable.from_codes(codes, (4, 4)))
    assert (figures.collision_rate, figures.colliding_share, figures.largest_group) == (0.0, 0.0, 1)
    assert figures.usage == (1.0, 1.0)
    assert figures.perplexity == pytest.approx((4.0, 4.0))
    assert figures.joint_entropy == pytest.approx(np.log(16))
    assert figures.unique_prefixes == (4, 16)
    assert figures.nmi[0][1] == pytest.approx(0)


def test_all_equal():
    figures = health(CodeTable.from_codes(np.full((5, 1), 2), (4,)))
    assert (figures.collision_rate, figures.colliding_share, figures.largest_group) == (0.8, 1.0, 5)
    assert (figures.usage, figures.perplexity, figures.joint_entropy) == ((0.25,), (1.0,), 0.0)


def test_collisions_by_hand():
    figures = health(CodeTable.from_codes(np.array([[0, 1], [0, 1], [1, 0], [1, 1], [0, 1]]), (2, 2)))
    assert figures.collision_rate == pytest.approx(2 / 5)
    assert figures.colliding_share == pytest.approx(3 / 5)
    assert figures.unique_prefixes == (2, 3)


def test_nmi_of_copies_is_one_and_warns():
    codes = np.repeat(RNG.integers(0, 4, (200, 1)), 2, axis=1)
    with pytest.warns(RedundantBooksWarning, match=r"books 0 and 1 have NMI 1.00 \(chance 0.0"):
        figures = health(CodeTable.from_codes(codes, (4, 4)))
    assert figures.nmi[0][1] == pytest.approx(1)
    assert figures.nmi_chance[0][1] < 0.1


def test_nmi_by_hand():
    codes = np.array([[0, 0], [0, 0], [0, 1], [1, 1]])
    a, b = (-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), np.log(2))
    joint = -(0.5 * np.log(0.5) + 0.5 * np.log(0.25))
    assert book_nmi(codes, (2, 2))[0, 1] == pytest.approx(2 * (a + b - joint) / (a + b))


def test_a_digit_is_no_semantic_book():
    table = CodeTable.from_codes(np.zeros((6, 1), dtype=np.int64), (2,)).with_digit()
    assert health(table).collision_rate == 0  # no warning although the constant book carries nothing


def test_reconstruction_by_hand():
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    figures = reconstruction(vectors, np.array([[0.5, 0.0], [0.0, 1.0]], dtype=np.float32))
    assert figures.mse == pytest.approx((0.25 + 2) / 4)
    assert figures.relative == pytest.approx(2.25 / 2)
    assert figures.cosine == pytest.approx(0.5)


def test_overlap_is_one_for_the_same_vectors_and_chance_for_constant_ones():
    vectors = RNG.normal(size=(60, 5)).astype(np.float32)
    assert neighbour_overlap(vectors, 3 * vectors) == 1.0
    assert neighbour_overlap(vectors, np.ones_like(vectors)) == pytest.approx(10 / 59, abs=1e-6)


def test_overlap_equals_the_expectation_over_random_orders_of_ties():
    vectors = RNG.normal(size=(30, 4)).astype(np.float32)
    coarse = np.sign(vectors)  # 16 different rows: many ties

    def order(rows, item, noise):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        close = np.round(unit @ unit[item], 5)
        ranked = np.lexsort((noise, -close))
        return set(ranked[ranked != item][:5].tolist())

    draws = [
        len(order(vectors, item, np.zeros(30)) & order(coarse, item, RNG.random(30))) / 5
        for item in range(30)
        for _ in range(300)
    ]
    assert neighbour_overlap(vectors, coarse, neighbours=5) == pytest.approx(np.mean(draws), abs=0.015)


def test_figures_with_vectors_take_arrays_and_tensors_alike():
    vectors = RNG.normal(size=(40, 4)).astype(np.float32)
    table = CodeTable.from_codes(RNG.integers(0, 2, (40, 2)), (2, 2))
    one = health(table, vectors=vectors, reconstructed=vectors / 2)
    two = health(table, vectors=torch.from_numpy(vectors), reconstructed=torch.from_numpy(vectors / 2))
    assert one == two
    assert one.neighbour_overlap == 1.0
    assert one.reconstruction_cosine == pytest.approx(1, abs=1e-6)
    assert one.to_plain()["num_items"] == 40


def test_a_padding_row_too_many_is_named():
    table = CodeTable.from_codes(np.zeros((3, 1), dtype=np.int64), (2,))
    with pytest.raises(ValueError, match=r"the table has 3 items, vectors are \(4, 2\).*pass both for items 1..N"):
        health(table, vectors=np.zeros((4, 2)), reconstructed=np.zeros((4, 2)))
    with pytest.raises(ValueError, match="the table holds 0 items"):
        health(CodeTable.from_codes(np.zeros((0, 1), dtype=np.int64), (2,)))
    with pytest.raises(ValueError, match="1 item has no neighbours"):
        neighbour_overlap(np.ones((1, 2)), np.ones((1, 2)))
