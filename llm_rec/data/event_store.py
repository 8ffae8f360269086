"""The events that rows of a click log look back on: stored once, however many rows look at each.

A row holds no history, only a window of the store: from its user's first event to the last one before the row. So a
history of any length is a gather, and a log costs 16 bytes a row more, whatever the length. Beside it, one array a
sample of 200 events of two fields is 1,600 bytes.

```
events/events.json  events/ids.npy  events/times.npy (where there are clock times)
```
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from llm_rec.artifacts import read_json, write_json
from llm_rec.codec import from_plain
from llm_rec.errors import ArtifactError, ConfigError, DataError

FOLDER = "events"
_SIZES, _IDS, _TIMES = "events.json", "ids.npy", "times.npy"
_CHUNK = 1 << 22  # events checked or copied at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreSizes:
    """What ``events.json`` says: events (padding not among them), and whether they have times."""

    events: int
    times: bool


@dataclass(frozen=True, eq=False)
class EventStore:
    """Events of all users, a user's one after the other and in time order, with an id for each field of the schema's
    `history`. Event 0 is padding (zeros), so that events are counted from 1, as rows of items are.

    `times` have any unit; they say how long before a row an event was.
    """

    ids: Int32[np.ndarray, "events_plus_one fields"]
    times: Int64[np.ndarray, "events_plus_one"] | None = None

    def __len__(self) -> int:
        return len(self.ids) - 1

    @classmethod
    def of(
        cls, ids: Int32[np.ndarray, "events fields"], times: Int64[np.ndarray, "events"] | None = None
    ) -> "EventStore":
        """A store in memory of events without the padding one."""
        padding = np.zeros((1, ids.shape[1]), dtype=np.int32)
        clock = None if times is None else np.concatenate([np.zeros(1, dtype=np.int64), times])
        return cls(np.concatenate([padding, ids]), clock)

    def check(self, starts: Int64[np.ndarray, "users"]) -> None:
        """Read the store once: `DataError` unless event 0 alone has no first id and each user's times never fall.

        `starts` are the users' first events. Events without times are taken to be in order.
        """
        if self.ids[0].any():
            raise DataError(f"event 0 of a store is padding and must be zeros, got {self.ids[0].tolist()}")
        for start in range(1, len(self) + 1, _CHUNK):
            stop = min(start + _CHUNK, len(self) + 1)
            bad = np.flatnonzero(self.ids[start:stop, 0] < 1)
            if len(bad):
                raise DataError(f"event {start + bad[0]} has no id of its first field; leave such events out")
            if self.times is None:
                continue
            clock = self.times[start - 1 : stop]
            fallen = np.flatnonzero(np.diff(clock) < 0) + start
            fallen = fallen[~np.isin(fallen, starts)]
            if len(fallen):
                event = int(fallen[0])
                raise DataError(
                    f"the time of event {event} ({self.times[event]}) is before that of the event in front of it "
                    f"({self.times[event - 1]}); sort each user's events by time"
                )

    def save(self, folder: Path) -> None:
        """Write the store below `folder`, some millions of events at a time."""
        place = folder / FOLDER
        place.mkdir()
        write_json(place / _SIZES, StoreSizes(events=len(self), times=self.times is not None))
        _copy(self.ids, place / _IDS)
        if self.times is not None:
            _copy(self.times, place / _TIMES)

    @classmethod
    def load(cls, folder: Path, num_fields: int) -> "EventStore":
        """The store below `folder`, memory-mapped; `ArtifactError` when it is missing, damaged or of other fields."""
        place = folder / FOLDER
        try:
            sizes = from_plain(StoreSizes, read_json(place / _SIZES))
        except (OSError, ConfigError) as error:
            raise ArtifactError(f"{place / _SIZES}: not readable ({error}); encode the log again") from error
        ids = open_array(place / _IDS, (sizes.events + 1, num_fields), np.dtype(np.int32))
        times = open_array(place / _TIMES, (sizes.events + 1,), np.dtype(np.int64)) if sizes.times else None
        return cls(ids, times)


def open_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A memory-mapped array; `ArtifactError` when the file is missing, damaged or of another shape or type."""
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); encode the log again") from error
    if array.shape != shape or array.dtype != dtype:
        raise ArtifactError(f"{path} holds {array.dtype} {array.shape}, expected {dtype} {shape}; encode the log again")
    return array


def _copy(array: np.ndarray, path: Path) -> None:
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(array), _CHUNK):
            np.ascontiguousarray(array[start : start + _CHUNK]).tofile(file)
