"""Whatever comes and leaves, an item keeps its codes, and codes keep their item."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from semantic_ids.code_table import CodeTable
from semantic_ids.growth import CodeSlots, grow

SIZES = (2, 4)


@st.composite
def histories(draw):
    """Versions of a catalog as lists of item names, in any order; items leave, come back, come anew."""
    names = st.lists(st.integers(0, 25), unique=True, min_size=0, max_size=14)
    return draw(st.lists(names, min_size=2, max_size=4)), draw(st.integers(0, 10**6))


def start(codes, digit):
    table = CodeTable.from_codes(codes, SIZES)
    return CodeSlots.first(table if digit is None else table.with_digit(digit))


def distances(prices, ids):
    """Distances of the items in `ids`, of which the r-th is slot r."""
    return lambda rows: torch.from_numpy(prices[np.array(ids)[rows - 1]])


@given(histories(), st.sampled_from([None, "tiger", "grid"]), st.booleans())
def test_no_version_changes_a_code_and_no_code_goes_to_another_item(history, digit, balanced):
    catalogs, seed = history
    rng = np.random.default_rng(seed)
    quantised = np.stack([rng.integers(0, size, 26) for size in SIZES], 1)
    prices = rng.integers(0, 5, (26, SIZES[-1])).astype(float)
    slots, ids = start(quantised[catalogs[0]].reshape(-1, 2), digit), list(catalogs[0])
    given_codes = dict(zip(ids, map(tuple, slots.table.items.tolist()), strict=True))
    for version, catalog in enumerate(catalogs[1:], start=2):
        known = np.array([ids.index(item) + 1 if item in ids else 0 for item in catalog], dtype=np.int64)
        new = [item for item in catalog if item not in ids]
        before, ids = slots, ids + new
        grown = grow(slots, known, quantised[new].reshape(-1, 2), distances(prices, ids) if balanced else None)
        slots, table = grown.slots, grown.slots.table_of(grown.rows)
        assert np.array_equal(slots.table.codes[: before.table.num_items + 1], before.table.codes)
        codes = dict(zip(catalog, map(tuple, table.items.tolist()), strict=True))
        assert {item: given_codes[item] for item in catalog if item in given_codes} == {
            item: codes[item] for item in catalog if item in given_codes
        }
        given_codes |= codes
        assert [ids[slot - 1] for slot in grown.rows] == catalog
        assert {ids[slot - 1] for slot in slots.reserved} == set(ids) - set(catalog)
        assert (slots.version, slots.arrived[len(ids) - len(new) :].tolist()) == (version, [version] * len(new))
        if digit is not None:
            assert slots.table.is_injective()
        elif balanced:
            first_owners = before.table.items.tolist()
            for slot in range(before.table.num_items + 1, len(ids) + 1):
                if slot not in grown.unplaced:
                    assert slots.table.items[slot - 1].tolist() not in first_owners


def test_a_new_item_avoids_the_codes_of_items_that_left():
    slots = start(np.array([[0, 1], [1, 0]]), None)
    away = grow(slots, np.array([2]), np.zeros((0, 2), dtype=np.int64)).slots
    assert (away.reserved.tolist(), away.left.tolist()) == ([1], [2, 0])
    prices = np.array([[9.0, 0.0, 2.0, 1.0]])
    grown = grow(away, np.array([2, 0]), np.array([[0, 1]]), lambda rows: torch.from_numpy(prices[rows - 3]))
    assert grown.slots.table_of(grown.rows).items.tolist() == [[1, 0], [0, 3]]
    assert grown.unplaced.tolist() == []


def test_what_finds_no_free_code_is_stated_and_a_digit_tells_it_apart():
    codes = np.stack([np.zeros(4, dtype=np.int64), np.arange(4)], 1)
    for digit, expected in ((None, [0, 2]), ("tiger", [0, 2, 1])):
        grown = grow(start(codes, digit), np.array([1, 2, 3, 4, 0]), np.array([[0, 2]]), lambda rows: torch.ones(1, 4))
        assert grown.unplaced.tolist() == [5]
        assert grown.slots.table.items[4].tolist() == expected


def test_an_item_that_came_back_has_its_codes_and_the_version_of_its_first_coming():
    slots = start(np.array([[0, 1], [1, 0]]), "tiger")
    away = grow(slots, np.array([1]), np.zeros((0, 2), dtype=np.int64)).slots
    back = grow(away, np.array([2, 1]), np.zeros((0, 2), dtype=np.int64))
    assert (back.slots.left.tolist(), back.slots.arrived.tolist(), back.slots.version) == ([0, 0], [1, 1], 3)
    assert back.slots.table_of(back.rows).items.tolist() == [[1, 0, 0], [0, 1, 0]]


def test_books_keep_their_sizes_whatever_the_catalog_holds():
    slots = start(np.array([[0, 1], [0, 1], [1, 0]]), "tiger")
    assert slots.table_of(np.array([3])).codebook_sizes == (2, 4, 2)
    assert slots.table_of(np.array([3])).digit == "tiger"


def test_misuse_is_named():
    slots = start(np.array([[0, 1], [1, 0]]), None)
    with pytest.raises(ValueError, match="the catalog has 1 new items but codes were given for 0"):
        grow(slots, np.array([1, 0]), np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(ValueError, match=r"slot 3 is not in 1\.\.2, nor 0 for a new item"):
        grow(slots, np.array([3]), np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="slot 2 is named by 2 items of the catalog; an item has its own"):
        grow(slots, np.array([2, 2]), np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="arrived has 0 entries, the table 2 slots"):
        CodeSlots(table=slots.table, arrived=np.zeros(0, dtype=np.int32), left=np.zeros(0, dtype=np.int32), version=1)
