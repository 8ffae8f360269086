"""Files of any size (parquet, csv, Ali-CCP's) as a stream of chunks, with checks that name file, column and row.

pyarrow is imported inside the functions, so that importing `llm_rec.data` stays light.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from ctr_models.values import RawColumn
from llm_rec.data.ali_ccp_files import read_packed
from llm_rec.data.log_spec import TableFile
from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK_ROWS = 1 << 17
_CSV_BLOCK = 1 << 22  # bytes; the reader holds some blocks ahead
_BUFFER = 1 << 20  # bytes read ahead in each column, so that one huge row group need not be held


@dataclass(frozen=True, eq=False)
class Chunk:
    """Rows `first_row`, ... of a file; `position` is the number of its first row in the whole source."""

    file: TableFile
    batch: "pa.RecordBatch"
    first_row: int
    position: int

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def column(self, name: str, rows: Bool[np.ndarray, "rows"] | None = None) -> RawColumn:
        """A raw column, of the given rows alone if any are given."""
        import pyarrow as pa

        array = self.batch.column(name)
        return arrow_column(array if rows is None else array.filter(pa.array(rows)))

    def where(self, column: str) -> str:
        return f"{self.file.path}: column {column!r}"

    def refuse(self, bad: Bool[np.ndarray, "rows"], column: str, what: str, fix: str) -> None:
        """Raise `DataError` for the first bad row, silent when there is none."""
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = self.batch.column(column)[row].as_py()
            raise DataError(
                f"{self.where(column)}: row {self.first_row + row} (counted from 0): {value!r} {what}; {fix}"
            )


def read_chunks(files: Sequence[TableFile], columns: Sequence[str], rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Chunks of at most `rows` rows of `columns`, file by file. Cells of csv files are texts, an empty one is null."""
    position = 0
    for file in files:
        first_row = 0
        for batch in _batches(file, columns, rows):
            yield Chunk(file, batch, first_row, position)
            first_row += batch.num_rows
            position += batch.num_rows


def arrow_column(array: "pa.Array") -> RawColumn:
    """Distinct values by one hash of the column; lists are flattened."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if not (
        pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type)
    ):
        return _flat_column(array)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    cells = array.flatten()
    if pa.types.is_floating(cells.type):
        values = cells.to_numpy(zero_copy_only=False)
        return RawColumn(values, np.arange(len(values), dtype=np.int64), lengths)
    flat = _flat_column(cells)
    return RawColumn(flat.values, flat.codes, lengths)


def _flat_column(array: "pa.Array") -> RawColumn:
    """Null becomes one more distinct value, so that integers beside it stay exact."""
    import pyarrow as pa

    if pa.types.is_null(array.type):
        return RawColumn(np.array([None], dtype=object), np.zeros(len(array), dtype=np.int64))
    coded = array.dictionary_encode()
    values = coded.dictionary.to_numpy(zero_copy_only=False)
    if array.null_count:
        values = np.append(values.astype(object), [None])
    codes = coded.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)
    return RawColumn(values, codes.astype(np.int64))


def _batches(file: TableFile, columns: Sequence[str], rows: int) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa

    from llm_rec.data import tables

    if not file.path.is_file():
        raise DataError(f"{file.path}: no such file")
    form = file.form or tables.file_format(file.path)
    try:
        match form:
            case "parquet":
                yield from _parquet_batches(file.path, columns, rows)
            case "csv":
                yield from _csv_batches(file, columns, rows)
            case "ali_ccp":
                yield from _regrouped(read_packed(file.path, columns), rows)
            case "jsonl":
                raise DataError(f"{file.path}: click logs are read from parquet or csv; convert this file")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.path}: not readable as {form} ({' '.join(str(error).split())})") from error


def _parquet_batches(path: Path, columns: Sequence[str], rows: int) -> Iterator["pa.RecordBatch"]:
    import pyarrow.parquet as pq

    from llm_rec.data import tables

    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as table:
        tables.require_columns(table.schema_arrow.names, columns, str(path))
        yield from table.iter_batches(batch_size=rows, columns=list(columns))


def _csv_batches(file: TableFile, columns: Sequence[str], rows: int) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa
    import pyarrow.csv as csv

    from llm_rec.data import tables

    read = csv.ReadOptions(column_names=list(file.names) or None, block_size=_CSV_BLOCK, use_threads=False)
    parse = csv.ParseOptions(delimiter=file.delimiter or ("\t" if ".tsv" in file.path.suffixes else ","))
    with csv.open_csv(file.path, read_options=read, parse_options=parse) as reader:
        tables.require_columns(reader.schema.names, columns, str(file.path))
    convert = csv.ConvertOptions(
        include_columns=list(columns),
        column_types=dict.fromkeys(columns, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    with csv.open_csv(file.path, read_options=read, parse_options=parse, convert_options=convert) as reader:
        yield from _regrouped(reader, rows)


def _regrouped(blocks: Iterable["pa.RecordBatch"], rows: int) -> Iterator["pa.RecordBatch"]:
    """Batches of `rows` rows, whatever the sizes of blocks: few distinct values a row make large chunks cheap."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    for block in blocks:
        held.append(block)
        while (total := sum(batch.num_rows for batch in held)) >= rows:
            whole = pa.concat_batches(held)
            yield whole.slice(0, rows)
            held = [whole.slice(rows)] if total > rows else []
    if held:
        yield pa.concat_batches(held)
