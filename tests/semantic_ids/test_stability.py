"""Stability by counting pairs, by hand and by scikit-learn."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_ids.code_table import CodeTable
from semantic_ids.stability import adjusted_rand_index, stability

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=25)


def naive_ari(one, two):
    """Every pair of items, looked at."""
    pairs = [(one[a] == one[b], two[a] == two[b]) for a, b in combinations(range(len(one)), 2)]
    both = sum(a and b for a, b in pairs)
    first, second = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    expected = first * second / len(pairs) if pairs else 0
    most = (first + second) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


@given(labels)
def test_the_adjusted_rand_index_equals_that_of_all_pairs(rows):
    one, two = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    assert adjusted_rand_index(one, two) == pytest.approx(naive_ari(one, two), abs=1e-12)
    assert adjusted_rand_index(one, (two * 7 + 3) % 11) == pytest.approx(naive_ari(one, two), abs=1e-12)


@pytest.mark.slow
def test_the_adjusted_rand_index_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 20, 3000)
    two = np.where(rng.random(3000) < 0.6, one, rng.integers(0, 30, 3000))
    assert adjusted_rand_index(one, two) == pytest.approx(sklearn.adjusted_rand_score(one, two), abs=1e-12)


def test_partitions_of_millions_do_not_overflow():
    """Two groups of two million each, split the same way: about 4e12 pairs, whose products pass 2^63."""
    one = np.repeat([0, 1], 2_000_000)
    assert adjusted_rand_index(one, 1 - one) == 1.0
    assert abs(adjusted_rand_index(one, np.tile([0, 1], 2_000_000))) < 1e-5


@given(st.lists(st.integers(0, 6), unique=True, min_size=1, max_size=6), st.integers(0, 10**6))
def test_figures_equal_those_of_a_loop_over_shared_items(rows, seed):
    rng = np.random.default_rng(seed)
    old = CodeTable.from_codes(rng.integers(0, 2, (6, 2)), (2, 2))
    new = CodeTable.from_codes(rng.integers(0, 2, (len(rows), 3)), (2, 2, 2))
    shared = [(old.codes[a].tolist(), new.codes[b].tolist()) for b, a in enumerate(rows, start=1) if a]
    if not shared:
        with pytest.raises(ValueError, match="the two versions have no item in common; there is nothing to compare"):
            stability(old, new, np.array(rows))
        return
    found = stability(old, new, np.array(rows))
    assert (found.shared, found.only_old, found.only_new) == (len(shared), 6 - len(shared), len(rows) - len(shared))
    assert found.unchanged == 0.0  # other numbers of books
    for book in range(2):
        assert found.unchanged_books[book] == pytest.approx(np.mean([a[book] == b[book] for a, b in shared]))
        same = [a[: book + 1] == b[: book + 1] for a, b in shared]
        assert found.unchanged_prefixes[book] == pytest.approx(np.mean(same))
        one, two = [a[book] for a, _ in shared], [b[book] for _, b in shared]
        assert found.ari_books[book] == pytest.approx(naive_ari(one, two))
        one, two = [tuple(a[: book + 1]) for a, _ in shared], [tuple(b[: book + 1]) for _, b in shared]
        assert found.ari_prefixes[book] == pytest.approx(naive_ari(one, two))


def test_a_version_is_wholly_stable_against_itself_in_another_order():
    rng = np.random.default_rng(1)
    codes, order = rng.integers(0, 4, (40, 3)), rng.permutation(40)
    found = stability(CodeTable.from_codes(codes, (4,) * 3), CodeTable.from_codes(codes[order], (4,) * 3), order + 1)
    assert found.unchanged == 1.0
    assert found.unchanged_books == found.unchanged_prefixes == found.ari_books == found.ari_prefixes == (1.0,) * 3
    assert found.to_plain()["shared"] == 40


def test_renamed_codes_change_and_their_groups_do_not():
    codes = np.arange(30) % 3
    renamed = np.array([2, 0, 1])[codes]
    found = stability(
        CodeTable.from_codes(codes[:, None], (3,)), CodeTable.from_codes(renamed[:, None], (3,)), np.arange(1, 31)
    )
    assert (found.unchanged, found.ari_books) == (0.0, (1.0,))


def test_misuse_is_named():
    table = CodeTable.from_codes(np.zeros((2, 1), dtype=np.int64), (2,))
    with pytest.raises(ValueError, match="old_rows has 1 entries, the new table 2 items"):
        stability(table, table, np.array([1]))
    with pytest.raises(ValueError, match="partitions of 0 items cannot be compared"):
        adjusted_rand_index(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
