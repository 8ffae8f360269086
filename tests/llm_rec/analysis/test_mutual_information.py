"""Information of codes about labels: closed forms, bounds, and what survives on rows that were not counted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.analysis.mutual_information import (
    Cells,
    bootstrap_interval,
    discriminability,
    held_out_information,
    miller_madow,
    mutual_information,
)


def rows_of(table):
    """Codes and labels of a contingency table."""
    codes, labels = np.indices(np.shape(table))
    return tuple(np.repeat(column.ravel(), np.ravel(table)) for column in (codes, labels))


def world(items=3000, rows=40_000, seed=0):
    """Items of 8 kinds; a kind decides the click rate; book 0 knows half of it, book 1 the rest, book 2 nothing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 8, items)
    codes = np.stack([kind // 2, kind % 2, rng.integers(0, 16, items)], axis=1)
    shown = rng.integers(0, items, 2 * rows)
    labels = rng.random(2 * rows) < (0.08 + 0.1 * kind)[shown]
    return codes, shown[:rows], labels[:rows], shown[rows:], labels[rows:]


def test_plug_in_equals_a_table_worked_out_by_hand():
    codes, labels = rows_of([[3, 1], [1, 5]])
    # n = 10, p(code) = (4, 6) / 10, p(label) = (4, 6) / 10
    expected = sum(
        c / 10 * math.log(c / 10 / (a * b / 100)) for c, a, b in ((3, 4, 4), (1, 4, 6), (1, 6, 4), (5, 6, 6))
    )
    assert mutual_information(Cells.of(codes, labels)) == pytest.approx(expected)
    assert expected == pytest.approx(0.1777, abs=5e-5)


def test_miller_madow_adds_its_closed_form():
    codes, labels = rows_of([[3, 1, 0], [0, 5, 2], [4, 0, 0]])
    cells = Cells.of(codes, labels)
    assert len(cells.counts) == 5
    assert miller_madow(cells) == pytest.approx(mutual_information(cells) + (3 + 3 - 5 - 1) / (2 * 15))
    full = Cells.of(*rows_of([[3, 1], [1, 5]]))
    assert miller_madow(full) == pytest.approx(mutual_information(full) - 1 / 20)


def test_miller_madow_takes_away_most_of_what_chance_adds():
    rng = np.random.default_rng(0)
    plain, corrected = [], []
    for _ in range(50):
        cells = Cells.of(rng.integers(0, 40, 4000), rng.random(4000) < 0.5)
        plain.append(mutual_information(cells))
        corrected.append(miller_madow(cells))
    assert np.mean(plain) == pytest.approx(39 / 8000, rel=0.1)
    assert abs(np.mean(corrected)) < 0.1 * np.mean(plain)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 60))
def test_processing_an_item_into_codes_never_adds_information(seed, rows):
    rng = np.random.default_rng(seed)
    items, labels = rng.integers(0, 12, rows), rng.integers(0, 3, rows)
    codes = rng.integers(0, 3, (12, 4))
    by_item = mutual_information(Cells.of(items, labels))
    entropy = mutual_information(Cells.of(labels, labels))
    assert by_item <= entropy + 1e-12
    last = 0.0
    for books in range(1, 5):
        keys = codes[items, :books] @ 3 ** np.arange(books)
        now = mutual_information(Cells.of(keys, labels))
        assert last - 1e-12 <= now <= by_item + 1e-12
        last = now


def test_labels_and_codes_may_be_any_integers():
    codes, labels = rows_of([[3, 1], [1, 5]])
    renamed = Cells.of(np.array([-(10**12), 7])[codes], np.array([5, -5])[labels])
    assert mutual_information(renamed) == pytest.approx(mutual_information(Cells.of(codes, labels)))


def test_the_bootstrap_interval_covers_the_true_information():
    rng = np.random.default_rng(0)
    p = np.array([0.2, 0.4, 0.7])
    truth = np.mean(p * np.log(p / p.mean()) + (1 - p) * np.log((1 - p) / (1 - p.mean())))
    hits = 0
    for seed in range(60):
        codes = rng.integers(0, 3, 1500)
        low, high = bootstrap_interval(Cells.of(codes, rng.random(1500) < p[codes]), samples=200, seed=seed)
        hits += low <= truth <= high
    assert hits >= 52  # 95 % of 60 is 57


def test_held_out_information_equals_the_log_losses_written_out():
    train = rows_of([[6, 2], [1, 3]])
    test_codes, test_labels = np.array([0, 1, 9]), np.array([0, 1, 1])
    gain = held_out_information(*train, test_codes, test_labels, strength=2.0)
    share = 5 / 12
    predicted = [1 - (2 + 2 * share) / 10, (3 + 2 * share) / 6, share]
    expected = np.mean(np.log(predicted) - np.log([1 - share, share, share]))
    assert gain == pytest.approx(expected)


def test_random_codes_gain_nothing_on_held_out_rows_though_they_do_in_sample():
    rng = np.random.default_rng(0)
    codes, labels = rng.integers(0, 500, 20_000), rng.random(20_000) < 0.3
    assert mutual_information(Cells.of(codes[:10_000], labels[:10_000])) > 0.02
    gain = held_out_information(codes[:10_000], labels[:10_000], codes[10_000:], labels[10_000:])
    assert abs(gain) < 5e-4


def test_discriminability_finds_which_books_say_something_new():
    codes, *rows = world()
    found = discriminability(codes, *rows, samples=50)
    first, second, third = found.curve
    assert [record.books for record in found.curve] == [1, 2, 3]
    assert first.held_out > 0.05
    assert second.novelty_held_out > 0.002
    assert third.novelty_held_out < 1e-3 < third.novelty  # noise adds in sample alone
    assert third.novelty_corrected < third.novelty
    assert abs(first.control) < 1e-3
    assert first.in_sample.low <= first.in_sample.corrected <= first.in_sample.high
    assert [record.in_sample.plug_in for record in found.curve] == sorted(r.in_sample.plug_in for r in found.curve)
    assert third.in_sample.plug_in <= found.item.plug_in <= found.label_entropy
    assert found.label_entropy == pytest.approx(mutual_information(Cells.of(rows[1].astype(int), rows[1])))
    assert found.item_held_out < second.held_out  # ids overfit where codes share


def test_many_books_are_grouped_exactly():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2**16, (200, 6))
    items, labels = rng.integers(0, 200, 4000), rng.random(4000) < 0.4
    found = discriminability(codes, items, labels, items, labels, samples=5)
    assert found.curve[-1].in_sample.plug_in == pytest.approx(found.item.plug_in)
    assert found.curve[-1].novelty == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Cells.of(np.zeros(0, int), np.zeros(0, int)),
            "information needs rows, each with code and label; got 0",
        ),
        (
            lambda: bootstrap_interval(Cells.of(*rows_of([[1]])), samples=0),
            "a bootstrap needs samples >= 1 and a level",
        ),
        (
            lambda: held_out_information(*rows_of([[2], [3]]), np.zeros(1, int), np.zeros(1, int)),
            "held-out information needs train rows of both labels and test rows; got a share of 0.0 and 1 test rows",
        ),
    ],
)
def test_rows_that_carry_no_information_are_errors(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()
