"""One item a code where there is room: against a loop over prefixes, rounds and rows, and by what it promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semantic_ids.balanced import resolve_balanced
from semantic_ids.code_table import CodeTable
from semantic_ids.quantizers import RQKMeansConfig, build_quantizer
from semantic_ids.vectors import seeded


def naive(codes, prices, size, fixed):
    """Codes and rows without a place, by plain loops."""
    codes, unplaced = codes.copy(), []
    for prefix in sorted({tuple(row[:-1]) for row in codes.tolist()}):
        members = [row for row in range(len(codes)) if tuple(codes[row, :-1]) == prefix]
        waiting = []
        for code in range(size):
            rivals = [row for row in members if codes[row, -1] == code]
            free = [row for row in rivals if row >= fixed]
            if len(rivals) > 1:
                keeper = None if len(free) < len(rivals) else min(free, key=lambda row: (prices[row][code], row))
                waiting += [row for row in free if row != keeper]
        open_ = [code for code in range(size) if not any(codes[row, -1] == code for row in members)]
        while waiting and open_:
            wishes = {row: min(open_, key=lambda code: (prices[row][code], code)) for row in sorted(waiting)}
            for code in set(wishes.values()):
                winner = min((row for row in wishes if wishes[row] == code), key=lambda row: (prices[row][code], row))
                codes[winner, -1] = code
                waiting.remove(winner)
                open_.remove(code)
        unplaced += waiting
    return codes, sorted(row + 1 for row in unplaced)


@st.composite
def tables(draw):
    """Few prefixes, few prices: collisions, ties and prefixes without room are the rule."""
    items, size = draw(st.integers(0, 14)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    codes = np.column_stack([rng.integers(0, draw(st.integers(1, 3)), items), rng.integers(0, size, items)])
    return codes, rng.integers(0, 4, (items, size)).astype(float), size, draw(st.integers(0, items))


def lookup(prices):
    return lambda rows: torch.from_numpy(prices)[torch.from_numpy(rows) - 1]


@given(tables())
def test_rounds_of_all_prefixes_at_once_equal_plain_loops(case):
    codes, prices, size, fixed = case
    found = resolve_balanced(CodeTable.from_codes(codes, (3, size)), lookup(prices), fixed=fixed)
    expected, unplaced = naive(codes, prices, size, fixed)
    assert found.table.items.tolist() == expected.tolist()
    assert found.unplaced.tolist() == unplaced
    assert found.moved.tolist() == (np.flatnonzero((expected != codes).any(1)) + 1).tolist()


@given(tables())
def test_each_code_is_had_once_where_there_is_room_and_all_are_had_where_there_is_not(case):
    codes, prices, size, _ = case
    found = resolve_balanced(CodeTable.from_codes(codes, (3, size)), lookup(prices))
    for prefix in range(3):
        last = found.table.items[codes[:, 0] == prefix, 1]
        assert len(set(last.tolist())) == min(size, len(last))
        excess = np.flatnonzero(codes[:, 0] == prefix) + 1
        assert np.isin(found.unplaced, excess).sum() == max(0, len(last) - size)


@given(tables())
def test_the_codes_that_were_in_use_stay_in_use_and_items_alone_stay(case):
    codes, prices, size, fixed = case
    items = resolve_balanced(CodeTable.from_codes(codes, (3, size)), lookup(prices), fixed=fixed).table.items
    assert np.array_equal(items[:fixed], codes[:fixed])
    assert set(map(tuple, codes.tolist())) <= set(map(tuple, items.tolist()))
    unique, counts = np.unique(codes, axis=0, return_counts=True)
    alone = {tuple(row) for row, number in zip(unique.tolist(), counts, strict=True) if number == 1}
    kept = np.array([tuple(row) in alone for row in codes.tolist()], dtype=bool)
    assert np.array_equal(items[kept], codes[kept])


@given(st.integers(0, 10**6))
def test_without_ties_the_order_of_the_catalog_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    codes = np.column_stack([rng.integers(0, 2, 12), rng.integers(0, 8, 12)])
    prices, order = rng.random((12, 8)), rng.permutation(12)
    one = resolve_balanced(CodeTable.from_codes(codes, (2, 8)), lookup(prices)).table.items
    two = resolve_balanced(CodeTable.from_codes(codes[order], (2, 8)), lookup(prices[order])).table.items
    assert np.array_equal(two, one[order])


def test_of_equal_items_the_first_in_the_catalog_keeps_the_code():
    codes = np.array([[0, 1], [0, 1], [0, 1]])
    found = resolve_balanced(CodeTable.from_codes(codes, (1, 2)), lookup(np.ones((3, 2))))
    assert found.table.items.tolist() == [[0, 1], [0, 0], [0, 1]]
    assert (found.moved.tolist(), found.unplaced.tolist()) == ([2], [3])


@pytest.mark.parametrize("cells", [1, 64, 700])
def test_the_memory_bound_does_not_change_the_result(monkeypatch, cells):
    rng = np.random.default_rng(3)
    codes, prices = np.column_stack([rng.integers(0, 20, 300), rng.integers(0, 16, 300)]), rng.random((300, 16))
    table = CodeTable.from_codes(codes, (20, 16))
    whole = resolve_balanced(table, lookup(prices)).table.items
    monkeypatch.setattr("semantic_ids.balanced._CELLS", cells)
    assert np.array_equal(resolve_balanced(table, lookup(prices)).table.items, whole)


def test_one_book_alone_is_balanced_as_a_whole():
    prices = np.array([[0.0, 1.0, 2.0], [0.0, 3.0, 1.0], [0.5, 0.6, 2.0]])
    found = resolve_balanced(CodeTable.from_codes(np.zeros((3, 1), dtype=np.int64), (3,)), lookup(prices))
    assert found.table.items.tolist() == [[0], [2], [1]]


def test_a_quantizer_gives_the_distances_and_threads_do_not_change_the_codes():
    vectors = torch.randn(600, 6, generator=seeded(1)).numpy()
    quantizer = build_quantizer(RQKMeansConfig(num_codebooks=2, codebook_size=32), 6)
    quantizer.fit(vectors)
    table = CodeTable.from_codes(quantizer.encode(vectors), quantizer.codebook_sizes)

    def distances(rows):
        return quantizer.last_costs(vectors[rows - 1], table.codes[rows].astype(np.int64))

    found = resolve_balanced(table, distances)
    assert len(found.moved) > 0
    assert found.table.is_injective() == (len(found.unplaced) == 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = resolve_balanced(table, distances).table
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(again.codes, found.table.codes)


def test_misuse_is_named():
    table = CodeTable.from_codes(np.zeros((2, 2), dtype=np.int64), (2, 2))
    with pytest.raises(ValueError, match="the last book is a grid digit; resolve the semantic codes before adding it"):
        resolve_balanced(table.with_digit("grid"), lookup(np.ones((2, 2))))
    with pytest.raises(ValueError, match=r"fixed must be 0\.\.2 \(the items of the table\), got 3"):
        resolve_balanced(table, lookup(np.ones((2, 2))), fixed=3)
    with pytest.raises(ValueError, match="the costs of item row 2 are not finite; check its vector"):
        resolve_balanced(table, lookup(np.array([[0.0, 1.0], [np.nan, 1.0]])))
    with pytest.raises(ValueError, match=r"costs of 2 items have shape \(2, 3\), expected \(2, 2\)"):
        resolve_balanced(table, lookup(np.ones((2, 3))))
