"""Cores against a naive loop, latest events, and catalogs without unused items."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.data import Catalog, Interactions, drop_unused_items, k_core, keep_last
from llm_rec.errors import DataError

CATALOG = Catalog(["a", "b", "c", "d"], ["A", "B", "C", "D"])

events = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcd"), st.integers(-3, 3)), min_size=1, max_size=60)


def log_of(rows, catalog=CATALOG, **options):
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    return Interactions.from_frame(frame, catalog, user="user", item="item", time="time", **options)


def histories(log, catalog=CATALOG):
    return {
        user: [catalog.item_ids[row - 1] for row in log.history(index).tolist()]
        for index, user in enumerate(log.user_ids)
    }


def naive_k_core(rows, users, items):
    while True:
        by_user, by_item = Counter(u for u, _ in rows), Counter(i for _, i in rows)
        kept = [(u, i) for u, i in rows if by_user[u] >= users and by_item[i] >= items]
        if kept == rows:
            return rows
        rows = kept


@given(events, st.integers(0, 4), st.integers(0, 4))
@settings(max_examples=80, deadline=None)
def test_k_core_equals_a_naive_loop_and_is_a_fixed_point(rows, users, items):
    log = log_of([(u, i, n) for n, (u, i, _) in enumerate(rows)])
    pairs = [(log.user_ids[u], int(i)) for u, i in zip(log.users_of(np.arange(len(rows))), log.items, strict=True)]
    expected = naive_k_core(pairs, users, items)
    if not expected:
        with pytest.raises(DataError, match="ask for smaller cores"):
            k_core(log, users, items)
        return
    core, rounds = k_core(log, users, items)
    found = [
        (core.user_ids[u], int(i)) for u, i in zip(core.users_of(np.arange(core.num_events)), core.items, strict=True)
    ]
    assert found == expected
    assert k_core(core, users, items).rounds == 0
    assert (rounds == 0) == (len(expected) == len(rows))
    assert core.num_items == 4
    assert core.catalog == log.catalog


def test_k_core_needs_more_than_one_round_on_a_chain():
    rows = [("u", "a", 0), ("u", "b", 1), ("v", "b", 0), ("v", "c", 1), ("w", "c", 0), ("w", "d", 1), ("x", "d", 0)]
    loop = [("p", "a", 0), ("p", "b", 1), ("q", "a", 0), ("q", "b", 1)]
    core, rounds = k_core(log_of([r for r in rows if r[0] != "u"] + loop), users=2, items=2)
    assert histories(core) == {"p": ["a", "b"], "q": ["a", "b"]}
    assert rounds == 5  # x, d, w, c, v


def test_keep_last_keeps_the_latest_events_of_everybody():
    log = log_of([("u", i, n) for n, i in enumerate("abcd")] + [("v", "a", 0)])
    short = keep_last(log, 2)
    assert histories(short) == {"u": ["c", "d"], "v": ["a"]}
    assert short.times.tolist() == [2, 3, 0]
    with pytest.raises(ValueError, match="number of events to keep must be at least 1, got 0"):
        keep_last(log, 0)


def test_unused_items_are_dropped_from_both_sides():
    catalog = Catalog(["a", "b", "c", "d"], ["A", "B", "C", "D"], {"kind": ["1", "2", "3", "4"]})
    log = log_of([("u", "d", 0), ("u", "b", 1), ("v", "b", 0)], catalog)
    smaller, moved = drop_unused_items(catalog, log)
    assert smaller.item_ids == ("b", "d")
    assert smaller.texts == ("B", "D")
    assert smaller.columns == {"kind": ("2", "4")}
    assert histories(moved, smaller) == histories(log, catalog)
    assert (moved.num_items, moved.catalog) == (2, smaller.fingerprint)
    assert moved.times.tolist() == log.times.tolist()
    with pytest.raises(DataError, match="the log was made from catalog"):
        drop_unused_items(smaller, log)
