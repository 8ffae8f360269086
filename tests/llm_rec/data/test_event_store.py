"""The store of events: written, opened, checked, and shared by all rows."""

import json

import numpy as np
import pytest

from ctr_models.schema import Categorical, Schema
from llm_rec.codec import from_plain, to_plain
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.data.event_store import EventStore
from llm_rec.errors import ArtifactError, DataError

SCHEMA = Schema(
    fields=(Categorical(name="item", size=9), Categorical(name="kind", size=5)), group="user", history=("item", "kind")
)
IDS = np.array([[2, 2], [3, 0], [4, 3], [2, 2]], dtype=np.int32)


def rows(windows, store, times=None):
    number = len(windows)
    return ClickColumns(
        ids=np.full((number, 2), 3, dtype=np.int32),
        numbers=np.zeros((number, 0), dtype=np.float32),
        dense=np.zeros((number, 0), dtype=np.float32),
        labels=np.ones((number, 1), dtype=np.float32),
        groups=np.arange(number),
        windows=np.array(windows, dtype=np.int64).reshape(number, 2),
        times=times,
        events=store,
    )


def write(folder, store, columns, schema=SCHEMA):
    folder.mkdir(exist_ok=True)
    with ClickWriter(folder, schema, (), {"train": len(columns)}, events=store) as writer:
        writer.append("train", columns)
    return ClickLog(folder, schema, (), {"train": len(columns)}, "none")


@pytest.mark.parametrize("times", [None, np.array([5, 7, 1, 1])])
def test_what_is_written_is_opened_again(tmp_path, times):
    store = EventStore.of(IDS, times)
    log = write(tmp_path / "log", store, rows([[1, 1], [3, 5]], store, None if times is None else np.array([4, 9])))
    train = log.part("train")
    assert len(log.events) == 4
    assert train.events is log.events
    assert train.windows.tolist() == [[1, 1], [3, 5]]
    assert log.events.ids.tolist() == [[0, 0], *IDS.tolist()]
    assert isinstance(log.events.ids, np.memmap)
    if times is None:
        assert train.times is None
        assert log.events.times is None
    else:
        assert train.times.tolist() == [4, 9]
        assert log.events.times.tolist() == [0, 5, 7, 1, 1]


def test_times_must_not_fall_within_a_user():
    store = EventStore.of(IDS, np.array([5, 7, 1, 1]))
    store.check(np.array([1, 3]))
    message = r"the time of event 3 \(1\) is before that of the event in front of it \(7\); sort each user's events"
    with pytest.raises(DataError, match=message):
        store.check(np.array([1]))


def test_only_padding_has_no_first_id():
    EventStore.of(IDS).check(np.array([1]))
    with pytest.raises(DataError, match="event 2 has no id of its first field; leave such events out"):
        EventStore.of(np.array([[2, 1], [0, 1]], dtype=np.int32)).check(np.array([1]))
    with pytest.raises(DataError, match=r"event 0 of a store is padding and must be zeros, got \[2, 2\]"):
        EventStore(IDS).check(np.array([1]))


def test_schema_store_and_rows_must_fit(tmp_path):
    store = EventStore.of(IDS)
    with pytest.raises(DataError, match="a schema with a history and a store of events go together; give both or none"):
        write(tmp_path / "a", None, rows([[1, 1]], store))
    thin = EventStore.of(IDS[:, :1])
    with pytest.raises(DataError, match=r"events have 1 ids each, but the history names \['item', 'kind'\]"):
        write(tmp_path / "b", thin, rows([[1, 1]], thin))
    for bad in ([0, 2], [3, 2], [4, 6]):
        with pytest.raises(DataError, match=r"row 1 looks back on events .*, which is no window of the 4 events"):
            write(tmp_path / "c", store, rows([[1, 5], bad], store))
        (tmp_path / "c" / "train").joinpath("ids.npy").unlink()
        (tmp_path / "c").rename(tmp_path / f"c{bad[0]}")
    timed = EventStore.of(IDS, np.arange(4))
    message = "rows hold the columns groups, ids, labels, windows, but the log has groups, ids, labels, times, windows"
    with pytest.raises(DataError, match=message):
        write(tmp_path / "d", timed, rows([[1, 1]], timed))


def test_a_damaged_store_is_refused(tmp_path):
    store = EventStore.of(IDS)
    log = write(tmp_path / "log", store, rows([[1, 1]], store))
    place = tmp_path / "log" / "events"
    (place / "events.json").write_text(json.dumps({"events": 9, "times": False}))
    with pytest.raises(ArtifactError, match=r"holds int32 \(5, 2\), expected int32 \(10, 2\); encode the log again"):
        log.part("train")
    (place / "events.json").unlink()
    with pytest.raises(ArtifactError, match=r"events.json: not readable .*; encode the log again"):
        ClickLog(tmp_path / "log", SCHEMA, (), {"train": 1}, "none").part("train")


def test_a_log_without_histories_has_no_store(tmp_path):
    schema = Schema(fields=SCHEMA.fields)
    with ClickWriter(tmp_path, schema, (), {"train": 1}) as writer:
        empty, label = np.zeros((1, 0), dtype=np.float32), np.ones((1, 1), dtype=np.float32)
        writer.append("train", ClickColumns(np.full((1, 2), 2, dtype=np.int32), empty, empty, label))
    log = ClickLog(tmp_path, schema, (), {"train": 1}, "none")
    assert log.events is None
    assert log.part("train").windows is None
    assert sorted(path.name for path in tmp_path.rglob("*.npy")) == ["ids.npy", "labels.npy"]


def test_logs_older_than_histories_are_read_as_before():
    plain = to_plain(Schema(fields=SCHEMA.fields, group="user"))
    del plain["history"]
    assert from_plain(Schema, plain).history == ()
