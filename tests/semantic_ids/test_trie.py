"""The constraint admits exactly the tuples that exist, for any table, and hides exactly what is excluded."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch._subclasses.fake_tensor import FakeTensorMode

from semantic_ids.code_table import CodeTable
from semantic_ids.trie import NOWHERE, ROOT, CodeTrie

SIZES = (3, 2, 4)
code_rows = arrays(np.int64, st.tuples(st.integers(1, 20), st.just(3)), elements=st.integers(0, 1))


def table_of(codes: np.ndarray, sizes: tuple[int, ...] = SIZES) -> CodeTable:
    return CodeTable.from_codes(np.asarray(codes), sizes)


def random_table(items: int, seed: int = 0) -> CodeTable:
    rng = np.random.default_rng(seed)
    return table_of(np.column_stack([rng.integers(0, size, items) for size in SIZES]))


def naive_allowed(codes: np.ndarray, prefix: tuple[int, ...], size: int, hidden: set[tuple[int, ...]]) -> list[bool]:
    """By looking at every tuple."""
    alive = [row for row in map(tuple, codes.tolist()) if row not in hidden and row[: len(prefix)] == prefix]
    return [any(row[len(prefix)] == code for row in alive) for code in range(size)]


def walk(trie: CodeTrie, prefixes: list[tuple[int, ...]]) -> torch.Tensor:
    """The nodes of prefixes of one length."""
    codes = torch.tensor(prefixes, dtype=torch.int64).view(len(prefixes), -1)
    nodes = torch.full((len(prefixes),), ROOT)
    for depth in range(codes.shape[1]):
        nodes = trie.step(depth, nodes, codes[:, depth])
    return nodes


@given(code_rows)
def test_the_masks_of_all_prefixes_admit_exactly_the_tuples_that_exist(codes):
    trie = CodeTrie.of(table_of(codes))
    for depth in range(3):
        prefixes = list(np.ndindex(SIZES[:depth]))
        expected = [naive_allowed(codes, prefix, SIZES[depth], set()) for prefix in prefixes]
        assert trie.mask(depth, walk(trie, prefixes)).tolist() == expected


@given(code_rows)
def test_every_tuple_leads_to_its_items_and_no_other_does(codes):
    table = table_of(codes)
    trie = CodeTrie.of(table)
    keys = list(np.ndindex(SIZES))
    leaves = walk(trie, keys)
    found = [table.items_of(list(key)) for key in keys]
    assert trie.items_of(leaves).tolist() == [items[0] if len(items) else 0 for items in found]
    assert leaves.eq(NOWHERE).tolist() == [len(items) == 0 for items in found]


@given(code_rows, st.data())
def test_a_prefix_is_allowed_as_long_as_an_item_below_it_is_not_excluded(codes, data):
    table = table_of(codes)
    trie = CodeTrie.of(table)
    seen = data.draw(st.lists(st.integers(0, len(codes)), min_size=1, max_size=6))
    excluded = trie.excluded_leaves(torch.tensor([seen]))
    hidden = {tuple(codes[row - 1].tolist()) for row in seen if row}
    for depth in range(3):
        prefixes = list(np.ndindex(SIZES[:depth]))
        expected = [naive_allowed(codes, prefix, SIZES[depth], hidden) for prefix in prefixes]
        nodes = walk(trie, prefixes)
        assert trie.mask(depth, nodes, excluded.expand(len(nodes), -1)).tolist() == expected


def test_children_are_those_of_the_mask_with_their_nodes():
    trie = CodeTrie.of(random_table(12))
    nodes = torch.tensor([[ROOT, NOWHERE]])
    found = trie.children(0, nodes)
    assert found.mask[0, 1].any().item() is False
    codes = found.codes[0, 0][found.mask[0, 0]]
    assert codes.tolist() == trie.mask(0, nodes)[0, 0].nonzero().flatten().tolist()
    again = trie.step(0, torch.full_like(codes, ROOT), codes)
    assert torch.equal(again, found.nodes[0, 0][found.mask[0, 0]])


def test_rows_of_a_batch_have_exclusions_of_their_own():
    table = table_of(np.array([[0, 0, 0], [0, 0, 1], [1, 1, 2]]))
    trie = CodeTrie.of(table)
    excluded = trie.excluded_leaves(torch.tensor([[1, 2], [3, 0]]))
    beams = torch.full((2, 3), ROOT)
    mask = trie.mask(0, beams, excluded.unsqueeze(1).expand(2, 3, 2))
    assert mask[:, 0].tolist() == [[False, True, False], [True, False, False]]
    assert torch.equal(mask[:, 0], mask[:, 2])


def test_an_item_named_twice_is_excluded_once():
    trie = CodeTrie.of(table_of(np.array([[0, 0, 0], [0, 0, 1]])))
    excluded = trie.excluded_leaves(torch.tensor([[1, 1, 0]]))
    assert excluded.tolist() == [[0, 2, 2]]
    assert trie.mask(0, torch.tensor([ROOT]), excluded)[0].tolist() == [True, False, False]


def test_codes_outside_a_book_lead_nowhere():
    trie = CodeTrie.of(table_of(np.array([[0, 1, 0], [1, 0, 0]])))
    codes = torch.tensor([-1, 3, 5])
    assert trie.step(0, torch.full_like(codes, ROOT), codes).tolist() == [NOWHERE] * 3
    assert trie.step(1, torch.tensor([NOWHERE, 0]), torch.tensor([1, 2])).tolist() == [NOWHERE] * 2


def test_items_with_equal_codes_share_a_leaf_and_the_first_stands_for_it():
    trie = CodeTrie.of(table_of(np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]])))
    assert trie.num_leaves == 2
    assert trie.item_leaves.tolist() == [2, 1, 0, 1]
    assert trie.items_of(torch.tensor([0, 1, NOWHERE])).tolist() == [2, 1, 0]


def test_a_digit_is_one_more_level():
    table = table_of(np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1]])).with_digit()
    trie = CodeTrie.of(table)
    leaf = walk(trie, [(1, 1, 1)])
    assert trie.mask(3, leaf)[0].tolist() == [True, True]
    assert trie.items_of(walk(trie, [(1, 1, 1, 1)])).tolist() == [3]


def test_no_step_waits_for_the_host():
    """A value that had to be read on the host would stop a run on tensors that have none."""
    table = random_table(60)
    trie = CodeTrie.of(table)
    nodes, codes, items = torch.zeros(4, 5, dtype=torch.int64), torch.ones(4, 5, dtype=torch.int64), torch.ones(4, 1, 3)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(nodes), mode.from_tensor(codes), mode.from_tensor(items.long())
        excluded = trie.excluded_leaves(fake[2]).expand(4, 5, 3)
        below = trie.step(0, fake[0], fake[1])
        assert trie.mask(1, below, excluded).shape == (4, 5, SIZES[1])
        assert trie.items_of(trie.children(2, below).nodes).shape[:2] == (4, 5)


def test_a_table_without_items_has_no_trie():
    with pytest.raises(ValueError, match="the code table has no items; a trie needs at least one"):
        CodeTrie.of(table_of(np.zeros((0, 3), dtype=np.int64)))
