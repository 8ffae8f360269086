"""A click log with histories in the file layout of the released DARE code, so that both sides train on the same rows.

```
train_0001_102400.npy  train_0002_...npy  ..  val.npy  test.npy
```

Each file is an object array (rows, 6): user, item, category, [1, 0] for a click or [0, 1], items of the history,
categories of the history; histories are int32 arrays of equal length, padded on the left with 0. It is the one place
that writes pickled arrays, because that code reads nothing else; nothing here reads them. That code drops what is left
of val and test beyond whole batches, and takes the user from nowhere.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from ctr_models.schema import UNKNOWN
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.ctr.histories import event_numbers
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import DataError

KIND = "dare-rows"
_CHUNK = 1 << 20  # ids looked through at a time
_ROWS = 1 << 14  # rows laid out at a time
_FILES: dict[Part, str] = {"validation": "val.npy", "test": "test.npy"}


@dataclass(frozen=True, kw_only=True, slots=True)
class DareExportConfig:
    """`length` of histories is its ``-max_length``. Train rows are shuffled once by `seed` (None: kept in order), and
    cut into files of `file_rows`, which its batch size should divide. `category` None is the second history field.
    """

    length: int = 200
    file_rows: int = 102_400
    category: str | None = None
    seed: int | None = 0

    def __post_init__(self) -> None:
        if min(self.length, self.file_rows) < 1:
            raise ValueError(f"length and file_rows must be at least 1, got {self.length} and {self.file_rows}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DareExport:
    """What that code is told: ``-item_n`` and ``-cate_n``, values and padding together.

    Its ids are ours less `item_shift` and `category_shift`: 1 where no row and no event has an unknown value, so that
    ids go from 1 on, else 0, and UNKNOWN stays an id like any other.
    """

    item_n: int
    cate_n: int
    item_shift: int
    category_shift: int
    rows: dict[str, int]


def export_dare(log: ClickLog, path: Path | str, config: DareExportConfig, *, overwrite: bool = False) -> DareExport:
    """Write the rows of `log` into the folder `path`, whole or not at all.

    `DataError` when rows have no histories or no category, labels are not 0 and 1, or there is no validation or test.
    """
    places = _places(log, config)
    shifts = [_shift(log, *place) for place in places]
    sizes = [log.schema.id_fields[_field_number(log, column)].size for column, _ in places]
    found = DareExport(
        item_n=sizes[0] - shifts[0],
        cate_n=sizes[1] - shifts[1],
        item_shift=shifts[0],
        category_shift=shifts[1],
        rows={part: log.rows[part] for part in ("train", *_FILES) if len(log.part(part))},
    )
    plain = to_plain(found)
    details: dict[str, Plain] = plain if isinstance(plain, dict) else {}
    name = fingerprint(KIND, log.fingerprint, {"config": to_plain(config)})
    with write_artifact(
        Path(path), kind=KIND, fingerprint=name, inputs={"log": log.fingerprint}, details=details, overwrite=overwrite
    ) as folder:
        order = np.arange(log.rows["train"])
        if config.seed is not None:
            np.random.default_rng(config.seed).shuffle(order)
        for number, start in enumerate(range(0, len(order), config.file_rows), start=1):
            rows = order[start : start + config.file_rows]
            _write(
                folder / f"train_{number:04d}_{len(rows)}.npy", log.part("train").select(rows), places, shifts, config
            )
        for part, file in _FILES.items():
            _write(folder / file, log.part(part), places, shifts, config)
    return found


def _places(log: ClickLog, config: DareExportConfig) -> list[tuple[int, int]]:
    """(column of the candidate's ids, column of the events' ids) of item and category."""
    history = log.schema.history
    if len(history) < 2:
        raise DataError(
            f"{log.path}: the history has the fields {list(history)}; that code needs an item and a category: encode "
            "the log with two history fields"
        )
    category = config.category or history[1]
    if category not in history[1:]:
        raise DataError(f"category {category!r} is no further field of the history {list(history)}")
    return [(log.schema.history_columns[place], place) for place in (0, history.index(category))]


def _field_number(log: ClickLog, column: int) -> int:
    starts = [log.schema.id_columns[field.name].start for field in log.schema.id_fields]
    return starts.index(column)


def _shift(log: ClickLog, column: int, place: int) -> int:
    """1 when no unknown value has to keep its id."""
    arrays = [part.ids[:, column] for part in log.parts.values()]
    arrays += [] if log.events is None else [log.events.ids[:, place]]
    for array in arrays:
        for start in range(0, len(array), _CHUNK):
            if (array[start : start + _CHUNK] == UNKNOWN).any():
                return 0
    return 1


def _write(
    path: Path, rows: ClickColumns, places: list[tuple[int, int]], shifts: list[int], config: DareExportConfig
) -> None:
    labels = rows.labels[:, 0]
    odd = np.flatnonzero((labels != 0) & (labels != 1))
    if len(odd):
        raise DataError(f"row {odd[0]} has the label {labels[odd[0]]}; that code knows 0 and 1 alone")
    cells = np.empty((len(rows), 6), dtype=object)
    for start in range(0, len(rows), _ROWS):
        piece = slice(start, start + _ROWS)
        _fill(cells[piece], rows.select(piece), places, shifts, config.length)
    with path.open("wb") as file:
        np.save(file, cells, allow_pickle=True)


def _fill(cells: np.ndarray, rows: ClickColumns, places: list[tuple[int, int]], shifts: list[int], length: int) -> None:
    if rows.events is None or rows.windows is None:
        raise DataError("these rows have no histories; encode the log with history fields")
    cells[:, 0] = (np.zeros(len(rows), dtype=np.int64) if rows.groups is None else rows.groups + 1).tolist()
    cells[:, 3] = _objects([[1, 0] if label else [0, 1] for label in rows.labels[:, 0].tolist()])
    events = _padded(event_numbers(np.asarray(rows.windows), length), length)
    for cell, ((column, place), shift) in enumerate(zip(places, shifts, strict=True)):
        cells[:, 1 + cell] = np.maximum(rows.ids[:, column].astype(np.int64) - shift, 0).tolist()
        cells[:, 4 + cell] = _objects(np.maximum(rows.events.ids[events, place] - shift, 0).astype(np.int32))


def _padded(events: Int64[np.ndarray, "rows columns"], length: int) -> Int64[np.ndarray, "rows length"]:
    return np.pad(events, ((0, 0), (length - events.shape[1], 0)))


def _objects(rows: list[list[int]] | np.ndarray) -> np.ndarray:
    """One object a row; numpy would make a second axis of rows of one length."""
    return np.fromiter(iter(rows), dtype=object, count=len(rows))
