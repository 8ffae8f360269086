"""The Open Bandit source on tiny made-up logs in both layouts, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from llm_rec.data.sources.open_bandit import OpenBanditConfig, open_bandit
from llm_rec.errors import DataError


def items(number=3):
    return pd.DataFrame(
        {
            "item_id": range(number),
            "item_feature_0": [0.5, -1.0, 2.0][:number],
            "item_feature_1": ["x", "y", "x"][:number],
            "item_feature_2": ["k", "k", "k"][:number],
            "item_feature_3": ["b", "a", "c"][:number],
        }
    )


def rounds():
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime(
                ["2019-11-24 00:01:03.979311+00:00", "2019-11-24 00:01:04+00:00", "2019-11-25 00:00:00.5+00:00"],
                format="ISO8601",
            ),
            "item_id": [2, 0, 1],
            "position": [3, 1, 2],
            "click": [0, 1, 0],
            "propensity_score": [0.25, 0.5, 1.0],
            "user_feature_0": ["u", "v", "u"],
            "user_feature_1": ["7", "7", "8"],
            "user_feature_2": ["p", "p", "p"],
            "user_feature_3": ["s", "t", "r"],
        }
    )


def write(folder, frame=None, catalog=None):
    (rounds() if frame is None else frame).to_parquet(folder / "men_random.parquet")
    (items() if catalog is None else catalog).to_parquet(folder / "men_items.parquet")
    return OpenBanditConfig(path=folder)


def test_rounds_items_and_features_come_as_numbered_columns(tmp_path):
    log = open_bandit(write(tmp_path, catalog=items().iloc[::-1]))
    assert len(log) == 3
    assert log.actions.tolist() == [2, 0, 1]
    assert log.positions.tolist() == [2, 0, 1]
    assert log.clicks.tolist() == [0.0, 1.0, 0.0]
    assert log.propensities.tolist() == [0.25, 0.5, 1.0]
    assert log.users.tolist() == [[0, 0, 0, 1], [1, 0, 0, 2], [0, 1, 0, 0]]
    assert log.user_values == (("u", "v"), ("7", "8"), ("p",), ("r", "s", "t"))
    assert len(log.items) == 3
    assert log.items.numbers.tolist() == [0.5, -1.0, 2.0]
    assert log.items.features.tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 2]]
    assert np.diff(log.times).tolist() == [20_689_000, 86_336_500_000_000]


def test_the_layout_of_the_public_release_gives_the_same_log(tmp_path):
    folder = tmp_path / "release" / "random" / "men"
    folder.mkdir(parents=True)
    rounds().assign(**{"user-item_affinity_0": 0.0}).to_csv(folder / "men.csv")  # with pandas' unnamed index column
    items().to_csv(folder / "item_context.csv")
    found = open_bandit(OpenBanditConfig(path=tmp_path / "release"))
    expected = open_bandit(write(tmp_path))
    for name in ("times", "actions", "positions", "clicks", "propensities", "users"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.user_values == expected.user_values
    np.testing.assert_array_equal(found.items.features, expected.items.features)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("item_id", 3, "column 'item_id' is not an item of"),
        ("position", 0, "column 'position' is not a position 1..3 in 1 of 3 rows, counted from 0 (row 1: 0)"),
        ("click", 2, "column 'click' is not 0 or 1 in 1 of 3 rows, counted from 0 (row 1: 2)"),
        ("propensity_score", 0.0, "propensity_score is not in (0, 1] in 1 of 3 rows, counted from 0 (row 1: 0.0)"),
        ("propensity_score", np.nan, "column 'propensity_score': not a number in 1 of 3 rows"),
        ("user_feature_1", None, "column 'user_feature_1': null in 1 of 3 rows"),
        ("timestamp", pd.NaT, "timestamp is not a time in 1 of 3 rows"),
        ("timestamp", pd.Timestamp("2019-11-23", tz="UTC"), "timestamp goes back in time in 1 of 3 rows"),
    ],
)
def test_a_bad_cell_is_refused_with_its_row(tmp_path, column, value, message):
    frame = rounds()
    frame.loc[1, column] = value
    with pytest.raises(DataError) as error:
        open_bandit(write(tmp_path, frame))
    assert message in str(error.value)


def test_missing_files_columns_rows_and_items_are_refused(tmp_path):
    with pytest.raises(DataError, match="neither men_random.parquet nor random/men/men.csv is here"):
        open_bandit(OpenBanditConfig(path=tmp_path))
    with pytest.raises(DataError, match="no column 'propensity_score'"):
        open_bandit(write(tmp_path, rounds().drop(columns="propensity_score")))
    with pytest.raises(DataError, match="men_random.parquet: no rows"):
        open_bandit(write(tmp_path, rounds().iloc[:0]))
    with pytest.raises(DataError, match="items are not numbered from 0 on in 2 of 3 rows"):
        open_bandit(write(tmp_path, catalog=items().assign(item_id=[0, 2, 3])))
