"""Streams of chunks: every type of column arrives as it is written, and rows keep their numbers."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ctr_models.values import numbers_of, texts_of
from llm_rec.data.chunks import arrow_column, read_chunks
from llm_rec.data.log_spec import TableFile

ROOT = Path(__file__).parents[3]
LARGE = 2**60 + 1  # a float64 cannot tell it from its neighbour


def cells(column):
    texts = texts_of(column.values)
    flat = [texts[code] for code in column.codes.tolist()]
    if column.lengths is None:
        return flat
    ends = np.cumsum(column.lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, column.lengths.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([LARGE, None, LARGE - 1]), [str(LARGE), None, str(LARGE - 1)]),
        (pa.array([1.5, None, 2.0, float("nan")]), ["1.5", None, "2", None]),
        (pa.array(["a", "", None]), ["a", None, None]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array([True, None, False]), ["true", None, "false"]),
        (pa.nulls(2), [None, None]),
        (pa.array([[1, 2], None, [], [None, 1]]), [["1", "2"], [], [], [None, "1"]]),
        (pa.array([["x"], ["y", "x"]], pa.large_list(pa.large_string())), [["x"], ["y", "x"]]),
        (pa.array([[0.5, 1.0], [2.0, 0.5]], pa.list_(pa.float32(), 2)), [["0.5", "1"], ["2", "0.5"]]),
        (pa.array([["a"], ["b"], ["c", "a"]]).slice(1), [["b"], ["c", "a"]]),
    ],
)
def test_every_type_of_column_arrives_as_it_is_written(array, expected):
    assert cells(arrow_column(array)) == expected


def test_equal_numbers_are_one_value_and_spelled_numbers_are_numbers():
    column = arrow_column(pa.array([3, 1, 3, None]))
    assert (len(column.values), column.counts.tolist()) == (3, [2, 1, 1])
    np.testing.assert_array_equal(numbers_of(column.values)[column.codes], [3, 1, 3, np.nan])
    spelled = arrow_column(pa.array(["3", "1e2"]))
    np.testing.assert_array_equal(numbers_of(spelled.values)[spelled.codes], [3, 100])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_csv_rows_come_in_order_and_in_chunks_of_the_size_asked_for(tmp_path, rows, packed):
    text = "b,a\n" + "".join(f"x,{row}\n" for row in range(10))
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    chunks = list(read_chunks([TableFile(path=path)] * 2, ["a"], rows))
    assert [cell for chunk in chunks for cell in cells(chunk.column("a"))] == [str(row) for row in range(10)] * 2
    assert max(len(chunk) for chunk in chunks) == min(rows, 10)
    assert [chunk.position for chunk in chunks] == np.cumsum([0, *map(len, chunks)])[:-1].tolist()
    assert [chunk.first_row for chunk in chunks if chunk.position == 10] == [0]


def test_column_types_of_a_csv_file_do_not_depend_on_its_first_rows(tmp_path):
    (tmp_path / "t.csv").write_text("a,other\n1,1\n007,x\nb,\n")
    (chunk,) = read_chunks([TableFile(path=tmp_path / "t.csv")], ["a"])
    assert cells(chunk.column("a")) == ["1", "007", "b"]
    assert chunk.batch.schema.names == ["a"]


def test_parquet_chunks_cross_no_file(tmp_path):
    for name in "ab":
        pq.write_table(pa.table({"a": range(5)}), tmp_path / f"{name}.parquet", row_group_size=2)
    files = [TableFile(path=tmp_path / f"{name}.parquet") for name in "ab"]
    chunks = list(read_chunks(files, ["a"], 4))
    assert [(chunk.first_row, chunk.position, len(chunk)) for chunk in chunks][-2:] == [(0, 5, 4), (4, 9, 1)]


def test_importing_the_modules_of_click_logs_loads_no_heavy_library():
    modules = "llm_rec.data.columns, llm_rec.data.log_encoding, llm_rec.data.sources.click_table"
    code = f"import sys, {modules}; print([m for m in ('pandas', 'pyarrow', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
