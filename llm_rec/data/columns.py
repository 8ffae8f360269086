"""Click logs on disk: encoded rows as memory-mapped columns, one folder a part, and the encoders that made them.

`llm_rec.data.log_encoding` makes them of raw files, `llm_rec.ctr.log_rows` of an interaction log. Columns are plain
``.npy`` files, opened by memory mapping: a log may be far larger than memory.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from ctr_models.encode import restore
from ctr_models.encoders import Encoder, State
from ctr_models.schema import IdField, MultiValue, Schema
from llm_rec.artifacts import read_json, read_manifest, write_bytes, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.data.log_spec import ColumnSpec, Part
from llm_rec.errors import ArtifactError, ConfigError, DataError

KIND = "click-log"
_SCHEMA, _ENCODERS = "schema.json", "encoders.json"
_COUNTED = 1 << 20  # rows counted at a time


@dataclass(frozen=True, eq=False)
class ClickColumns:
    """Encoded rows of one part, or a chunk of them. Columns that the schema lacks have width 0."""

    ids: Int32[np.ndarray, "rows id_columns"]
    numbers: Float32[np.ndarray, "rows numbers"]
    dense: Float32[np.ndarray, "rows width"]
    labels: Float32[np.ndarray, "rows labels"]
    groups: Int64[np.ndarray, "rows"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns that are there, by name."""
        found = {"ids": self.ids, "numbers": self.numbers, "dense": self.dense, "labels": self.labels}
        present = {name: array for name, array in found.items() if array.shape[1]}
        return present if self.groups is None else {**present, "groups": self.groups}


@dataclass(frozen=True)
class FittedColumn:
    """A field's spec with its fitted encoder."""

    spec: ColumnSpec
    encoder: Encoder


@dataclass(frozen=True, eq=False)
class ClickLog:
    """An encoded click log that lies at `path`; `parts` hold memory-mapped columns, nothing is read until used."""

    path: Path
    schema: Schema
    columns: tuple[FittedColumn, ...]
    rows: Mapping[str, int]
    fingerprint: str

    @classmethod
    def load(cls, path: Path | str) -> "ClickLog":
        """Open a log; `ArtifactError` when it is none, or damaged."""
        path = Path(path)
        manifest = read_manifest(path, KIND)
        schema = from_plain(Schema, read_json(path / _SCHEMA))
        rows = cast(dict[str, int], manifest.details["rows"])
        return cls(path, schema, read_encoders(path / _ENCODERS), rows, manifest.fingerprint)

    @cached_property
    def parts(self) -> dict[str, ClickColumns]:
        """Every part by its name."""
        return {part: _open_part(self.path / part, self.schema, rows) for part, rows in self.rows.items()}

    def part(self, name: Part) -> ClickColumns:
        """One part; `DataError` when the log has none of that name."""
        if name not in self.rows:
            raise DataError(
                f"{self.path} has no {name} rows (parts: {', '.join(self.rows)}); encode it with such a part"
            )
        return self.parts[name]

    def train_counts(self, name: str, *, label: str | None = None) -> Int64[np.ndarray, "ids"]:
        """How often each id of field `name` occurs in the train rows, for frequency filters and slices.

        With `label`, only rows that have it (1, or 0.5 and above) count.
        """
        sizes = {found.name: found.size for found in self.schema.id_fields}
        for what, wanted, known in (("field", name, sizes), ("label", label, self.schema.labels)):
            if wanted is not None and wanted not in known:
                raise DataError(f"{self.path}: no {what} {wanted!r} to count by (known: {', '.join(known)})")
        train, columns = self.part("train"), self.schema.id_columns[name]
        counts = np.zeros(sizes[name], dtype=np.int64)
        for start in range(0, len(train), _COUNTED):
            ids = train.ids[start : start + _COUNTED, columns]
            if label is not None:
                ids = ids[train.labels[start : start + _COUNTED, self.schema.labels.index(label)] >= 0.5]
            counts += np.bincount(ids.ravel(), minlength=len(counts))
        return counts


def holds(path: Path, fingerprint: str) -> bool:
    """Whether the log of this fingerprint lies at `path`; `ArtifactError` when something else does."""
    if not path.exists():
        return False
    if read_manifest(path, KIND).fingerprint != fingerprint:
        raise ArtifactError(
            f"{path} holds a click log made from other data or settings; choose another --name, or pass --overwrite"
        )
    return True


class ClickWriter:
    """Writes the columns of every part, chunk by chunk, into a folder that becomes an artefact.

    The number of rows of each part is known beforehand, so each ``.npy`` header is written once and rows follow it.
    """

    def __init__(self, folder: Path, schema: Schema, columns: Sequence[FittedColumn], rows: Mapping[Part, int]) -> None:
        self.schema, self.rows = schema, dict(rows)
        self.label_sums = {part: np.zeros(len(schema.labels)) for part in rows}
        self.stack = ExitStack()
        self.files: dict[tuple[str, str], BinaryIO] = {}
        for part, number in rows.items():
            (folder / part).mkdir()
            for name, (width, dtype) in _layout(schema).items():
                file = self.stack.enter_context((folder / part / f"{name}.npy").open("wb"))
                shape = (number,) if name == "groups" else (number, width)
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                self.files[part, name] = file
        write_json(folder / _SCHEMA, schema)
        write_encoders(folder / _ENCODERS, columns)

    def __enter__(self) -> "ClickWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def append(self, part: Part, columns: ClickColumns, rows: Bool[np.ndarray, "rows"] | None = None) -> None:
        """Add the given rows of a chunk (None: all) to a part."""
        for name, array in columns.arrays().items():
            kept = array if rows is None else array[rows]
            np.ascontiguousarray(kept).tofile(self.files[part, name])
        labels = columns.labels if rows is None else columns.labels[rows]
        self.label_sums[part] += labels.sum(0, dtype=np.float64)

    def details(self) -> dict[str, Plain]:
        """Rows and mean labels by part, for the manifest."""
        means = {
            part: {
                label: float(total) / max(1, self.rows[part])
                for label, total in zip(self.schema.labels, sums, strict=True)
            }
            for part, sums in self.label_sums.items()
        }
        return {"rows": to_plain(self.rows), "label_means": to_plain(means)}


def _layout(schema: Schema) -> dict[str, tuple[int, np.dtype]]:
    """Width and type of every file of a part."""
    widths: dict[str, tuple[int, np.dtype]] = {
        "ids": (sum(_width(field) for field in schema.id_fields), np.dtype(np.int32)),
        "numbers": (len(schema.number_columns), np.dtype(np.float32)),
        "dense": (max((place.stop for place in schema.dense_columns.values()), default=0), np.dtype(np.float32)),
        "labels": (len(schema.labels), np.dtype(np.float32)),
        "groups": (1 if schema.group else 0, np.dtype(np.int64)),
    }
    return {name: (width, dtype) for name, (width, dtype) in widths.items() if width}


def _width(field: IdField) -> int:
    return field.length if isinstance(field, MultiValue) else 1


def _open_part(folder: Path, schema: Schema, rows: int) -> ClickColumns:
    layout = _layout(schema)
    arrays = {name: _open_array(folder / f"{name}.npy", rows, width, dtype) for name, (width, dtype) in layout.items()}
    return ClickColumns(
        ids=arrays.get("ids", np.zeros((rows, 0), dtype=np.int32)),
        numbers=arrays.get("numbers", np.zeros((rows, 0), dtype=np.float32)),
        dense=arrays.get("dense", np.zeros((rows, 0), dtype=np.float32)),
        labels=arrays["labels"],
        groups=arrays.get("groups"),
    )


def _open_array(path: Path, rows: int, width: int, dtype: np.dtype) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); encode the log again") from error
    shape = (rows,) if path.stem == "groups" else (rows, width)
    if array.shape != shape or array.dtype != dtype:
        raise ArtifactError(f"{path} holds {array.dtype} {array.shape}, expected {dtype} {shape}; encode the log again")
    return array


def _encoders_plain(columns: Sequence[FittedColumn]) -> Plain:
    """States are JSON values already; vocabularies are long and pass as they are."""
    return [{"spec": to_plain(column.spec), "state": cast(Plain, column.encoder.state)} for column in columns]


def write_encoders(path: Path, columns: Sequence[FittedColumn]) -> None:
    """Specs and fitted states as one JSON file."""
    write_bytes(path, json.dumps(_encoders_plain(columns), allow_nan=False).encode())


def read_encoders(path: Path) -> tuple[FittedColumn, ...]:
    """What `write_encoders` wrote; `ArtifactError` when it is something else."""
    try:
        found = cast(list[dict[str, Plain]], read_json(path))
        specs = [from_plain(ColumnSpec, entry["spec"]) for entry in found]
        states = [cast(State, entry["state"]) for entry in found]
        return tuple(FittedColumn(s, restore(s.encoder, state)) for s, state in zip(specs, states, strict=True))
    except (OSError, KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(f"{path}: not the encoders of a click log ({error}); encode the log again") from error
