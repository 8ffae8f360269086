"""Rows of a click log with what tables of users and items say of them, joined chunk by chunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctr_models.values import texts_of
from llm_rec.data.chunks import CHUNK_ROWS, Chunk, arrow_column, read_chunks
from llm_rec.data.log_spec import JoinedTable, LogSpec, TableFile
from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


def read_joined(files: Sequence[TableFile], spec: LogSpec, rows: int = CHUNK_ROWS) -> Iterator[Chunk]:
    """Chunks of the columns that `spec` reads, joined ones among them.

    `DataError` for a file that is missing or lacks a column, and for a key that occurs twice in a joined table.
    """
    joined = [_Table.read(table) for table in spec.joins]
    for chunk in read_chunks(files, spec.sources, rows):
        for table in joined:
            chunk = table.join(chunk)
        yield chunk


@dataclass(frozen=True, eq=False)
class _Table:
    """Columns in memory, and which row a key has."""

    spec: JoinedTable
    columns: "pa.Table"
    row_of: dict[str | None, int]

    @classmethod
    def read(cls, spec: JoinedTable) -> "_Table":
        import pyarrow as pa

        from llm_rec.data import tables

        key = spec.key_there or spec.key
        chunks = list(read_chunks([spec.file], list(dict.fromkeys([key, *spec.columns]))))
        if not chunks:
            raise DataError(f"{spec.file.path}: no rows; a joined table needs at least one")
        whole = pa.Table.from_batches([chunk.batch for chunk in chunks]).combine_chunks()
        raw = arrow_column(whole.column(key).chunk(0))
        ids = [text or "" for text in raw.spread(np.array(texts_of(raw.values), dtype=object)).tolist()]
        fix = "a joined table has one row a key; drop the repeats"
        tables.refuse_rows(tables.repeated(ids), ids, f"{spec.file.path}: column {key!r}: duplicate key", fix)
        return cls(spec, whole, {id_: row for row, id_ in enumerate(ids) if id_})

    def join(self, chunk: Chunk) -> Chunk:
        """The chunk with the table's columns; null where the table lacks the key."""
        import pyarrow as pa

        raw = chunk.column(self.spec.key)
        rows = raw.spread(np.array([self.row_of.get(text, -1) for text in texts_of(raw.values)], dtype=np.int64))
        places = pa.array(rows, mask=rows < 0)
        batch = chunk.batch
        for name in self.spec.columns:
            batch = batch.append_column(name, self.columns.column(name).chunk(0).take(places))
        return Chunk(chunk.file, batch, chunk.first_row, chunk.position)
