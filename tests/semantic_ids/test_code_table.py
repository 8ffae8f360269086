"""The table against dictionaries; digits, growth and files."""

import json
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from semantic_ids.code_table import CodeTable
from semantic_ids.files import read_tensors
from semantic_ids.keys import KeyPacker, prefix_groups, ranks_in_groups, runs

SIZES = (3, 2, 3)
code_rows = arrays(np.int64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.integers(0, 1))
WIDE = (2**30, 2**30, 2**30, 2**20)


def naive_digits(codes, style):
    groups = defaultdict(list)
    for item, row in enumerate(codes.tolist()):
        groups[tuple(row)].append(item)
    digits = [0] * len(codes)
    for members in groups.values():
        for rank, item in enumerate(members):
            digits[item] = rank + (style == "grid" and len(members) > 1)
    return digits


@given(code_rows)
def test_items_of_equals_a_dictionary(codes):
    table = CodeTable.from_codes(codes, SIZES)
    expected = defaultdict(list)
    for item, row in enumerate(codes.tolist(), start=1):
        expected[tuple(row)].append(item)
    assert table.is_injective() == (len(expected) == len(codes))
    for key in np.ndindex(SIZES):
        assert table.items_of(list(key)).tolist() == expected[key]


@given(code_rows, st.sampled_from(["tiger", "grid"]))
def test_digits_equal_a_naive_loop_and_make_the_table_injective(codes, style):
    table = CodeTable.from_codes(codes, SIZES).with_digit(style)
    assert table.items[:, -1].tolist() == naive_digits(codes, style)
    assert table.is_injective()
    assert table.digit == style


@given(code_rows, code_rows, st.sampled_from(["tiger", "grid"]))
def test_growth_never_renumbers_and_stays_injective(old, new, style):
    table = CodeTable.from_codes(old, SIZES).with_digit(style)
    longer = table.extend(new)
    assert np.array_equal(longer.codes[: len(table.codes)], table.codes)
    assert longer.is_injective()
    if style == "tiger":
        again = CodeTable.from_codes(np.concatenate([old, new]), SIZES).with_digit(style)
        assert np.array_equal(longer.codes, again.codes)
    if len(old) == 0:
        assert longer.items[:, -1].tolist() == naive_digits(new, style)


def test_growth_without_a_digit_appends():
    table = CodeTable.from_codes(np.array([[1, 1, 2]]), SIZES).extend(np.array([[0, 1, 2]]))
    assert table.codes.tolist() == [[0, 0, 0], [1, 1, 2], [0, 1, 2]]


def test_room_for_the_digit_is_kept_and_too_little_is_refused():
    table = CodeTable.from_codes(np.zeros((3, 3), dtype=np.int64), SIZES)
    assert table.with_digit(digit_size=16).codebook_sizes == (*SIZES, 16)
    assert table.with_digit(digit_size=16).extend(np.zeros((2, 3), dtype=np.int64)).codebook_sizes == (*SIZES, 16)
    assert table.with_digit().extend(np.zeros((2, 3), dtype=np.int64)).codebook_sizes == (*SIZES, 5)
    with pytest.raises(ValueError, match="digit_size 2 is too small: the largest group of equal items needs 3"):
        table.with_digit(digit_size=2)
    with pytest.raises(ValueError, match="the table already has a tiger digit"):
        table.with_digit().with_digit()


def test_offset_codes_leave_zero_to_padding():
    table = CodeTable.from_codes(np.array([[2, 0, 1]]), SIZES)
    assert table.offset_codes().tolist() == [[0, 0, 0], [3, 1, 2]]
    assert table.offset_codes().dtype == np.int64


@given(arrays(np.int64, st.tuples(st.integers(1, 20), st.just(4)), elements=st.integers(0, 2)))
def test_tuples_too_wide_for_one_word_keep_their_order_and_are_found(codes):
    packer, keys = KeyPacker.fit(codes, WIDE)
    order = np.lexsort(codes.T[::-1])
    assert (np.diff(keys[order]) >= 0).all()
    assert np.array_equal(packer.keys(codes), keys)
    assert len(np.unique(keys)) == len(np.unique(codes, axis=0))
    table = CodeTable.from_codes(codes, WIDE)
    assert table.items_of(codes[0]).tolist() == (np.flatnonzero((codes == codes[0]).all(1)) + 1).tolist()
    assert table.items_of([5, 5, 5, 5]).tolist() == []


def test_lookup_of_impossible_codes_finds_nothing_and_wrong_width_is_refused():
    table = CodeTable.from_codes(np.array([[0, 1, 0]]), SIZES)
    assert table.items_of([0, 0, 3]).tolist() == []  # would be the key of (0, 1, 0) without the range check
    with pytest.raises(ValueError, match=r"codes have shape \(2,\), one item has \(3,\)"):
        table.items_of([0, 1])


def test_groups_and_ranks_by_hand():
    assert prefix_groups(np.array([[1, 1], [0, 1], [1, 1]]), (2, 2)).tolist() == [1, 0, 1]
    assert ranks_in_groups(np.array([1, 0, 1, 1])).tolist() == [0, 0, 1, 2]
    assert ranks_in_groups(np.zeros(0, dtype=np.int64)).tolist() == []


def test_file_round_trip_is_bit_equal_and_carries_the_details(tmp_path):
    table = CodeTable.from_codes(np.array([[2, 0, 1], [2, 0, 1]]), SIZES, {"catalog": "abc"}).with_digit()
    table = table.with_details({"health": {"collision_rate": 0.5}})
    table.save(tmp_path / "codes.safetensors")
    loaded = CodeTable.load(tmp_path / "codes.safetensors")
    assert np.array_equal(loaded.codes, table.codes)
    assert loaded.codes.dtype == np.int32
    assert (loaded.codebook_sizes, loaded.digit) == (table.codebook_sizes, "tiger")
    assert loaded.details == {"catalog": "abc", "health": {"collision_rate": 0.5}}
    table.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "codes.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "codes.safetensors"]


@given(st.lists(st.one_of(st.integers(-2, 3), st.integers(2**62 - 2, 2**62)), max_size=20))
def test_runs_of_small_and_of_huge_keys_equal_a_loop(keys):
    found = runs(np.array(keys, dtype=np.int64))
    expected = sorted(range(len(keys)), key=lambda row: (keys[row], row))
    assert found.order.tolist() == expected
    assert found.starts.tolist() == [
        place for place, row in enumerate(expected) if place == 0 or keys[expected[place - 1]] != keys[row]
    ]


def test_a_file_holds_the_reverse_index_for_readers_without_this_library(tmp_path):
    table = CodeTable.from_codes(np.array([[2, 0, 1], [0, 1, 0], [2, 0, 1]]), SIZES)
    table.save(tmp_path / "codes.safetensors")
    tensors, _ = read_tensors(tmp_path / "codes.safetensors", "code_table")
    assert tensors["reverse_items"].tolist() == [2, 1, 3]
    assert tensors["reverse_offsets"].tolist() == [0, 1, 3]


def test_loaded_codes_are_pages_of_the_file(tmp_path):
    """Not a copy: what the file says later, a table that was loaded before says too."""
    path = tmp_path / "codes.safetensors"
    CodeTable.from_codes(np.zeros((5, 3), dtype=np.int64), SIZES).save(path)
    table = CodeTable.load(path)
    raw = path.read_bytes()
    begin = (
        8
        + int.from_bytes(raw[:8], "little")
        + json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["codes"]["data_offsets"][0]
    )
    with path.open("r+b") as file:
        file.seek(begin + table.codes[:5].nbytes)
        file.write((1).to_bytes(4, "little"))
    assert table.codes[5].tolist() == [1, 0, 0]


def test_codes_of_more_than_32_bits_are_refused():
    for code in (2**31, -(2**40)):
        with pytest.raises(ValueError, match=f"^code {code} does not fit 32 bits$"):
            CodeTable.from_codes(np.array([[code]]), (2**40,))


@given(code_rows, st.sampled_from(["tiger", "grid"]), st.randoms(use_true_random=False))
def test_catalog_order_decides_the_digits_and_nothing_else(codes, style, random):
    """In another order every item keeps its semantic codes, and each group shares out the same digits."""
    order = list(range(len(codes)))
    random.shuffle(order)
    table = CodeTable.from_codes(codes, SIZES).with_digit(style)
    moved = CodeTable.from_codes(codes[order], SIZES).with_digit(style)
    assert np.array_equal(moved.items[:, :-1], table.items[order, :-1])
    assert sorted(map(tuple, moved.items.tolist())) == sorted(map(tuple, table.items.tolist()))
    assert moved.items[:, -1].tolist() == naive_digits(codes[order], style)


def test_codes_cannot_be_changed_in_place():
    table = CodeTable.from_codes(np.array([[0, 0, 0]]), SIZES)
    with pytest.raises(ValueError, match="read-only"):
        table.codes[1, 0] = 1


def test_wrong_tables_are_refused_by_row_and_book():
    with pytest.raises(ValueError, match=r"item row 1, book 2: code 3 is not in 0\.\.2"):
        CodeTable.from_codes(np.array([[0, 0, 3]]), SIZES)
    with pytest.raises(ValueError, match=r"row 0 is padding and must be zeros, got \[1, 0, 0\]"):
        CodeTable(codes=np.array([[1, 0, 0]], dtype=np.int32), codebook_sizes=SIZES)
    with pytest.raises(ValueError, match=r"codes have shape \(2, 2\), expected \(items \+ 1, 3\)"):
        CodeTable.from_codes(np.array([[0, 0]]), SIZES)
    with pytest.raises(ValueError, match=r"new codes have shape \(1, 2\), the table takes \(new items, 3\)"):
        CodeTable.from_codes(np.array([[0, 0, 0]]), SIZES).extend(np.array([[0, 0]]))
