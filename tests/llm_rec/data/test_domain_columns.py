"""Domains in click logs: the train rows define them, other values are refused; filters and joined tables of rows."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_models.encode import HashConfig, VocabularyConfig
from ctr_models.schema import RESERVED
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.log_spec import ByColumnConfig, ColumnSpec, JoinedTable, KeepRows, LogSpec, TableFile
from llm_rec.errors import DataError

ROWS = {
    "item": ["a", "b", "a", "c", "b", "a", "d"],
    "shop": ["x", "y", "x", "x", "y", "x", "z"],
    "label": [0, 1, 0, 1, 1, 0, 1],
    "split": ["train", "train", "train", "validation", "test", "test", "test"],
}
ITEMS = {"item": ["c", "a", "b"], "maker": ["m1", "m2", None], "weight": [3, 1, 2]}
IDS = VocabularyConfig()


def files(tmp_path, rows=ROWS, name="rows.parquet"):
    pq.write_table(pa.table(rows), tmp_path / name)
    return (TableFile(path=tmp_path / name),)


def spec(*columns, **settings):
    names = columns or ("item", "shop")
    specs = tuple(ColumnSpec(name=name, encoder=IDS) for name in names)
    return LogSpec(columns=specs, parts=ByColumnConfig(), domain="shop", **settings)


def shop_ids(log, part):
    return log.part(part).ids[:, log.schema.id_columns["shop"]].ravel().tolist()


def test_rows_that_are_not_kept_are_in_no_part_and_fit_no_encoder(tmp_path):
    log = encode_log(files(tmp_path), spec(keep=(KeepRows(column="shop", values=("x", "y")),)), tmp_path / "log")
    assert dict(log.rows) == {"train": 3, "validation": 1, "test": 2}
    assert log.schema.domain == "shop"
    assert ClickLog.load(tmp_path / "log").schema == log.schema
    assert shop_ids(log, "test") == [RESERVED + 1, RESERVED]
    keep = (KeepRows(column="item", values=("a", "c")),)
    only = encode_log(files(tmp_path), spec(keep=keep), tmp_path / "a", chunk_rows=2)
    assert dict(only.rows) == {"train": 2, "validation": 1, "test": 1}
    assert only.columns[1].encoder.state == {"values": ["x"]}


def test_a_row_of_a_domain_without_train_rows_is_refused(tmp_path):
    message = (
        r"rows.parquet: column 'shop': row 6 \(counted from 0\): 'z' is a domain without train rows; "
        "leave such rows out by `keep`, or part the rows otherwise"
    )
    with pytest.raises(DataError, match=message):
        encode_log(files(tmp_path), spec(), tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("row", [0, 5])
def test_a_row_without_a_domain_is_refused(tmp_path, row):
    shops = [None if place == row else shop for place, shop in enumerate(["x", "y", "x", "x", "y", "x", "y"])]
    with pytest.raises(DataError, match=rf"row {row} \(counted from 0\): None is no domain; give every row a domain"):
        encode_log(files(tmp_path, {**ROWS, "shop": shops}), spec(), tmp_path / "log")


@pytest.mark.parametrize(
    ("encoder", "table", "message"),
    [
        (VocabularyConfig(min_count=2), None, r"the domain 'shop' needs a vocabulary of all its values \(min_count 1"),
        (HashConfig(buckets=3), None, r"needs a vocabulary of all its values \(min_count 1, no max_size\), got Hash"),
        (IDS, "shared", "the domain 'shop' needs a table of its own, got table 'shared'"),
    ],
)
def test_a_domain_needs_a_vocabulary_of_its_own(encoder, table, message):
    column = ColumnSpec(name="shop", encoder=encoder, table=table)
    with pytest.raises(ValueError, match=message):
        LogSpec(columns=(column,), parts=ByColumnConfig(), domain="shop")
    with pytest.raises(ValueError, match=r"domain names 'country', which is no field; there are \['shop'\]"):
        LogSpec(columns=(column,), parts=ByColumnConfig(), domain="country")


def test_joined_columns_are_those_of_the_row_with_the_key(tmp_path):
    (table,) = files(tmp_path, ITEMS, "items.parquet")
    join = JoinedTable(file=table, key="item", columns=("maker", "weight"))
    rows = {**ROWS, "shop": ["x"] * 7}
    log = encode_log(files(tmp_path, rows), spec("item", "shop", "maker", "weight", joins=(join,)), tmp_path / "log")
    maker, weight = (column.encoder.state["values"] for column in log.columns[2:])
    found = [
        [None if value < RESERVED else values[value - RESERVED] for value in log.part("train").ids[:, column].tolist()]
        for column, values in ((2, maker), (3, weight))
    ]
    assert found == [["m2", None, "m2"], ["1", "2", "1"]]  # the maker of b is null, a value like any other
    assert None in maker
    test = log.part("test").ids[:, 3].tolist()
    assert test == [RESERVED + weight.index("2"), RESERVED + weight.index("1"), 1]  # item d is in no table
    chunked = encode_log(
        files(tmp_path, rows),
        spec("item", "shop", "maker", "weight", joins=(join,)),
        tmp_path / "chunked",
        chunk_rows=2,
    )
    np.testing.assert_array_equal(chunked.part("train").ids, log.part("train").ids)


def test_a_joined_table_with_a_key_twice_or_missing_columns_is_refused(tmp_path):
    (table,) = files(tmp_path, {**ITEMS, "item": ["a", "a", "b"]}, "items.parquet")
    wanted = spec("item", "shop", "maker", joins=(JoinedTable(file=table, key="item", columns=("maker",)),))
    with pytest.raises(DataError, match=r"items.parquet: column 'item': duplicate key in 1 of 3 rows"):
        encode_log(files(tmp_path), wanted, tmp_path / "log")
    (table,) = files(tmp_path, {"item": ["a"]}, "items.parquet")
    with pytest.raises(DataError, match=r"items.parquet: no column 'maker'"):
        encode_log(files(tmp_path), wanted, tmp_path / "log")
    with pytest.raises(ValueError, match="the key 'item' is a column of the rows already; leave it out"):
        JoinedTable(file=table, key="item", columns=("item",))
    twice = JoinedTable(file=table, key="item", columns=("maker",))
    with pytest.raises(ValueError, match="column 'maker' is joined from two tables; leave it out of one"):
        spec(joins=(twice, twice))


def test_logs_without_domains_keep_their_fingerprints_and_joined_files_count(tmp_path):
    plain = LogSpec(columns=(ColumnSpec(name="item", encoder=IDS),), parts=ByColumnConfig())
    rows = files(tmp_path)
    before = log_fingerprint(rows, plain)
    assert log_fingerprint(rows, spec("item", "shop")) != before
    (table,) = files(tmp_path, ITEMS, "items.parquet")
    joined = spec("item", "shop", "maker", joins=(JoinedTable(file=table, key="item", columns=("maker",)),))
    first = log_fingerprint(rows, joined)
    files(tmp_path, {**ITEMS, "weight": [1, 1, 1]}, "items.parquet")
    assert log_fingerprint(rows, joined) != first
