"""The log: who did what, in which order, as one compressed-row (CSR) array per column."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from llm_rec.artifacts import fingerprint, read_manifest, write_artifact
from llm_rec.codec import Plain, from_plain
from llm_rec.data.catalog import Catalog
from llm_rec.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import pandas

_USERS = "users.parquet"
_EXPORT_ROWS = 1 << 20  # rows of one parquet row group, so that exporting needs bounded memory


@dataclass(frozen=True, kw_only=True, slots=True)
class LogOptions:
    """What to do with rows that not everybody wants.

    `min_rating` keeps rows whose `rating` column is at least that. `unknown_items` are ids that the catalog lacks.
    `duplicates="first"` keeps the earliest event of each user and item.
    """

    rating: str | None = None
    min_rating: float | None = None
    unknown_items: Literal["error", "drop"] = "error"
    duplicates: Literal["keep", "first"] = "keep"

    def __post_init__(self) -> None:
        if (self.rating is None) != (self.min_rating is None):
            raise ValueError(
                f"rating and min_rating go together, got rating={self.rating!r} and min_rating={self.min_rating!r}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """How many rows reading left out, by reason."""

    low_rating: int = 0
    unknown_item: int = 0
    duplicate: int = 0


class Interactions:
    """Events of U users, each user's in time order: user `u` owns events `offsets[u]` to `offsets[u + 1]`.

    `items` are catalog rows (1..num_items). `times` is None where the source knows only the order of events. Arrays of
    your own are taken as they are, but for their lengths; `validate` reads all of them.
    """

    def __init__(
        self,
        user_ids: Sequence[str],
        offsets: Int64[np.ndarray, "users_plus_one"],
        items: Int64[np.ndarray, "events"],
        times: Int64[np.ndarray, "events"] | None,
        *,
        num_items: int,
        catalog: str,
        dropped: Dropped | None = None,
    ) -> None:
        self.user_ids = tuple(user_ids)
        self.offsets = offsets
        self.items = items
        self.times = times
        self.num_items = num_items
        self.catalog = catalog  # fingerprint of the catalog whose rows `items` are
        self.dropped = dropped or Dropped()
        if len(self.user_ids) != self.num_users or (times is not None and len(times) != len(items)):
            raise DataError(
                f"lengths do not agree: {len(self.user_ids)} user ids, {len(offsets)} offsets (one more than users), "
                f"{len(items)} items, {'no' if times is None else len(times)} times"
            )

    @classmethod
    def from_frame(
        cls,
        frame: "pandas.DataFrame",
        catalog: Catalog,
        *,
        user: str,
        item: str,
        time: str | None = None,
        order: str | None = None,
        options: LogOptions | None = None,
        source: str = "frame",
    ) -> "Interactions":
        """Events of `frame`, one a row, sorted by user (in order of first appearance) and time.

        `time` is a column of clock times: integers and floats keep their own unit (rounded down for storage), datetimes
        and ISO 8601 texts become Unix seconds in UTC. `order` is a column of numbers that only sort. With neither, the
        rows are taken to be in time order already. Ties keep the order of the rows.

        Raises `DataError` for a missing column, null ids, a time that is none, items that the catalog lacks, and a log
        without events.
        """
        from llm_rec.data import tables

        options = options or LogOptions()
        if not len(frame):
            raise DataError(f"{source}: no rows; a log needs at least one event")
        if time is not None and order is not None:
            raise DataError(f"give time or order, not both (got time={time!r} and order={order!r})")
        tables.require_columns(frame.columns, log_columns(user, item, time, order, options), source)
        kept = np.ones(len(frame), dtype=bool)
        if options.rating is not None and options.min_rating is not None:
            kept = tables.numbers_of(frame[options.rating], source, "rating") >= options.min_rating
        low_rating = len(frame) - int(kept.sum())
        users, user_ids = tables.factorise_ids(frame[user], source)
        rows = _item_rows(frame[item], catalog, kept, options.unknown_items, source)
        clock = None if time is None else tables.times_of(frame[time], source)
        keys = clock.ticks if clock else None if order is None else tables.numbers_of(frame[order], source, "order")
        kept &= rows > 0
        unknown_item = len(frame) - low_rating - int(kept.sum())
        events = _sorted_events(users, keys, kept)
        duplicate = 0
        if options.duplicates == "first":
            first = _first_of_pair(users[events], rows[events], len(catalog))
            duplicate = len(events) - int(first.sum())
            events = events[first]
        if not len(events):
            raise DataError(f"{source}: no events left of {len(frame)} rows; check the filters and the columns")
        present, owners = np.unique(users[events], return_inverse=True)
        return cls(
            [user_ids[code] for code in present.tolist()],
            _offsets(owners, len(present)),
            rows[events],
            clock.stored()[events] if clock else None,
            num_items=len(catalog),
            catalog=catalog.fingerprint,
            dropped=Dropped(low_rating=low_rating, unknown_item=unknown_item, duplicate=duplicate),
        )

    @classmethod
    def from_parquet(
        cls,
        path: Path | str,
        catalog: Catalog,
        *,
        user: str,
        item: str,
        time: str | None = None,
        order: str | None = None,
        options: LogOptions | None = None,
    ) -> "Interactions":
        """Like `from_frame`, from a parquet file; only the named columns are read."""
        return read_log(path, catalog, user=user, item=item, time=time, order=order, options=options, form="parquet")

    @classmethod
    def from_csv(
        cls,
        path: Path | str,
        catalog: Catalog,
        *,
        user: str,
        item: str,
        time: str | None = None,
        order: str | None = None,
        options: LogOptions | None = None,
    ) -> "Interactions":
        """Like `from_frame`, from a file with a header line: commas, or tabs in a ``.tsv``. Ids stay as written."""
        return read_log(path, catalog, user=user, item=item, time=time, order=order, options=options, form="csv")

    @classmethod
    def from_jsonl(
        cls,
        path: Path | str,
        catalog: Catalog,
        *,
        user: str,
        item: str,
        time: str | None = None,
        order: str | None = None,
        options: LogOptions | None = None,
    ) -> "Interactions":
        """Like `from_frame`, from a file with one JSON object a line."""
        return read_log(path, catalog, user=user, item=item, time=time, order=order, options=options, form="jsonl")

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_events(self) -> int:
        return len(self.items)

    def history(self, user: int) -> Int64[np.ndarray, "events"]:
        """All item rows of user row `user` (0..U-1), oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def users_of(self, events: Int64[np.ndarray, "events"]) -> Int64[np.ndarray, "events"]:
        """The user row that owns each event index."""
        return np.searchsorted(self.offsets, events, side="right").astype(np.int64) - 1

    def select(self, kept: Bool[np.ndarray, "events"]) -> "Interactions":
        """The log of the events where `kept` is True; users without any are gone, item rows stay what they are."""
        if not kept.any():
            raise DataError(f"none of the {self.num_events} events is left; loosen the filter")
        sizes = np.diff(np.concatenate([[0], np.cumsum(kept)])[self.offsets])
        users = np.flatnonzero(sizes)
        return Interactions(
            [self.user_ids[user] for user in users.tolist()],
            np.concatenate([[0], np.cumsum(sizes[users])]).astype(np.int64),
            self.items[kept],
            None if self.times is None else self.times[kept],
            num_items=self.num_items,
            catalog=self.catalog,
            dropped=self.dropped,
        )

    def validate(self) -> None:
        """Check every event: `DataError` for offsets that are none, rows outside the catalog, and unsorted times."""
        if self.offsets[0] != 0 or self.offsets[-1] != self.num_events or (np.diff(self.offsets) < 0).any():
            raise DataError(
                f"offsets must rise from 0 to the {self.num_events} events, got {self.offsets.tolist()[:9]}"
            )
        outside = np.flatnonzero((self.items < 1) | (self.items > self.num_items))
        if len(outside):
            event = int(outside[0])
            raise DataError(
                f"{len(outside)} events have no item row in 1..{self.num_items}, first event {event}: "
                f"{self.items[event]}"
            )
        if self.times is None:
            return
        back = np.flatnonzero(np.diff(self.times) < 0) + 1
        back = np.setdiff1d(back, self.offsets)  # the first event of a user may be earlier than the one before it
        if len(back):
            user = self.user_ids[int(self.users_of(back[:1])[0])]
            raise DataError(
                f"times of {len(back)} events are before the event in front of them, first that of user {user!r} at "
                f"event {back[0]}; sort each user's events by time, or read them by from_frame, which does"
            )

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any user, event, order or time, and with the catalog."""
        times = b"" if self.times is None else np.ascontiguousarray(self.times).tobytes()
        users = "\x1f".join(self.user_ids)
        items = np.ascontiguousarray(self.items).tobytes()
        return fingerprint("interactions", self.catalog, users, self.offsets.tobytes(), items, times)

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the log as an artefact: a ``.npy`` file for each column (`load` memory-maps them), users, manifest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        details: dict[str, Plain] = {
            "users": self.num_users,
            "events": self.num_events,
            "num_items": self.num_items,
            "has_times": self.times is not None,
            "dropped": {name: int(count) for name, count in asdict(self.dropped).items()},
        }
        with write_artifact(
            Path(path),
            kind="interactions",
            fingerprint=self.fingerprint,
            inputs={"catalog": self.catalog},
            details=details,
            overwrite=overwrite,
        ) as folder:
            np.save(folder / "offsets.npy", self.offsets, allow_pickle=False)
            np.save(folder / "items.npy", self.items, allow_pickle=False)
            if self.times is not None:
                np.save(folder / "times.npy", self.times, allow_pickle=False)
            pq.write_table(pa.table({"user_id": pa.array(self.user_ids, type=pa.large_string())}), folder / _USERS)

    @classmethod
    def load(cls, path: Path | str, catalog: Catalog | None = None) -> "Interactions":
        """Open a saved log; its arrays stay on disk and are read as they are used (read-only).

        With `catalog`, raises `ArtifactError` naming both sides when the log was made from another one.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        manifest = read_manifest(path, "interactions")
        if catalog is not None:
            manifest.require_input("catalog", catalog.fingerprint, where=path)
        details = from_plain(_Details, manifest.details)
        try:
            user_ids = pq.read_table(path / _USERS).column("user_id").to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise ArtifactError(f"{path / _USERS}: not readable ({error}); build the log again") from error
        offsets = _open_array(path / "offsets.npy", details.users + 1)
        items = _open_array(path / "items.npy", details.events)
        times = _open_array(path / "times.npy", details.events) if details.has_times else None
        if len(user_ids) != details.users or offsets[0] != 0 or offsets[-1] != details.events:
            raise ArtifactError(f"{path}: users, offsets and events do not agree; the log is damaged, build it again")
        log = cls(
            user_ids,
            offsets,
            items,
            times,
            num_items=details.num_items,
            catalog=manifest.inputs["catalog"],
            dropped=details.dropped,
        )
        log.fingerprint = manifest.fingerprint  # hashing would read every event
        return log

    def export(self, path: Path | str, catalog: Catalog) -> None:
        """Write one parquet file with raw ids, for other tools: user_id, item_id, order (0 = first), time if known."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from llm_rec.artifacts import replacing

        if catalog.fingerprint != self.catalog:
            raise ArtifactError(
                f"the log was made from catalog {self.catalog}, but the catalog given here is {catalog.fingerprint}"
            )
        users, items = pa.array(self.user_ids, type=pa.string()), pa.array(catalog.item_ids, type=pa.string())
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        fields = {"user_id": pa.string(), "item_id": pa.string(), "order": pa.int64()}
        if self.times is not None:
            fields["time"] = pa.int64()
        schema = pa.schema(fields)
        with replacing(Path(path)) as partial, pq.ParquetWriter(partial, schema) as writer:
            for start in range(0, self.num_events, _EXPORT_ROWS):
                events = np.arange(start, min(start + _EXPORT_ROWS, self.num_events))
                owners = self.users_of(events)
                columns = [users.take(pa.array(owners)), items.take(pa.array(self.items[events] - 1))]
                columns.append(pa.array(events - self.offsets[owners]))
                if self.times is not None:
                    columns.append(pa.array(self.times[events]))
                writer.write_table(pa.table(columns, schema=schema))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Details:
    users: int
    events: int
    num_items: int
    has_times: bool
    dropped: Dropped


def log_columns(user: str, item: str, time: str | None, order: str | None, options: LogOptions) -> list[str]:
    """The columns that reading a log needs."""
    return [name for name in (user, item, time, order, options.rating) if name is not None]


def read_log(
    path: Path | str,
    catalog: Catalog,
    *,
    user: str,
    item: str,
    time: str | None = None,
    order: str | None = None,
    options: LogOptions | None = None,
    form: Literal["parquet", "csv", "jsonl"] | None = None,
) -> Interactions:
    """A log from a file in the format `form` (None: by its name). See `Interactions.from_frame`."""
    from llm_rec.data import tables

    path = Path(path)
    columns = log_columns(user, item, time, order, options or LogOptions())
    frame = tables.read_table(path, form or tables.file_format(path), columns, ids=[user, item])
    return Interactions.from_frame(
        frame, catalog, user=user, item=item, time=time, order=order, options=options, source=str(path)
    )


def _item_rows(
    column: "pandas.Series",
    catalog: Catalog,
    kept: Bool[np.ndarray, "rows"],
    unknown_items: Literal["error", "drop"],
    source: str,
) -> Int64[np.ndarray, "rows"]:
    """Catalog rows of a column of raw ids, 0 where unknown. Rows outside `kept` may be unknown without harm."""
    from llm_rec.data import tables

    codes, ids = tables.factorise_ids(column, source)
    rows: np.ndarray = catalog.rows(ids)[codes]
    unknown = kept & (rows == 0)
    if kept.any() and unknown.sum() == kept.sum():
        raise DataError(
            f"{source}: column {str(column.name)!r}: no item id is in the catalog (log: {_examples(ids)}; "
            f"catalog: {_examples(catalog.item_ids)}); check that both name items the same way"
        )
    if unknown_items == "error":
        what = f"{source}: column {str(column.name)!r}: item that the catalog lacks"
        fix = 'add it to the catalog, or leave rows out by unknown_items="drop" (--source.options.unknown-items drop)'
        tables.refuse_rows(unknown, column, f"{what} ({len(np.unique(codes[unknown]))} distinct)", fix)
    return rows


def _examples(ids: Sequence[str]) -> str:
    return ", ".join(repr(item) for item in ids[:3])


def _sorted_events(
    users: Int64[np.ndarray, "rows"],
    keys: Int64[np.ndarray, "rows"] | Float64[np.ndarray, "rows"] | None,
    kept: Bool[np.ndarray, "rows"],
) -> Int64[np.ndarray, "events"]:
    """Indices of the kept rows by user, then key, then position (both sorts are stable)."""
    events = np.flatnonzero(kept)
    if keys is not None:
        events = events[np.argsort(keys[events], kind="stable")]
    by_user: np.ndarray = events[np.argsort(users[events], kind="stable")]
    return by_user


def _first_of_pair(
    users: Int64[np.ndarray, "events"], items: Int64[np.ndarray, "events"], num_items: int
) -> Bool[np.ndarray, "events"]:
    """True at the first event of each (user, item)."""
    first = np.zeros(len(users), dtype=bool)
    first[np.unique(users * (num_items + 1) + items, return_index=True)[1]] = True
    return first


def _offsets(owners: Int64[np.ndarray, "events"], num_users: int) -> Int64[np.ndarray, "users_plus_one"]:
    return np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=num_users))]).astype(np.int64)


def _open_array(path: Path, length: int) -> Int64[np.ndarray, "length"]:
    """A memory-mapped int64 array; `ArtifactError` when the file is missing, damaged or of another shape."""
    try:
        array = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{path}: not readable ({error}); build the log again") from error
    if array.shape != (length,) or array.dtype != np.int64:
        raise ArtifactError(
            f"{path} holds {array.dtype} {array.shape}, expected int64 ({length},); build the log again"
        )
    return array
