"""Numbers to integers: every scale against a loop, its ends, what lies outside, what is missing."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctr_models.encode import NumeralsConfig, QuantileConfig, build_fitter, restore
from ctr_models.integers import MOST_LEVELS, cosine_levels
from ctr_models.schema import RESERVED, UNKNOWN, Numerals
from ctr_models.values import raw_column


def fitted(config, *chunks):
    fitter = build_fitter(config)
    for rows in chunks:
        fitter.observe(raw_column(list(rows)))
    return fitter.finish()


def integers(encoder, rows):
    return (encoder.transform(raw_column(list(rows))) - RESERVED).tolist()


MISSING = UNKNOWN - RESERVED


def test_quantile_levels_are_the_bins_of_the_quantile_encoder():
    rows = np.random.default_rng(0).normal(size=500)
    bins = fitted(QuantileConfig(bins=16), rows)
    found = fitted(NumeralsConfig(levels=16), rows[:200], rows[200:])
    np.testing.assert_array_equal(found.transform(rows), bins.transform(rows))
    assert found.field("age") == Numerals(name="age", size=RESERVED + 16)
    assert integers(found, [-1e9, 1e9, None]) == [0, 15, MISSING]  # open ends: nothing overflows


@given(st.lists(st.floats(-100, 1e6), min_size=1, max_size=20), st.integers(2, 300))
def test_log_levels_are_those_of_a_loop(rows, levels):
    encoder = fitted(NumeralsConfig(scale="log", levels=levels), rows)
    low, high = min(rows), max(rows)
    span = math.log1p(high - low)
    expected = [math.floor(math.log1p(v - low) / span * (levels - 1) + 0.5) if span else 0 for v in rows]
    np.testing.assert_allclose(integers(encoder, rows), expected, atol=1)  # a half may fall to either side
    assert integers(encoder, [low, high]) == [0, levels - 1 if span else 0]
    assert integers(encoder, [low - 1e9, high + 1e9]) == [0, levels - 1]


def test_whole_numbers_are_themselves_and_what_training_did_not_reach_is_clamped():
    encoder = fitted(NumeralsConfig(scale="whole"), [3, 999, None])
    assert integers(encoder, [0, 51, 999, 1000, 10**12, -4, None]) == [0, 51, 999, 999, 999, 0, MISSING]
    assert encoder.field("n") == Numerals(name="n", size=RESERVED + 1000)


def test_what_lies_outside_may_be_missing_instead():
    encoder = fitted(NumeralsConfig(scale="whole", levels=10, overflow="missing"), [3])
    assert integers(encoder, [0, 9, 10, -1]) == [0, 9, MISSING, MISSING]


def test_cosines_go_from_the_first_level_to_the_last():
    encoder = fitted(NumeralsConfig(scale="cosine", levels=729), [])
    assert integers(encoder, [-1, 0, 1, None, 1.2]) == [0, 364, 728, MISSING, 728]
    steps = cosine_levels(np.linspace(-1, 1, 5001), 729)
    assert (np.diff(steps) >= 0).all()
    assert np.unique(steps).tolist() == list(range(729))


@pytest.mark.parametrize("scale", ["quantile", "log", "whole", "cosine"])
def test_a_column_of_nulls_gives_missing_alone(scale):
    encoder = restore(NumeralsConfig(scale=scale), json.loads(json.dumps(fitted(NumeralsConfig(scale=scale)).state)))
    assert integers(encoder, [None, None]) == [MISSING, MISSING]


@pytest.mark.parametrize(
    ("config", "rows", "message"),
    [
        ({"scale": "whole"}, [1, 2.5], "2.5 is no whole number; repair this value, or choose another scale"),
        (
            {"scale": "whole"},
            [2**31],
            f"a field holds integers below {MOST_LEVELS}, got up to {2**31}; set levels, or scale 'log'",
        ),
        ({"levels": 1}, [], f"levels must lie in 2..{MOST_LEVELS}, got 1"),
        ({"bases": (2, 2)}, [], "bases must be different integers of at least 2, got (2, 2)"),
        ({"bases": (1, 3)}, [], "bases must be different integers of at least 2, got (1, 3)"),
        ({"bases": ()}, [], "bases must be different integers of at least 2, got ()"),
    ],
)
def test_what_cannot_be_read_by_digits_is_named(config, rows, message):
    with pytest.raises(ValueError) as error:
        fitted(NumeralsConfig(**config), rows)
    assert str(error.value) == message
