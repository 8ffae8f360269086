"""Click logs: two streaming passes write what a loop over rows would; the encoders know the train rows alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ctr_models.encode import (
    DenseConfig,
    HashConfig,
    MultiValueConfig,
    NumberConfig,
    QuantileConfig,
    VocabularyConfig,
)
from ctr_models.schema import RESERVED, UNKNOWN, Categorical, MultiValue, Schema
from llm_rec.codec import from_plain, to_plain
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import (
    ByColumnConfig,
    ByFilesConfig,
    ByFractionsConfig,
    ColumnSpec,
    LabelSpec,
    LogSpec,
    TableFile,
)
from llm_rec.data.parts import uniform_draws
from llm_rec.errors import ArtifactError, ConfigError, DataError

ROOT = Path(__file__).parents[3]
PARTS = ["train"] * 6 + ["validation", "test", "test"]
TABLE = pa.table(
    {
        "user": pa.array([1, 1, 2, 2, 3, 3, 1, 9, None], pa.int64()),
        "item": ["a", "b", "a", "c", "a", "b", "z", "a", "b"],
        "seen": [["b"], [], ["a", "b"], None, ["c", "c", "c"], ["a"], ["b"], ["z"], ["a", "z"]],
        "tags": ["x|y", "x", None, "y|x|w", "x", "y", "x", "v", "y|x"],
        "price": [1.0, 2.0, 3.0, None, 5.0, 6.0, 1e6, 2.0, 0.0],
        "vector": [[float(i), -1.0] for i in range(9)],
        "label": pa.array([0, 1, 0, 1, 0, 1, 1, 0, 1], pa.int8()),
        "state": ["on", "off", "on", "off", "on", "off", "on", "off", "on"],
        "request": ["r1", "r1", "r2", "r2", "r3", "r3", "r1", "r4", "r5"],
        "split": PARTS,
    }
)
COLUMNS = (
    ColumnSpec(name="user", encoder=VocabularyConfig()),
    ColumnSpec(name="item", encoder=VocabularyConfig(), table="items"),
    ColumnSpec(name="seen", encoder=MultiValueConfig(length=2), table="items"),
    ColumnSpec(name="tags", encoder=MultiValueConfig(length=2, separator="|", min_count=2)),
    ColumnSpec(name="hashed", column="item", encoder=HashConfig(buckets=11)),
    ColumnSpec(name="price", encoder=NumberConfig()),
    ColumnSpec(name="bin", column="price", encoder=QuantileConfig(bins=2)),
    ColumnSpec(name="vector", encoder=DenseConfig(width=2)),
)
SPEC = LogSpec(
    columns=COLUMNS,
    labels=(LabelSpec(), LabelSpec(name="is_on", column="state", equals="on")),
    parts=ByColumnConfig(),
    group="request",
)
SMALL = LogSpec(columns=(ColumnSpec(name="item", encoder=VocabularyConfig()),), parts=ByColumnConfig())


def write_table(path, table=TABLE):
    pq.write_table(table, path, row_group_size=4)
    return (TableFile(path=path),)


def contents(log):
    parts = {part: log.part(part).arrays() for part in log.rows}
    return {(part, name): array.tolist() for part, arrays in parts.items() for name, array in arrays.items()}


def replaced(name, values, table=TABLE):
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def test_every_cell_is_what_the_spec_says(tmp_path):
    log = encode_log(write_table(tmp_path / "t.parquet"), SPEC, tmp_path / "log")
    assert dict(log.rows) == {"train": 6, "validation": 1, "test": 2}
    shared = Categorical(name="item", size=RESERVED + 3, table="items")
    assert log.schema.fields[1:3] == (shared, MultiValue(name="seen", size=RESERVED + 3, length=2, table="items"))
    assert (log.schema.labels, log.schema.group) == (("label", "is_on"), "request")
    columns = log.schema.id_columns
    train, test = log.part("train"), log.part("test")
    assert train.ids.dtype == np.int32
    # users 1, 2, 3 occur twice each: ids by text; user 9 and the null are not in the train rows
    assert train.ids[:, columns["user"]].ravel().tolist() == [2, 2, 3, 3, 4, 4]
    assert test.ids[:, columns["user"]].ravel().tolist() == [UNKNOWN, UNKNOWN]
    # items and histories count together: a 3 + 2, b 2 + 2, c 1 + 2 (the third c of the history is cut off)
    assert train.ids[:, columns["item"]].ravel().tolist() == [2, 3, 2, 4, 2, 3]
    assert train.ids[:, columns["seen"]].tolist() == [[3, 0], [0, 0], [2, 3], [0, 0], [4, 4], [2, 0]]
    assert test.ids[:, columns["seen"]].tolist() == [[UNKNOWN, 0], [2, UNKNOWN]]
    assert train.ids[:, columns["tags"]].tolist() == [[2, 3], [2, 0], [0, 0], [3, 2], [2, 0], [3, 0]]
    prices = np.array([1.0, 2.0, 3.0, 5.0, 6.0])
    standard = (np.array([1.0, 2.0, 3.0, prices.mean(), 5.0, 6.0]) - prices.mean()) / prices.std()
    np.testing.assert_allclose(train.numbers[:, 0], standard, rtol=1e-6)
    assert train.ids[:, columns["bin"]].ravel().tolist() == [2, 2, 3, UNKNOWN, 3, 3]
    assert test.dense.tolist() == [[7.0, -1.0], [8.0, -1.0]]
    assert train.labels.tolist() == [[0, 1], [1, 0]] * 3
    groups = np.concatenate([train.groups, log.part("validation").groups, test.groups])
    assert [groups.tolist().index(group) for group in groups] == [0, 0, 2, 2, 4, 4, 0, 7, 8]


@pytest.mark.parametrize("chunk_rows", [1, 2, 5])
def test_chunks_change_nothing(tmp_path, chunk_rows):
    files = write_table(tmp_path / "t.parquet")
    whole = encode_log(files, SPEC, tmp_path / "whole")
    pieces = encode_log(files, SPEC, tmp_path / "pieces", chunk_rows=chunk_rows)
    assert contents(whole) == contents(pieces)
    assert whole.fingerprint == pieces.fingerprint
    assert [c.encoder.state for c in whole.columns] == [c.encoder.state for c in pieces.columns]


def test_validation_and_test_rows_do_not_reach_the_encoders(tmp_path):
    other = TABLE
    for name, values in {"user": [7, 7, 7], "item": ["q", "a", "q"], "price": [-1e6, 9e9, 4.0]}.items():
        other = replaced(name, [*TABLE[name].to_pylist()[:6], *values], other)
    first = encode_log(write_table(tmp_path / "a.parquet"), SPEC, tmp_path / "a")
    second = encode_log(write_table(tmp_path / "b.parquet", other), SPEC, tmp_path / "b")
    assert [c.encoder.state for c in first.columns] == [c.encoder.state for c in second.columns]
    assert first.fingerprint != second.fingerprint


def test_a_csv_file_gives_what_the_parquet_file_gives(tmp_path):
    flat = TABLE.drop_columns(["seen", "vector"])
    columns = tuple(c for c in COLUMNS if c.name not in ("seen", "vector"))
    spec = LogSpec(columns=columns, labels=SPEC.labels, parts=SPEC.parts, group=SPEC.group)
    pyarrow.csv.write_csv(flat, tmp_path / "t.csv")
    expected = encode_log(write_table(tmp_path / "t.parquet", flat), spec, tmp_path / "a")
    found = encode_log((TableFile(path=tmp_path / "t.csv"),), spec, tmp_path / "b", chunk_rows=2)
    assert contents(found) == contents(expected)


def test_a_saved_log_opens_with_its_encoders_and_is_memory_mapped(tmp_path):
    encode_log(write_table(tmp_path / "t.parquet"), SPEC, tmp_path / "log")
    log = ClickLog.load(tmp_path / "log")
    assert isinstance(log.part("train").ids, np.memmap)
    assert tuple(column.spec for column in log.columns) == COLUMNS
    item = log.columns[1].encoder
    assert item.transform(np.array(["a", "b", "c", "new"])).tolist() == [2, 3, 4, UNKNOWN]
    assert log.train_counts("item").tolist() == [0, 0, 3, 2, 1]
    assert log.train_counts("item", label="label").tolist() == [0, 0, 0, 2, 1]
    manifest = json.loads((tmp_path / "log" / "manifest.json").read_text())
    assert manifest["details"]["label_means"]["train"] == {"label": 0.5, "is_on": 0.5}
    with pytest.raises(DataError, match=r"no field 'price' to count by \(known: user, item, seen"):
        log.train_counts("price")
    with pytest.raises(DataError, match=r"no label 'buy' to count by \(known: label, is_on\)"):
        log.train_counts("item", label="buy")


def test_spec_and_schema_go_through_json(tmp_path):
    assert from_plain(LogSpec, json.loads(json.dumps(to_plain(SPEC)))) == SPEC
    log = encode_log(write_table(tmp_path / "t.parquet"), SPEC, tmp_path / "log")
    assert from_plain(Schema, json.loads(json.dumps(to_plain(log.schema)))) == log.schema
    with pytest.raises(ConfigError, match=r"columns\[0\].encoder.kind: 'vocab' is not one of 'vocabulary', 'hash'"):
        from_plain(LogSpec, {"columns": [{"name": "a", "encoder": {"kind": "vocab"}}], "parts": {"kind": "by_files"}})


def test_random_parts_depend_on_seed_and_row_alone(tmp_path):
    table = pa.table({"item": [str(i % 7) for i in range(4000)], "label": [i % 2 for i in range(4000)]})
    files = write_table(tmp_path / "t.parquet", table)
    columns = SMALL.columns
    spec = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.2, test=0.1, seed=4))
    log = encode_log(files, spec, tmp_path / "a", chunk_rows=333)
    draws = uniform_draws(0, 4000, seed=4)
    np.testing.assert_array_equal(log.part("test").labels[:, 0], (np.arange(4000) % 2)[draws < 0.1])
    assert abs(log.rows["validation"] / 4000 - 0.2) < 0.02
    assert abs(np.corrcoef(draws, uniform_draws(0, 4000, seed=5))[0, 1]) < 0.05
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.05
    no_test = LogSpec(columns=columns, parts=ByFractionsConfig(validation=0.5, test=0.0))
    log = encode_log(files, no_test, tmp_path / "b")
    assert set(log.rows) == {"train", "validation"}
    with pytest.raises(DataError, match=r"b has no test rows \(parts: train, validation\); encode it with such a part"):
        log.part("test")


def test_files_are_parts_and_validation_rows_may_come_from_the_train_file(tmp_path):
    train, test = TABLE.slice(0, 6), TABLE.slice(6)
    pq.write_table(train, tmp_path / "train.parquet")
    pq.write_table(test, tmp_path / "test.parquet")
    files = (
        TableFile(path=tmp_path / "train.parquet", part="train"),
        TableFile(path=tmp_path / "test.parquet", part="test"),
    )
    spec = LogSpec(columns=SMALL.columns, parts=ByFilesConfig(validation=0.4, seed=1))
    log = encode_log(files, spec, tmp_path / "log")
    expected = int((uniform_draws(0, 6, seed=1) < 0.4).sum())
    assert dict(log.rows) == {"train": 6 - expected, "validation": expected, "test": 3}
    with pytest.raises(DataError, match="the spec parts rows by files, but this file has no part; name it"):
        encode_log((TableFile(path=tmp_path / "train.parquet"),), spec, tmp_path / "other")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "label",
            [0, 1, 2, 0, 0, 0, 0, 0, 0],
            "column 'label': row 2 (counted from 0): 2 is not a label in 0..1; repair or remove these rows, or say "
            "`equals` to make a label of a text",
        ),
        ("label", [0, 1, 1, None, 0, 0, 0, 0, 0], "column 'label': row 3 (counted from 0): None is no label; repair"),
        ("label", list("01x000000"), "column 'label': 'x' is not a number; repair or remove this value"),
        ("request", ["r"] * 5 + [None] * 4, "column 'request': row 5 (counted from 0): None is no group; give every"),
        (
            "split",
            [*PARTS[:8], "later"],
            "column 'split': row 8 (counted from 0): 'later' names no part; repair it, or add it to one of parts.train,"
            " parts.validation, parts.test (known: train, validation, test)",
        ),
        ("split", ["train"] * 7 + ["test"] * 2, "the validation part has no rows: column 'split' never says validat"),
        ("price", ["cheap"] * 9, "column 'price': 'cheap' is not a number"),
        ("vector", [[1.0]] * 9, "column 'vector': a vector has 1 numbers, expected 2"),
        ("seen", ["a b"] * 9, "column 'seen': this column holds no lists; set separator to cut its texts into values"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left_behind(tmp_path, column, values, message):
    files = write_table(tmp_path / "t.parquet", replaced(column, values))
    with pytest.raises(DataError) as error:
        encode_log(files, SPEC, tmp_path / "log", chunk_rows=2)
    assert message in str(error.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["t.parquet"]


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match="none.parquet: no such file"):
        encode_log((TableFile(path=tmp_path / "none.parquet"),), SMALL, tmp_path / "log")
    (tmp_path / "bad.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"bad.parquet: not readable as parquet \("):
        encode_log((TableFile(path=tmp_path / "bad.parquet"),), SMALL, tmp_path / "log")
    (tmp_path / "ragged.csv").write_text("item,label,split\na,1,train\nb,0\n")
    with pytest.raises(DataError, match=r"ragged.csv: not readable as csv \(.*Expected 3 columns, got 2"):
        encode_log((TableFile(path=tmp_path / "ragged.csv"),), SMALL, tmp_path / "log")
    (tmp_path / "short.csv").write_text("items,label,split\na,1,train\n")
    with pytest.raises(DataError, match=r"short.csv: no column 'item'; did you mean 'items'\?"):
        encode_log((TableFile(path=tmp_path / "short.csv"),), SMALL, tmp_path / "log")
    (tmp_path / "t.jsonl").write_text("{}")
    with pytest.raises(DataError, match="click logs are read from parquet or csv; convert this file"):
        encode_log((TableFile(path=tmp_path / "t.jsonl"),), SMALL, tmp_path / "log")


def test_a_damaged_log_is_refused(tmp_path):
    encode_log(write_table(tmp_path / "t.parquet"), SPEC, tmp_path / "log")
    with pytest.raises(ArtifactError, match="log already exists"):
        encode_log(write_table(tmp_path / "t.parquet"), SPEC, tmp_path / "log")
    np.save(tmp_path / "log" / "test" / "labels.npy", np.zeros((3, 1), dtype=np.float32))
    with pytest.raises(ArtifactError, match=r"holds float32 \(3, 1\), expected float32 \(2, 2\); encode the log again"):
        ClickLog.load(tmp_path / "log").part("test")
    (tmp_path / "log" / "encoders.json").write_text("[{}]")
    with pytest.raises(ArtifactError, match=r"not the encoders of a click log \('spec'\); encode the log again"):
        ClickLog.load(tmp_path / "log")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ByColumnConfig(test=("train",)), "a value of column 'split' must stand for one part"),
        (lambda: ByColumnConfig(train=()), "train must name at least one value"),
        (lambda: ByFractionsConfig(validation=0.5, test=0.5), "must not be negative and leave rows to train on"),
        (lambda: ByFilesConfig(validation=1.0), "validation must lie in 0..1 and leave rows to train on, got 1.0"),
        (lambda: LogSpec(columns=(), parts=ByFilesConfig()), "columns and labels need at least one entry each"),
        (lambda: LogSpec(columns=SMALL.columns * 2, parts=ByFilesConfig()), "two columns are called 'item'; rename"),
        (
            lambda: LogSpec(
                columns=(
                    ColumnSpec(name="a", encoder=VocabularyConfig(), table="t"),
                    ColumnSpec(name="b", encoder=VocabularyConfig(min_count=2), table="t"),
                ),
                parts=ByFilesConfig(),
            ),
            "fields 'a' and 'b' cannot share table 't'; give them vocabularies",
        ),
    ],
)
def test_specs_check_themselves(build, message):
    with pytest.raises(ValueError, match=message):
        build()


PEAK = """
import sys
from pathlib import Path
from ctr_models.encode import NumberConfig, QuantileConfig, VocabularyConfig
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.log_spec import ByFractionsConfig, ColumnSpec, LogSpec, TableFile
columns = [ColumnSpec(name=f"c{i}", encoder=VocabularyConfig()) for i in range(8)]
columns += [ColumnSpec(name="x", encoder=NumberConfig()), ColumnSpec(name="q", column="x", encoder=QuantileConfig())]
spec = LogSpec(columns=tuple(columns), parts=ByFractionsConfig())
path = Path(sys.argv[1])
encode_log((TableFile(path=path),), spec, path.with_suffix(".log"), chunk_rows=1 << 13)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_rows(tmp_path):
    peaks = []
    for rows in (40_000, 640_000):
        rng = np.random.default_rng(0)
        columns = {f"c{i}": rng.integers(0, 1000, rows) for i in range(8)}
        table = pa.table({**columns, "x": rng.integers(0, 1000, rows) / 8, "label": rng.integers(0, 2, rows)})
        pq.write_table(table, tmp_path / f"{rows}.parquet", row_group_size=rows)
        command = [sys.executable, "-c", PEAK, str(tmp_path / f"{rows}.parquet")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(int(done.stdout) / 1024)
    raw = 600_000 * 10 * 8 / 2**20  # MiB by which the larger table is larger
    assert peaks[1] - peaks[0] < raw / 4
