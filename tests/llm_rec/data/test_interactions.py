"""Logs: sorting, ids, filters, and the files that give the same log back."""

import gzip
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.data import Catalog, Dropped, Interactions, LogOptions, planted_world
from llm_rec.data.interactions import read_log
from llm_rec.errors import ArtifactError, DataError

CATALOG = Catalog(["a", "b", "c", "d"], ["A", "B", "C", "D"])


def log_of(rows, catalog=CATALOG, **options):
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    return Interactions.from_frame(frame, catalog, user="user", item="item", time="time", **options)


def refused(rows, **options):
    with pytest.raises(DataError) as caught:
        log_of(rows, **options)
    return str(caught.value)


def histories(log, catalog=CATALOG):
    return {
        user: [catalog.item_ids[row - 1] for row in log.history(index).tolist()]
        for index, user in enumerate(log.user_ids)
    }


def test_events_are_sorted_by_user_and_time_and_ties_keep_the_file_order():
    log = log_of([("u", "c", 5), ("v", "a", 1), ("u", "b", 2), ("u", "a", 5), ("v", "d", 0), ("u", "d", 5)])
    assert histories(log) == {"u": ["b", "c", "a", "d"], "v": ["d", "a"]}
    assert log.times.tolist() == [2, 5, 5, 5, 0, 1]
    assert log.offsets.tolist() == [0, 4, 6]
    assert log.users_of(np.arange(6)).tolist() == [0, 0, 0, 0, 1, 1]
    assert (log.num_users, log.num_events, log.num_items, log.catalog) == (2, 6, 4, CATALOG.fingerprint)


def test_order_sorts_without_giving_times_and_file_order_is_the_default():
    frame = pd.DataFrame({"user": [1, 1, 1], "item": ["a", "b", "c"], "place": [2, 0, 1]})
    ordered = Interactions.from_frame(frame, CATALOG, user="user", item="item", order="place")
    assert histories(ordered) == {"1": ["b", "c", "a"]}
    assert ordered.times is None
    as_filed = Interactions.from_frame(frame, CATALOG, user="user", item="item")
    assert histories(as_filed) == {"1": ["a", "b", "c"]}
    with pytest.raises(DataError, match=r"give time or order, not both \(got time='place' and order='place'\)"):
        Interactions.from_frame(frame, CATALOG, user="user", item="item", time="place", order="place")


@pytest.mark.parametrize(
    "times",
    [
        [1_600_000_000, 1_600_000_001],
        [1_600_000_000.25, 1_600_000_001.5],
        ["1600000000", "1600000001"],
        pd.to_datetime([1_600_000_000, 1_600_000_001], unit="s"),
        pd.to_datetime([1_600_000_000_250, 1_600_000_001_500], unit="ms"),
        pd.to_datetime([1_600_000_000, 1_600_000_001], unit="s", utc=True).tz_convert("Asia/Tokyo"),
        ["2020-09-13T12:26:40Z", "2020-09-13T14:26:41.5+02:00"],
        [datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC), datetime(2020, 9, 13, 12, 26, 41, tzinfo=UTC)],
        pd.array([1_600_000_000, 1_600_000_001], dtype="Int64"),
    ],
    ids=["int", "float", "digits", "datetime", "milliseconds", "zone", "iso", "objects", "nullable"],
)
def test_times_of_any_usual_type_become_the_same_whole_seconds(times):
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": times})
    log = Interactions.from_frame(frame, CATALOG, user="user", item="item", time="time")
    assert log.times.tolist() == [1_600_000_000, 1_600_000_001]
    assert log.times.dtype == np.int64


def test_fractions_of_a_second_sort_although_whole_seconds_are_stored():
    stamps = pd.to_datetime([1_600_000_000_000_000_002, 1_600_000_000_000_000_001], unit="ns")
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": stamps})
    log = Interactions.from_frame(frame, CATALOG, user="user", item="item", time="time")
    assert histories(log) == {"u": ["b", "a"]}
    assert histories(log_of([("u", "a", 1.75), ("u", "b", 1.25)])) == {"u": ["b", "a"]}


def test_dates_become_midnight_and_times_before_1970_round_down():
    frame = pd.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "time": [date(1970, 1, 2), date(1969, 12, 31)]})
    log = Interactions.from_frame(frame, CATALOG, user="user", item="item", time="time")
    assert log.times.tolist() == [-86_400, 86_400]
    assert log_of([("u", "a", -0.5)]).times.tolist() == [-1]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1, None], "column 'time': not a number in 1 of 2 rows, counted from 0 (row 1: nan); time must be a number"),
        ([1.0, np.inf], "column 'time': not finite in 1 of 2 rows, counted from 0 (row 1: inf)"),
        (
            ["2020-01-01", "soon"],
            "column 'time': not a time in 1 of 2 rows, counted from 0 (row 1: 'soon'); give every row",
        ),
        (["2020-01-01", 7], "column 'time': not a time in 1 of 2 rows, counted from 0 (row 1: 7)"),
        ([pd.Timestamp(0), pd.NaT], "column 'time': not a time in 1 of 2 rows, counted from 0 (row 1: NaT)"),
        (
            ["1700000000", "1700000001", "yesterday"],
            "column 'time': not a number like most times in 1 of 3 rows, counted from 0 (row 2: 'yesterday'); give",
        ),
        ([True, False], "column 'time': time must be numbers, got bool"),
    ],
)
def test_times_that_are_none_are_refused(times, message):
    assert message in refused([("u", item, time) for item, time in zip("aba"[: len(times)], times, strict=True)])


def test_order_must_be_numbers():
    frame = pd.DataFrame({"user": ["u"], "item": ["a"], "place": ["first"]})
    with pytest.raises(DataError, match="column 'place': not a number in 1 of 1 rows.*order must be a number"):
        Interactions.from_frame(frame, CATALOG, user="user", item="item", order="place")


def test_null_users_and_items_and_missing_columns_are_refused():
    assert "column 'user': null id in 1 of 2 rows" in refused([("u", "a", 1), (None, "a", 1)])
    assert "column 'item': null id in 1 of 2 rows" in refused([("u", "a", 1), ("u", None, 1)])
    with pytest.raises(DataError, match="frame: no column 'usr'; did you mean 'user'"):
        Interactions.from_frame(pd.DataFrame({"user": [1], "item": ["a"]}), CATALOG, user="usr", item="item")


def test_unknown_items_are_refused_with_count_and_examples_or_dropped():
    rows = [("u", "a", 1), ("u", "x", 2), ("v", "y", 1), ("u", "x", 3)]
    message = refused(rows)
    assert (
        "column 'item': item that the catalog lacks (2 distinct) in 3 of 4 rows, counted from 0 (row 1: 'x'" in message
    )
    assert message.endswith(
        'add it to the catalog, or leave rows out by unknown_items="drop" (--source.options.unknown-items drop)'
    )
    log = log_of(rows, options=LogOptions(unknown_items="drop"))
    assert histories(log) == {"u": ["a"]}
    assert log.dropped == Dropped(unknown_item=3)


@pytest.mark.parametrize("unknown_items", ["error", "drop"])
def test_log_without_any_known_item_shows_both_namings(unknown_items):
    message = refused([("u", "x", 1), ("u", "y", 1)], options=LogOptions(unknown_items=unknown_items))
    assert "no item id is in the catalog (log: 'x', 'y'; catalog: 'a', 'b', 'c'); check" in message


def test_integer_and_text_ids_meet():
    catalog = Catalog(["7", "8"], ["x", "y"])
    frame = pd.DataFrame({"user": pd.Series([1, "1", 2.0], dtype=object), "item": [7.0, 8.0, 7.0]})
    frame["user"] = pd.Series([1, "1", 2], dtype=object)
    log = Interactions.from_frame(frame, catalog, user="user", item="item")
    assert histories(log, catalog) == {"1": ["7", "8"], "2": ["7"]}


def test_ratings_below_the_minimum_are_dropped_even_for_unknown_items():
    frame = pd.DataFrame({"user": ["u"] * 4, "item": ["a", "b", "x", "c"], "stars": [5, 3, 1, 4]})
    options = LogOptions(rating="stars", min_rating=4.0)
    log = Interactions.from_frame(frame, CATALOG, user="user", item="item", options=options)
    assert histories(log) == {"u": ["a", "c"]}
    assert log.dropped == Dropped(low_rating=2)
    high = LogOptions(rating="stars", min_rating=6.0)
    with pytest.raises(DataError, match="frame: no events left of 4 rows; check the filters and the columns"):
        Interactions.from_frame(frame, CATALOG, user="user", item="item", options=high)
    with pytest.raises(ValueError, match="rating and min_rating go together, got rating='stars' and min_rating=None"):
        LogOptions(rating="stars")


def test_duplicates_are_kept_unless_asked_then_the_earliest_stays():
    rows = [("u", "a", 3), ("u", "b", 2), ("u", "a", 1), ("v", "a", 9)]
    assert histories(log_of(rows)) == {"u": ["a", "b", "a"], "v": ["a"]}
    log = log_of(rows, options=LogOptions(duplicates="first"))
    assert histories(log) == {"u": ["a", "b"], "v": ["a"]}
    assert log.times.tolist() == [1, 2, 9]
    assert log.dropped == Dropped(duplicate=1)


def test_frame_without_rows_is_refused():
    assert refused([]) == "frame: no rows; a log needs at least one event"


events = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcd"), st.integers(-3, 3)), min_size=1, max_size=60)


@given(events)
@settings(max_examples=60, deadline=None)
def test_reading_equals_a_naive_loop(rows):
    naive = {}
    for user, item, time in rows:
        naive.setdefault(str(user), []).append((time, item))
    expected = {user: [item for _, item in sorted(pairs, key=lambda p: p[0])] for user, pairs in naive.items()}
    log = log_of(rows)
    assert histories(log) == expected
    assert list(log.user_ids) == list(naive)
    assert log.offsets[-1] == len(rows)


@pytest.mark.parametrize("kind", ["object", "category", "string", "arrow", "shuffled"])
def test_column_types_do_not_matter(kind):
    frame = pd.DataFrame(
        {
            "user": ["v", "u", "v", "u"],
            "item": ["a", "b", "c", "a"],
            "time": pd.to_datetime([4, 3, 2, 1], unit="s"),
            "stars": [5, 4, 5, 1],
        }
    )
    expected = Interactions.from_frame(frame, CATALOG, user="user", item="item", time="time")
    match kind:
        case "object":
            frame = frame.astype(object)
        case "category":
            frame = frame.astype({"user": "category", "item": "category"})
        case "string":
            frame = frame.astype({"user": "string", "item": "string", "stars": "Float64"})
        case "arrow":
            frame = frame.convert_dtypes(dtype_backend="pyarrow")
        case "shuffled":
            frame.index = [7, 7, 3, 1]
    options = LogOptions(rating="stars", min_rating=1.0)
    log = Interactions.from_frame(frame, CATALOG, user="user", item="item", time="time", options=options)
    assert log.fingerprint == expected.fingerprint
    assert log.user_ids == ("v", "u")


def test_columns_of_one_name_are_refused():
    frame = pd.DataFrame([["u", "a", "b"]], columns=["user", "item", "item"])
    with pytest.raises(DataError, match="frame: 2 columns are called 'item'; rename all but one"):
        Interactions.from_frame(frame, CATALOG, user="user", item="item")


def test_bad_ids_are_shown_with_the_rows_of_the_table():
    message = refused([("u", 1.0, 0), ("u", 1.0, 1), ("u", 1.0, 2), ("u", 2.5, 3), ("u", 2.5, 4)])
    assert "column 'item': id is not a whole number in 2 of 5 rows, counted from 0 (row 3: 2.5, row 4: 2.5)" in message


def by_hand(offsets, items, times, users=("u", "v")):
    as_array = [None if values is None else np.array(values, dtype=np.int64) for values in (offsets, items, times)]
    return Interactions(users, *as_array, num_items=4, catalog="none")


def test_arrays_by_hand_are_validated():
    by_hand([0, 2, 3], [1, 2, 3], [5, 5, 0]).validate()
    by_hand([0, 0, 0], [], None).validate()
    with pytest.raises(DataError, match=r"lengths do not agree: 1 user ids, 3 offsets .*, 3 items, no times"):
        by_hand([0, 2, 3], [1, 2, 3], None, users=("u",))
    with pytest.raises(DataError, match=r"offsets must rise from 0 to the 3 events, got \[0, 2, 2\]"):
        by_hand([0, 2, 2], [1, 2, 3], None).validate()
    with pytest.raises(DataError, match=r"2 events have no item row in 1..4, first event 0: 0"):
        by_hand([0, 2, 3], [0, 2, 5], None).validate()
    with pytest.raises(
        DataError, match="times of 1 events are before the event in front of them, first that of user 'v' at"
    ):
        by_hand([0, 1, 3], [1, 2, 3], [9, 2, 1]).validate()


def test_select_refuses_to_leave_nothing():
    with pytest.raises(DataError, match="none of the 1 events is left; loosen the filter"):
        log_of([("u", "a", 1)]).select(np.array([False]))


@pytest.mark.parametrize("with_times", [True, False])
def test_saved_log_loads_memory_mapped_and_equal(tmp_path, with_times):
    world = planted_world(40, 24, num_clusters=4)
    log = world.log
    if not with_times:
        log = Interactions(log.user_ids, log.offsets, log.items, None, num_items=24, catalog=log.catalog)
    log.save(tmp_path / "log")
    loaded = Interactions.load(tmp_path / "log", world.catalog)
    assert loaded.user_ids == log.user_ids
    assert loaded.num_items == 24
    np.testing.assert_array_equal(loaded.offsets, log.offsets)
    np.testing.assert_array_equal(loaded.items, log.items)
    assert isinstance(loaded.items.base, np.memmap)
    assert not loaded.items.flags.writeable
    assert (loaded.times is None) == (log.times is None)
    if log.times is not None:
        np.testing.assert_array_equal(loaded.times, log.times)
    assert loaded.fingerprint == log.fingerprint
    again = Interactions(
        loaded.user_ids, loaded.offsets, loaded.items, loaded.times, num_items=24, catalog=loaded.catalog
    )
    assert again.fingerprint == log.fingerprint


def test_dropped_rows_are_remembered(tmp_path):
    log = log_of([("u", "a", 1), ("u", "x", 2)], options=LogOptions(unknown_items="drop"))
    log.save(tmp_path / "log")
    assert Interactions.load(tmp_path / "log").dropped == Dropped(unknown_item=1)


def test_another_catalog_is_an_error_that_names_both(tmp_path):
    log_of([("u", "a", 1)]).save(tmp_path / "log")
    other = Catalog(["a"], ["another"])
    with pytest.raises(ArtifactError) as caught:
        Interactions.load(tmp_path / "log", other)
    assert CATALOG.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)
    with pytest.raises(ArtifactError, match="was made from catalog"):
        log_of([("u", "a", 1)]).export(tmp_path / "out.parquet", other)


def test_damaged_arrays_are_noticed(tmp_path):
    log = log_of([("u", "a", 1), ("u", "b", 2)])
    log.save(tmp_path / "log")
    np.save(tmp_path / "log" / "items.npy", np.array([1, 2, 3]))
    with pytest.raises(
        ArtifactError, match=r"items.npy holds int64 \(3,\), expected int64 \(2,\); build the log again"
    ):
        Interactions.load(tmp_path / "log")
    (tmp_path / "log" / "items.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"items.npy: not readable"):
        Interactions.load(tmp_path / "log")
    log.save(tmp_path / "log", overwrite=True)
    np.save(tmp_path / "log" / "offsets.npy", np.array([0, 1]))
    with pytest.raises(ArtifactError, match="users, offsets and events do not agree"):
        Interactions.load(tmp_path / "log")


def test_pickled_arrays_are_never_opened(tmp_path):
    log_of([("u", "a", 1)]).save(tmp_path / "log")
    np.save(tmp_path / "log" / "items.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match=r"items.npy: not readable"):
        Interactions.load(tmp_path / "log")


def test_packed_files_and_byte_order_marks_are_read(tmp_path):
    with gzip.open(tmp_path / "log.csv.gz", "wt", encoding="utf-8-sig") as stream:
        stream.write("user,item\nu,a\nu,b\n")
    with gzip.open(tmp_path / "log.jsonl.gz", "wt", encoding="utf-8-sig") as stream:
        stream.write('{"user": "u", "item": "a"}\n\n{"user": "u", "item": "b"}\n')
    for name in ("log.csv.gz", "log.jsonl.gz"):
        assert histories(read_log(tmp_path / name, CATALOG, user="user", item="item")) == {"u": ["a", "b"]}
    (tmp_path / "bad.csv.gz").write_bytes(b"not packed")
    with pytest.raises(DataError, match=r"bad.csv.gz: not readable as csv \("):
        read_log(tmp_path / "bad.csv.gz", CATALOG, user="user", item="item")


def test_exported_file_reads_back_as_the_same_log(tmp_path):
    world = planted_world(40, 24, num_clusters=4)
    path = tmp_path / "deep" / "interactions.parquet"
    world.log.export(path, world.catalog)
    assert pq.read_schema(path).names == ["user_id", "item_id", "order", "time"]
    timed = Interactions.from_parquet(path, world.catalog, user="user_id", item="item_id", time="time")
    assert timed.fingerprint == world.log.fingerprint
    ordered = Interactions.from_parquet(path, world.catalog, user="user_id", item="item_id", order="order")
    np.testing.assert_array_equal(ordered.items, world.log.items)


def test_text_formats_keep_ids_as_written(tmp_path):
    catalog = Catalog(["007", "NA"], ["x", "y"])
    csv = tmp_path / "log.csv"
    csv.write_text("user,item,when\n01,007,2\n1,NA,1\n01,NA,1\n", encoding="utf-8")
    log = Interactions.from_csv(csv, catalog, user="user", item="item", time="when")
    assert histories(log, catalog) == {"01": ["NA", "007"], "1": ["NA"]}
    jsonl = tmp_path / "log.jsonl"
    jsonl.write_text(
        '{"user": "01", "item": "007", "when": "2020-01-01"}\n{"user": 1, "item": "NA", "when": "2020-01-02"}\n'
    )
    read = Interactions.from_jsonl(jsonl, catalog, user="user", item="item", time="when")
    assert histories(read, catalog) == {"01": ["007"], "1": ["NA"]}
    with pytest.raises(DataError, match=r"log.csv: no column 'clock' \(columns: user, item, when\)"):
        Interactions.from_csv(csv, catalog, user="user", item="item", time="clock")
