"""Encoders: each against a naive loop, whatever the order and the chunks of the training rows."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr_models.encode import (
    DenseConfig,
    HashConfig,
    LogBinsConfig,
    MultiValueConfig,
    NumberConfig,
    NumeralsConfig,
    QuantileConfig,
    SoftNumberConfig,
    VocabularyConfig,
    build_fitter,
    restore,
)
from ctr_models.encoders import log_bin_texts
from ctr_models.fitters import ValueCounts
from ctr_models.schema import PADDING, RESERVED, UNKNOWN, Categorical, Dense, MultiValue, Numeric
from ctr_models.values import list_column, raw_column, stable_hash

words = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "dd", "é"]))
counts = st.one_of(st.none(), st.integers(-3, 10**6))
lists = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=6)
CONFIGS = {
    "vocabulary": (VocabularyConfig(min_count=2), words),
    "largest_values": (VocabularyConfig(max_size=2), words),
    "hash": (HashConfig(buckets=5), words),
    "quantile": (QuantileConfig(bins=4), counts),
    "log_bins": (LogBinsConfig(min_count=2), counts),
    "number": (NumberConfig(log=True), counts),
    "raw_number": (NumberConfig(scale="none"), counts),
    "soft_number": (SoftNumberConfig(log=True, temperature=0.5), counts),
    "numerals": (NumeralsConfig(levels=9), counts),
    "log_numerals": (NumeralsConfig(scale="log", levels=50), counts),
    "whole_numerals": (NumeralsConfig(scale="whole", overflow="missing", bases=(2, 5)), counts),
    "cosine_numerals": (NumeralsConfig(scale="cosine", combine="concat"), st.one_of(st.none(), st.floats(-1, 1))),
    "texts": (MultiValueConfig(length=2, separator="|", min_count=2), st.sampled_from(["a|b", "b", None, "c|a|b"])),
    "lists": (MultiValueConfig(length=2, keep="last"), lists),
    "dense": (DenseConfig(width=2), st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=2)),
}


def column_of(rows, config):
    is_list = isinstance(config, DenseConfig) or (isinstance(config, MultiValueConfig) and config.separator is None)
    return list_column(rows) if is_list else raw_column(rows)


def fitted(config, chunks):
    fitter = build_fitter(config)
    for rows in chunks:
        fitter.observe(column_of(rows, config))
    return fitter.finish()


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=25)
@given(data=st.data())
def test_neither_order_nor_chunks_of_training_rows_matter(name, data):
    config, values = CONFIGS[name]
    rows = data.draw(st.lists(values, min_size=1, max_size=25))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    shuffled = data.draw(st.permutations(rows))
    chunks = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
    whole, pieces = fitted(config, [rows]), fitted(config, chunks)
    assert whole.state == pieces.state
    column = column_of(rows, config)
    np.testing.assert_array_equal(whole.transform(column), pieces.transform(column))


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=10)
@given(data=st.data())
def test_the_state_as_json_gives_the_same_encoder(name, data):
    config, values = CONFIGS[name]
    encoder = fitted(config, [data.draw(st.lists(values, min_size=1, max_size=20))])
    again = restore(config, json.loads(json.dumps(encoder.state)))
    column = column_of(data.draw(st.lists(values, min_size=1, max_size=20)), config)
    np.testing.assert_array_equal(encoder.transform(column), again.transform(column))
    assert encoder.field("f") == again.field("f")


@given(st.lists(words, max_size=40), st.lists(words, min_size=1, max_size=10), st.integers(1, 4), st.integers(1, 4))
def test_vocabulary_is_the_naive_one(train, rows, min_count, max_size):
    tally = Counter(train)
    kept = sorted((v for v in tally if tally[v] >= min_count), key=lambda v: (-tally[v], v is not None, v or ""))
    ids = {value: RESERVED + rank for rank, value in enumerate(kept[:max_size])}
    encoder = fitted(VocabularyConfig(min_count=min_count, max_size=max_size), [train])
    assert encoder.transform(raw_column(rows)).tolist() == [ids.get(row, UNKNOWN) for row in rows]
    assert encoder.field("f") == Categorical(name="f", size=RESERVED + max(1, len(ids)))


def test_null_is_a_value_when_frequent_and_unknown_when_rare():
    assert fitted(VocabularyConfig(min_count=2), [[None, None, "a", "a"]]).transform(raw_column([None]))[0] == 2
    assert fitted(VocabularyConfig(min_count=2), [[None, "a", "a"]]).transform(raw_column([None]))[0] == UNKNOWN


def test_values_that_training_did_not_have_are_unknown():
    for config in (VocabularyConfig(), LogBinsConfig()):
        assert fitted(config, [[5, 5, 9]]).transform(np.array([100000, 5])).tolist() == [UNKNOWN, RESERVED]


def test_criteo_bins_have_the_published_values():
    # arXiv 2310.04400: '' -> NULL; v > 2 -> floor(ln(v)**2); else v - 2
    by_hand = {1: -1, 2: 0, 3: math.floor(math.log(3) ** 2), 0: -2, -1: -3, 1000: math.floor(math.log(1000) ** 2)}
    assert by_hand[3] == 1
    assert log_bin_texts(np.array([*by_hand, np.nan])) == [*map(str, by_hand.values()), None]
    encoder = fitted(LogBinsConfig(), [["", "", "1", "1", "1", "3", "4"]])
    # '1' three times, null twice, the bin of 3 and 4 twice: null goes before texts of equal count
    assert encoder.transform(raw_column(["1", "", "3", "4", "2"])).tolist() == [2, 3, 4, 4, UNKNOWN]


def test_hashed_ids_are_stable_and_leave_unknown_to_nulls():
    encoder = fitted(HashConfig(buckets=7, seed=3), [["x"]])
    expected = [RESERVED + int(stable_hash([value], 3)[0]) % 7 for value in ("x", "y")]
    assert encoder.transform(raw_column(["x", "y", None])).tolist() == [*expected, UNKNOWN]
    assert encoder.field("f").size == 9


def test_quantiles_hold_equal_numbers_of_distinct_rows():
    values = np.random.default_rng(0).permutation(np.arange(1000.0))
    ids = fitted(QuantileConfig(bins=8), [values[:300], values[300:]]).transform(values)
    assert np.bincount(ids)[RESERVED:].tolist() == [125] * 8
    assert (np.diff(ids[np.argsort(values)]) >= 0).all()


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=60), st.integers(2, 6))
def test_no_quantile_bin_is_empty_and_equal_numbers_share_one(rows, bins):
    encoder = fitted(QuantileConfig(bins=bins), [rows])
    ids = encoder.transform(np.array(rows))
    assert np.unique(ids).tolist() == list(range(RESERVED, encoder.field("f").size))
    assert encoder.field("f").size <= RESERVED + bins


def test_standard_numbers_have_mean_0_and_deviation_1_and_null_is_the_mean():
    rows = [1.0, 4.0, None, 10.0]
    encoder = fitted(NumberConfig(), [rows])
    mean, std = np.mean([1, 4, 10]), np.std([1, 4, 10])
    expected = [(1 - mean) / std, (4 - mean) / std, 0.0, (10 - mean) / std]
    np.testing.assert_allclose(encoder.transform(raw_column(rows)), expected, rtol=1e-6)
    assert encoder.field("f") == Numeric(name="f")
    assert fitted(NumberConfig(), [[3.0, 3.0]]).transform(np.array([3.0, 4.0])).tolist() == [0.0, 1.0]
    logs = fitted(NumberConfig(scale="none", log=True), []).transform(np.array([-1.0, 0.0, math.e - 1]))
    np.testing.assert_allclose(logs, [-math.log(2), 0.0, 1.0], rtol=1e-6)


@given(st.lists(lists, min_size=1, max_size=8), st.integers(1, 4), st.sampled_from(["first", "last"]))
def test_lists_are_cut_padded_and_counted_as_by_a_loop(rows, length, keep):
    real = [[value for value in row if value is not None] for row in rows]
    cut = [row[:length] if keep == "first" else row[-length:] for row in real]
    tally = Counter(value for row in cut for value in row)
    ids = {v: RESERVED + rank for rank, v in enumerate(sorted(tally, key=lambda v: (-tally[v], v)))}
    expected = [[*(ids[value] for value in row), *[PADDING] * (length - len(row))] for row in cut]
    encoder = fitted(MultiValueConfig(length=length, keep=keep), [rows])
    assert encoder.transform(list_column(rows)).tolist() == expected
    size = RESERVED + max(1, len(ids))
    one = Categorical(name="f", size=size)
    assert encoder.field("f") == (one if length == 1 else MultiValue(name="f", size=size, length=length))
    texts = ["|".join(row) for row in real]
    assert fitted(MultiValueConfig(length=length, keep=keep, separator="|"), [texts]).state == encoder.state


def test_the_first_piece_of_a_text_can_be_a_field_of_its_own():
    encoder = fitted(MultiValueConfig(length=1, separator="|"), [["OPI|Nails", "OPI|Skin", "Dove|Skin"]])
    assert encoder.state == {"values": ["OPI", "Dove"]}


def test_columns_of_one_table_share_a_vocabulary():
    shared = ValueCounts()
    item = build_fitter(VocabularyConfig(), shared)
    history = build_fitter(MultiValueConfig(length=2), shared)
    item.observe(raw_column(["a", "b", "b"]))
    history.observe(list_column([["c", "a"], ["c"], ["c"]]))
    assert item.finish().state == history.finish().state == {"values": ["c", "a", "b"]}


def test_dense_vectors_keep_their_numbers():
    encoder = fitted(DenseConfig(width=2), [])
    assert encoder.transform(list_column([[1.0, 2.0], [3.0, 1.0]])).tolist() == [[1.0, 2.0], [3.0, 1.0]]
    assert encoder.field("f") == Dense(name="f", width=2)


@pytest.mark.parametrize(
    ("config", "rows", "message"),
    [
        (DenseConfig(width=2), [[1.0]], "a vector has 1 numbers, expected 2; give every row one of that width"),
        (DenseConfig(width=1), [[None]], "a vector holds a null; fill it"),
        (QuantileConfig(), ["x"], "'x' is not a number; repair or remove this value, or use another encoder"),
        (NumberConfig(scale="none"), [1e300], "'1e+300' does not fit float32; scale this column"),
    ],
)
def test_what_an_encoder_cannot_read_is_named(config, rows, message):
    with pytest.raises(ValueError) as error:
        fitted(config, []).transform(column_of(rows, config))
    assert str(error.value) == message
    if isinstance(config, DenseConfig):
        with pytest.raises(ValueError, match="this column holds no lists; a dense field needs one vector a row"):
            fitted(config, []).transform(raw_column([1.0]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VocabularyConfig(min_count=0), "min_count must be at least 1, got 0"),
        (lambda: VocabularyConfig(max_size=0), "max_size must be at least 1, got 0"),
        (lambda: HashConfig(buckets=0), "buckets must be at least 1, got 0"),
        (lambda: QuantileConfig(bins=1), "bins must be at least 2, got 1"),
        (lambda: SoftNumberConfig(meta_embeddings=1), "meta_embeddings must be at least 2, got 1"),
        (lambda: SoftNumberConfig(temperature=0.0), "temperature must be finite and above 0, got 0.0"),
        (lambda: LogBinsConfig(min_count=0), "min_count must be at least 1, got 0"),
        (lambda: MultiValueConfig(length=0), "length must be at least 1, got 0"),
        (lambda: MultiValueConfig(length=1, separator=""), "separator must not be empty; leave it out for a column"),
        (lambda: DenseConfig(width=0), "width must be at least 1, got 0"),
    ],
)
def test_configs_check_themselves(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_lists_need_a_separator_or_lists():
    with pytest.raises(ValueError, match="this column holds no lists; set separator to cut its texts into values"):
        build_fitter(MultiValueConfig(length=2)).observe(raw_column(["a|b"]))
