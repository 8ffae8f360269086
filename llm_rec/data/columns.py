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
from ctr_models.encoders import Encoder
from ctr_models.schema import Schema, columns_of
from ctr_models.values import State
from llm_rec.artifacts import read_json, read_manifest, write_bytes, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.data.event_store import EventStore, open_array
from llm_rec.data.log_spec import ColumnSpec, Part
from llm_rec.errors import ArtifactError, ConfigError, DataError

KIND = "click-log"
_SCHEMA, _ENCODERS = "schema.json", "encoders.json"
_COUNTED = 1 << 20  # rows counted at a time


@dataclass(frozen=True, eq=False)
class ClickColumns:
    """Encoded rows of one part, or a chunk of them. Columns that the schema lacks have width 0.

    Where rows have a past, `windows` are [the first event of the row's user, one past the last event before the row]
    in the store `events` of the log, which all its parts share, and `times` are when the rows happened, if known.
    `weights` are those of the rows in the loss of training, where the schema names them.
    """

    ids: Int32[np.ndarray, "rows id_columns"]
    numbers: Float32[np.ndarray, "rows numbers"]
    dense: Float32[np.ndarray, "rows width"]
    labels: Float32[np.ndarray, "rows labels"]
    groups: Int64[np.ndarray, "rows"] | None = None
    windows: Int64[np.ndarray, "rows 2"] | None = None
    times: Int64[np.ndarray, "rows"] | None = None
    events: EventStore | None = None
    weights: Float32[np.ndarray, "rows"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns that are there, by name; the store is none."""
        found = {"ids": self.ids, "numbers": self.numbers, "dense": self.dense, "labels": self.labels}
        present = {name: array for name, array in found.items() if array.shape[1]}
        further = {"groups": self.groups, "windows": self.windows, "times": self.times, "weights": self.weights}
        return {**present, **{name: array for name, array in further.items() if array is not None}}

    def select(self, rows: slice | np.ndarray) -> "ClickColumns":
        """Some rows: a slice is not copied, numbers or a mask are one gather a column."""
        return ClickColumns(
            ids=self.ids[rows],
            numbers=self.numbers[rows],
            dense=self.dense[rows],
            labels=self.labels[rows],
            groups=None if self.groups is None else self.groups[rows],
            windows=None if self.windows is None else self.windows[rows],
            times=None if self.times is None else self.times[rows],
            events=self.events,
            weights=None if self.weights is None else self.weights[rows],
        )


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
        return {part: _open_part(self.path / part, self.schema, rows, self.events) for part, rows in self.rows.items()}

    @cached_property
    def events(self) -> EventStore | None:
        """What the rows look back on; None in a log without histories."""
        return EventStore.load(self.path, len(self.schema.history)) if self.schema.history else None

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
    `events` are what the windows of the rows point into, where the schema has a history.
    """

    def __init__(
        self,
        folder: Path,
        schema: Schema,
        columns: Sequence[FittedColumn],
        rows: Mapping[Part, int],
        *,
        events: EventStore | None = None,
    ) -> None:
        _check_store(schema, events)
        self.schema, self.rows, self.events = schema, dict(rows), events
        self.layout = _layout(schema, times=events is not None and events.times is not None)
        self.label_sums = {part: np.zeros(len(schema.labels)) for part in rows}
        self.stack = ExitStack()
        self.files: dict[tuple[str, str], BinaryIO] = {}
        for part, number in rows.items():
            (folder / part).mkdir()
            for name, (width, dtype) in self.layout.items():
                file = self.stack.enter_context((folder / part / f"{name}.npy").open("wb"))
                shape = (number, width) if width else (number,)
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                self.files[part, name] = file
        write_json(folder / _SCHEMA, schema)
        write_encoders(folder / _ENCODERS, columns)
        if events is not None:
            events.save(folder)

    def __enter__(self) -> "ClickWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def append(self, part: Part, columns: ClickColumns, rows: Bool[np.ndarray, "rows"] | None = None) -> None:
        """Add the given rows of a chunk (None: all) to a part. `DataError` when it lacks a column, or has one more."""
        arrays = columns.arrays()
        if set(arrays) != set(self.layout):
            raise DataError(
                f"rows hold the columns {', '.join(sorted(arrays))}, but the log has {', '.join(sorted(self.layout))}"
            )
        if columns.windows is not None and self.events is not None:
            _check_windows(columns.windows, len(self.events))
        for name, array in arrays.items():
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


def _layout(schema: Schema, *, times: bool) -> dict[str, tuple[int, np.dtype]]:
    """Width (0: one number a row, no second axis) and type of every file of a part."""
    wide: dict[str, tuple[int, np.dtype]] = {
        "ids": (sum(map(columns_of, schema.id_fields)), np.dtype(np.int32)),
        "numbers": (len(schema.number_columns), np.dtype(np.float32)),
        "dense": (max((place.stop for place in schema.dense_columns.values()), default=0), np.dtype(np.float32)),
        "labels": (len(schema.labels), np.dtype(np.float32)),
        "windows": (2 if schema.history else 0, np.dtype(np.int64)),
    }
    layout = {name: (width, dtype) for name, (width, dtype) in wide.items() if width}
    one_each = (
        ("groups", schema.group is not None, np.int64),
        ("times", times, np.int64),
        ("weights", schema.weight is not None, np.float32),
    )
    return {**layout, **{name: (0, np.dtype(dtype)) for name, there, dtype in one_each if there}}


def _open_part(folder: Path, schema: Schema, rows: int, events: EventStore | None) -> ClickColumns:
    layout = _layout(schema, times=events is not None and events.times is not None)
    arrays = {
        name: open_array(folder / f"{name}.npy", (rows, width) if width else (rows,), dtype)
        for name, (width, dtype) in layout.items()
    }
    return ClickColumns(
        ids=arrays.get("ids", np.zeros((rows, 0), dtype=np.int32)),
        numbers=arrays.get("numbers", np.zeros((rows, 0), dtype=np.float32)),
        dense=arrays.get("dense", np.zeros((rows, 0), dtype=np.float32)),
        labels=arrays["labels"],
        groups=arrays.get("groups"),
        windows=arrays.get("windows"),
        times=arrays.get("times"),
        events=events,
        weights=arrays.get("weights"),
    )


def _check_store(schema: Schema, events: EventStore | None) -> None:
    if bool(schema.history) != (events is not None):
        raise DataError("a schema with a history and a store of events go together; give both or none")
    if events is not None and events.ids.shape[1] != len(schema.history):
        raise DataError(f"events have {events.ids.shape[1]} ids each, but the history names {list(schema.history)}")


def _check_windows(windows: Int64[np.ndarray, "rows 2"], num_events: int) -> None:
    bad = np.flatnonzero((windows[:, 0] < 1) | (windows[:, 1] < windows[:, 0]) | (windows[:, 1] > num_events + 1))
    if len(bad):
        found = windows[bad[0]].tolist()
        raise DataError(f"row {bad[0]} looks back on events {found}, which is no window of the {num_events} events")


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
