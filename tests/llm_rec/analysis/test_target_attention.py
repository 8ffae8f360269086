"""Learned attention by category and position, and CTC, against loops in float64."""

import math

import numpy as np
import pytest

from llm_rec.analysis.category_information import CategoryCounter
from llm_rec.analysis.target_attention import (
    RoleVectors,
    attention_map,
    attention_scores,
    correlation_map,
    rank_correlation,
)
from llm_rec.analysis.target_correlation import phi_coefficient, target_correlation


def vectors(combine="concat", seed=0, position_dim=3):
    rng = np.random.default_rng(seed)
    category = rng.normal(size=(6, 4)).astype(np.float32)
    widths = {"concat": position_dim, "add": 4, "none": 0}
    return RoleVectors(category, rng.normal(size=(9, widths[combine])).astype(np.float32), combine)


def naive_score(role, t, c, p, semantic_dim=4):
    category, position = role.category.astype(float), role.position.astype(float)
    if role.combine == "concat":
        first = sum(a * b for a, b in zip(category[t], category[c], strict=True)) / math.sqrt(semantic_dim)
        return first + sum(a * b for a, b in zip(position[0], position[p], strict=True)) / math.sqrt(3)
    goal, event = category[t], category[c]
    if role.combine == "add":
        goal, event = goal + position[0], event + position[p]
    return sum(a * b for a, b in zip(goal, event, strict=True)) / math.sqrt(semantic_dim)


@pytest.mark.parametrize("combine", ["concat", "add", "none"])
def test_scores_of_rows_equal_the_equation(combine):
    role, rng = vectors(combine), np.random.default_rng(1)
    targets, history = rng.integers(0, 6, 3), rng.integers(0, 6, (3, 5))
    for dim, given in ((4, None), (8, 8)):
        found = attention_scores(role, targets, history, semantic_dim=given)
        for row in range(3):
            for column in range(5):
                expected = naive_score(role, targets[row], history[row, column], 5 - column, dim)
                assert found[row, column] == pytest.approx(expected)


@pytest.mark.parametrize("combine", ["concat", "add", "none"])
def test_a_candidate_may_have_vectors_of_its_own(combine):
    role, own = vectors(combine), vectors(combine, seed=7)
    both = RoleVectors(role.category, role.position, combine, own.category, own.position[3])
    found = attention_scores(both, np.array([2]), np.array([[4, 1]]))
    mixed = own.category.copy()
    for column, (c, p) in enumerate(((4, 2), (1, 1))):
        mixed[c] = role.category[c]
        position = role.position.copy()
        position[0] = own.position[3]
        assert found[0, column] == pytest.approx(naive_score(RoleVectors(mixed, position, combine), 2, c, p))


@pytest.mark.parametrize("combine", ["concat", "add", "none"])
def test_the_map_is_one_softmax_over_all_cells_then_min_max(combine):
    role = vectors(combine)
    targets, behaviours = np.array([1, 2, 3]), np.array([4, 2, 5])
    scores = [[naive_score(role, t, c, p) for p in range(1, 8)] for t, c in zip(targets, behaviours, strict=True)]
    powers = np.exp(scores)
    shares = powers / powers.sum()
    expected = (shares - shares.min()) / (shares.max() - shares.min())
    assert np.allclose(attention_map(role, targets, behaviours, 7), expected)


@pytest.mark.parametrize("reduction", ["norm", "sum"])
@pytest.mark.parametrize("combine", ["concat", "add"])
def test_learned_correlation_is_attention_times_the_product_of_representations(combine, reduction):
    attention, representation = vectors(combine), vectors(combine, seed=5)
    behaviours = np.array([4, 2, 5])
    targets = np.full(3, 2)
    powers = np.exp([[naive_score(attention, 2, c, p) for p in range(1, 8)] for c in behaviours])
    alpha = powers / powers.sum()
    found = correlation_map(attention, representation, targets, behaviours, 7, reduction=reduction)
    category, position = representation.category.astype(float), representation.position.astype(float)
    for row, c in enumerate(behaviours):
        for p in range(1, 8):
            if combine == "add":
                product = (category[c] + position[p]) * (category[2] + position[0])
            else:
                product = np.r_[category[c], position[p]] * np.r_[category[2], position[0]]
            product = alpha[row, p - 1] * product
            expected = np.linalg.norm(product) if reduction == "norm" else abs(product.sum())
            assert found[row, p - 1] == pytest.approx(expected)


def test_rank_correlation_ignores_monotone_maps_and_shares_ranks_of_ties():
    values = np.random.default_rng(0).normal(size=(4, 5))
    assert rank_correlation(values, np.exp(values)) == pytest.approx(1)
    assert rank_correlation(values, -(values**3)) == pytest.approx(-1)
    first, second = np.array([1.0, 2.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0, 4.0])
    ranks = np.array([1, 2.5, 2.5, 4]), np.array([1, 3, 2, 4])
    assert rank_correlation(first, second) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert math.isnan(rank_correlation(first, np.ones(4)))


def test_phi_is_the_pearson_correlation_of_the_two_axes():
    table = np.array([[7, 2], [1, 5]])
    x, y = (np.repeat(part.ravel(), table.ravel()) for part in np.indices((2, 2)))
    assert phi_coefficient(table) == pytest.approx(np.corrcoef(x, y)[0, 1])
    tables = np.array([[[2, 5], [7, 1]], [[3, 4], [0, 0]]])
    assert phi_coefficient(tables) == pytest.approx([(2 * 1 - 5 * 7) / math.sqrt(7 * 8 * 9 * 6), 0])


def planted():
    """Clicks on category 2 go with category 4 at position 2, and against category 1 at position 1."""
    rng = np.random.default_rng(0)
    target, history = rng.integers(1, 6, 6000), rng.integers(1, 6, (6000, 3))
    chance = 0.4 + 0.4 * (history[:, 1] == 4) - 0.3 * (history[:, 2] == 1)
    counter = CategoryCounter(6, 3)
    counter.update(target, history, rng.random(6000) < np.where(target == 2, chance, 0.4))
    return counter.counts()


def test_ctc_of_rows_finds_what_was_planted_with_its_sign():
    found = target_correlation(planted(), 2, num_positions=3)
    assert sorted(found.behaviours.tolist()) == [1, 2, 3, 4, 5]
    row_of = {int(c): row for row, c in enumerate(found.behaviours)}
    assert np.unravel_index(found.information.argmax(), found.information.shape) == (row_of[4], 1)
    assert found.phi[row_of[4], 1] > 0.2
    assert found.phi[row_of[1], 0] < -0.15
    assert found.learned is None
    assert found.agreement is None


def test_ctc_of_a_model_is_its_correlation_map_over_the_same_cells():
    counts, attention, representation = planted(), vectors(), vectors(seed=3)
    found = target_correlation(counts, 2, num_positions=3, attention=attention, representation=representation)
    targets = np.full(5, 2)
    assert np.array_equal(found.learned, correlation_map(attention, representation, targets, found.behaviours, 3))
    assert found.agreement == rank_correlation(found.information, found.learned)
    shared = target_correlation(counts, 2, num_positions=3, attention=attention)
    assert np.array_equal(shared.learned, correlation_map(attention, attention, targets, found.behaviours, 3))


def test_refusals_name_the_value_and_the_repair():
    with pytest.raises(ValueError, match="positions of 3 numbers cannot be added to categories of 4; use concat"):
        RoleVectors(np.zeros((5, 4)), np.zeros((6, 3)), "add")
    with pytest.raises(ValueError, match=r"vectors of positions 0\.\.8, but 9 are asked for; take fewer"):
        attention_map(vectors(), np.array([1]), np.array([1]), 9)
    with pytest.raises(ValueError, match=r"positions 0\.\.8, but 9"):
        attention_scores(vectors(), np.array([1]), np.ones((1, 9), dtype=np.int64))
    with pytest.raises(ValueError, match="no row of target category 0 has a past; choose one of"):
        target_correlation(planted(), 0)
