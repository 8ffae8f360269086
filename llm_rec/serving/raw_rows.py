"""Raw rows, as they were in the files of training, in the layout that a saved model takes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np

from ctr_models.encoders import DenseVector
from ctr_models.schema import Schema
from ctr_models.values import RawColumn, list_column, raw_column
from llm_rec.data.columns import ClickColumns, FittedColumn
from llm_rec.data.log_encoding import lay_out
from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

RawRows: TypeAlias = "Mapping[str, Sequence[object] | np.ndarray] | pd.DataFrame"


class RowEncoder:
    """The encoders that training fitted. `columns` are the raw columns they read, each once, in order."""

    def __init__(self, schema: Schema, fitted: Sequence[FittedColumn]) -> None:
        self.schema, self.fitted = schema, tuple(fitted)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.spec.source for column in self.fitted))

    def encode(self, rows: RawRows) -> ClickColumns:
        """Rows in the layout of the schema, with labels of 0. `DataError` for a missing column, columns of different
        lengths, and a value that an encoder cannot read (a text where a number belongs).
        """
        raws = {name: self._raw(rows, name) for name in self.columns}
        sizes = {name: len(raw) for name, raw in raws.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"columns have different numbers of rows: {sizes}; give every row every column")
        encoded = []
        for column in self.fitted:
            try:
                encoded.append(column.encoder.transform(raws[column.spec.source]))
            except ValueError as error:
                raise DataError(f"column {column.spec.source!r}: {error}") from error
        labels = np.zeros((next(iter(sizes.values())), len(self.schema.labels)), dtype=np.float32)
        groups = None if self.schema.group is None else np.zeros(len(labels), dtype=np.int64)
        return lay_out(self.fitted, encoded, labels, groups)

    @property
    def _dense(self) -> set[str]:
        return {column.spec.source for column in self.fitted if isinstance(column.encoder, DenseVector)}

    def _raw(self, rows: RawRows, name: str) -> RawColumn:
        if name not in rows:
            raise DataError(f"the rows have no column {name!r}; a model of this log needs {', '.join(self.columns)}")
        values = rows[name]
        array = values.to_numpy(dtype=object) if not isinstance(values, np.ndarray | Sequence) else values
        lists = isinstance(array[0], list | tuple | np.ndarray) if len(array) else name in self._dense
        if lists:
            return list_column(cast(Sequence[Sequence[object]], list(array)))
        return raw_column(array if isinstance(array, np.ndarray) else np.array(array, dtype=object))
