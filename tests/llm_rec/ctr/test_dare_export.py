"""The file layout of the released DARE code: what it would read is what our batches hold."""

import json

import numpy as np
import pytest

from ctr_models.schema import Categorical, Schema
from llm_rec.ctr.batches import to_batch
from llm_rec.ctr.dare_export import DareExportConfig, export_dare
from llm_rec.data.columns import ClickColumns, ClickLog, ClickWriter
from llm_rec.data.event_store import EventStore
from llm_rec.errors import ArtifactError, DataError

SCHEMA = Schema(
    fields=(
        Categorical(name="user", size=9),
        Categorical(name="item", size=32),
        Categorical(name="shop", size=6),
        Categorical(name="kind", size=7),
    ),
    group="user",
    history=("item", "kind", "shop"),
)


def log_of(folder, *, schema=SCHEMA, lowest=2, labels=(0, 1), seed=0):
    """23 train, 5 validation and 4 test rows over three users with 0, 6 and 40 events."""
    rng = np.random.default_rng(seed)
    offsets = np.array([0, 0, 6, 46])
    columns = len(schema.history)
    events = np.stack([rng.integers(lowest, 32, 46), rng.integers(2, 7, 46), rng.integers(2, 6, 46)], axis=1)
    store = EventStore.of(events[:, :columns].astype(np.int32)) if columns else None
    rows = {"train": 23, "validation": 5, "test": 4}
    folder.mkdir()
    with ClickWriter(folder, schema, (), rows, events=store) as writer:
        for part, number in rows.items():
            users = rng.integers(0, 3, number)
            ends = np.array([rng.integers(offsets[user], offsets[user + 1] + 1) for user in users])
            ids = [users + 2, rng.integers(2, 32, number), rng.integers(2, 6, number), rng.integers(2, 7, number)]
            writer.append(
                part,
                ClickColumns(
                    np.stack(ids, axis=1).astype(np.int32),
                    np.zeros((number, 0), dtype=np.float32),
                    np.zeros((number, 0), dtype=np.float32),
                    rng.choice(np.array(labels, dtype=np.float32), (number, 1)),
                    users,
                    np.stack([offsets[users], ends], axis=1) + 1 if columns else None,
                    None,
                    store,
                ),
            )
    return ClickLog(folder, schema, (), rows, "none")


def read(path):
    """As that code does."""
    return np.load(path, allow_pickle=True)


def rows_of(columns, length, shift):
    """Rows of a batch, one at a time; the history's columns are item, kind, shop."""
    history = to_batch(columns, length).history.ids.numpy()
    found = []
    for row in range(len(columns)):
        past = np.zeros((length, 3), dtype=int)
        past[length - history.shape[1] :] = history[row]
        past = np.where(past > 0, past - shift, 0)
        _, item, _, kind = (columns.ids[row] - shift).tolist()
        label = [1, 0] if columns.labels[row, 0] == 1 else [0, 1]
        found.append([int(columns.groups[row]) + 1, item, kind, label, past[:, 0].tolist(), past[:, 1].tolist()])
    return found


def plain(cells):
    return [[*row[:4], row[4].tolist(), row[5].tolist()] for row in cells]


def test_rows_come_back(tmp_path):
    log = log_of(tmp_path / "log")
    found = export_dare(log, tmp_path / "out", DareExportConfig(length=9, file_rows=10, seed=None))
    assert (found.item_n, found.cate_n, found.item_shift, found.category_shift) == (31, 6, 1, 1)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.npy"))
    assert names == ["test.npy", "train_0001_10.npy", "train_0002_10.npy", "train_0003_3.npy", "val.npy"]
    train = np.concatenate([read(tmp_path / "out" / name) for name in names if name.startswith("train")])
    for part, cells in (
        ("train", train),
        ("validation", read(tmp_path / "out" / "val.npy")),
        ("test", read(tmp_path / "out" / "test.npy")),
    ):
        assert cells.dtype == object
        assert cells.shape == (log.rows[part], 6)
        assert plain(cells) == rows_of(log.part(part), 9, 1)
    assert train[0][4].dtype == np.int32
    assert max(row[1] for row in train) < found.item_n
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["details"]["item_n"] == 31


def test_train_rows_are_shuffled_once(tmp_path):
    log = log_of(tmp_path / "log")
    first, again, other = (
        export_dare(log, tmp_path / name, DareExportConfig(length=4, file_rows=50, seed=seed))
        and plain(read(tmp_path / name / "train_0001_23.npy"))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    expected = rows_of(log.part("train"), 4, 1)
    assert first == again != other
    assert first != expected
    assert sorted(map(str, first)) == sorted(map(str, other)) == sorted(map(str, expected))


def test_unknown_items_keep_their_id(tmp_path):
    log = log_of(tmp_path / "log", lowest=1)
    assert (log.events.ids[1:, 0] == 1).any()
    found = export_dare(log, tmp_path / "out", DareExportConfig(length=9, seed=None))
    assert (found.item_n, found.item_shift, found.cate_n, found.category_shift) == (32, 0, 6, 1)
    cells = read(tmp_path / "out" / "train_0001_23.npy")
    assert [row[1] for row in cells] == log.part("train").ids[:, 1].tolist()


def test_another_field_can_be_the_category(tmp_path):
    log = log_of(tmp_path / "log")
    found = export_dare(log, tmp_path / "out", DareExportConfig(length=9, category="shop", seed=None))
    assert found.cate_n == 5
    assert [row[2] for row in read(tmp_path / "out" / "test.npy")] == (log.part("test").ids[:, 2] - 1).tolist()


def test_logs_that_code_cannot_read_are_refused(tmp_path):
    bare = log_of(tmp_path / "bare", schema=Schema(fields=SCHEMA.fields, group="user"))
    with pytest.raises(DataError, match=r"the history has the fields \[\]; that code needs an item and a category"):
        export_dare(bare, tmp_path / "out", DareExportConfig())
    log = log_of(tmp_path / "log", labels=(0, 0.25))
    with pytest.raises(DataError, match="category 'user' is no further field of the history"):
        export_dare(log, tmp_path / "out", DareExportConfig(category="user"))
    with pytest.raises(DataError, match="row .* has the label 0.25; that code knows 0 and 1 alone"):
        export_dare(log, tmp_path / "out", DareExportConfig(length=3, seed=None))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ArtifactError, match="already exists; remove it, choose another folder"):
        export_dare(log, tmp_path / "out", DareExportConfig())
    with pytest.raises(ValueError, match="length and file_rows must be at least 1, got 0 and 102400"):
        DareExportConfig(length=0)
