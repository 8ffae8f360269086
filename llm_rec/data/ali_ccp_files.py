"""The files of Ali-CCP: rows whose last column packs features of any fields, joined with their common features.

A packed cell is ``field\\x02feature\\x03value`` joined by ``\\x01``. A skeleton (``sample_skeleton_<name>.csv``, no
header) has the columns of `SKELETON`; the file of common features beside it (``common_features_<name>.csv``) those of
`COMMON`, one line an index. Both are read as streams: cells are cut by whole columns and become arrays of integers, so
that of the common features their arrays alone stay in memory, 4 bytes a feature that is asked for.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int64

from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SKELETON = ("sample_id", "click", "buy", "common_feature_index", "feature_num", "features")
COMMON = ("common_feature_index", "feature_num", "features")
CONSISTENT = "consistent"  # made here: "0" where something was bought without a click, else "1"
COMMON_FIELDS = frozenset(
    {"101", "121", "122", "124", "125", "126", "127", "128", "129", "109_14", "110_14", "127_14", "150_14"}
)
_COLUMN = re.compile(r"(?P<field>\d+(_\d+)?)(\[(?P<length>\d+)\])?(?P<value>:value)?")
_INDEX = "common_feature_index"
_CELL, _PAIR, _WEIGHT = "\x01", "\x02", "\x03"
_BLOCK = 1 << 22  # bytes


def common_file(skeleton: Path) -> Path:
    """The file of common features that belongs to a skeleton.

    >>> common_file(Path("sample_skeleton_test.csv")).name
    'common_features_test.csv'
    """
    return skeleton.with_name(skeleton.name.replace("sample_skeleton", "common_features"))


class Wanted(NamedTuple):
    """What a column is made of: features of `field`, the first `length` as a list, or (None) the first one, or its
    value.
    """

    field: str
    length: int | None
    value: bool

    @classmethod
    def of(cls, column: str) -> "Wanted":
        """The meaning of a column's name; `DataError` for a name that has none.

        >>> Wanted.of("109_14[20]"), Wanted.of("508:value").value
        (Wanted(field='109_14', length=20, value=False), True)
        """
        found = _COLUMN.fullmatch(column)
        if found is None or (found["length"] is not None and found["value"] is not None):
            raise DataError(
                f"no column {column!r} in packed files; there are {', '.join(SKELETON[:-1])}, {CONSISTENT}, "
                "and fields such as 205, 205:value (of its first feature) and 109_14[20] (its first 20 features)"
            )
        length = None if found["length"] is None else int(found["length"])
        return cls(found["field"], length, found["value"] is not None)


def read_packed(skeleton: Path, columns: Sequence[str]) -> Iterator["pa.RecordBatch"]:
    """Batches of a skeleton's own columns and of the fields that `columns` name (`Wanted`), those of `COMMON_FIELDS`
    from the common file beside it. Where a row has no feature of a field there is null, or an empty list.

    `DataError` for a file that is missing, a feature that is no whole number below 2**32, and an index that the common
    file lacks or has twice.
    """
    import pyarrow as pa

    fields = {name: Wanted.of(name) for name in columns if name not in (*SKELETON[:-1], CONSISTENT)}
    own = {name: wanted for name, wanted in fields.items() if wanted.field not in COMMON_FIELDS}
    shared = {name: wanted for name, wanted in fields.items() if wanted.field in COMMON_FIELDS}
    joined = _CommonFeatures.read(common_file(skeleton), shared) if shared else None
    first_row = 0
    for batch in _lines(skeleton, SKELETON):
        found = {name: batch.column(name) for name in SKELETON[:-1]}
        found[CONSISTENT] = _consistent(batch)
        found |= unpacked(batch.column("features"), own, f"{skeleton}, from row {first_row} on")
        if joined is not None:
            found |= joined.of(batch.column(_INDEX), skeleton, first_row)
        yield pa.record_batch([found[name] for name in columns], names=list(columns))
        first_row += batch.num_rows


def unpacked(cells: "pa.Array", columns: Mapping[str, Wanted], where: str) -> dict[str, "pa.Array"]:
    """The named columns of packed cells; `where` is for errors."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(cells)
    pieces = pc.split_pattern(cells.cast(pa.large_string()), _CELL)
    owners = np.repeat(np.arange(rows), pc.fill_null(pc.list_value_length(pieces), 0).to_numpy(zero_copy_only=False))
    flat = pieces.flatten()
    found: dict[str, pa.Array] = {}
    for field in dict.fromkeys(wanted.field for wanted in columns.values()):
        here = pc.starts_with(flat, pattern=field + _PAIR)
        features = pc.binary_replace_slice(flat.filter(here), start=0, stop=len(field) + 1, replacement="")
        parts = pc.split_pattern(features, _WEIGHT)
        places = owners[here.to_numpy(zero_copy_only=False)]
        first = np.unique(places, return_index=True)
        for name, wanted in columns.items():
            if wanted.field == field:
                found[name] = _column(wanted, parts, places, first, rows, where)
    return found


def _column(
    wanted: Wanted,
    parts: "pa.Array",
    places: Int64[np.ndarray, "cells"],
    first: tuple[np.ndarray, np.ndarray],
    rows: int,
    where: str,
) -> "pa.Array":
    """One column of `parts`, [feature, value] each, that belong to rows `places` (which rise)."""
    import pyarrow as pa

    if wanted.length is not None:
        rank = np.arange(len(places)) - np.repeat(first[1], np.diff(np.append(first[1], len(places))))
        kept = rank < wanted.length
        counts = np.bincount(places[kept], minlength=rows)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int64())
        return pa.LargeListArray.from_arrays(offsets, _features(parts.filter(pa.array(kept)), wanted, where))
    only = parts.take(pa.array(first[1]))
    values = _values(only, wanted, where) if wanted.value else _features(only, wanted, where)
    slots = np.full(rows, -1)
    slots[first[0]] = np.arange(len(only))
    return values.take(pa.array(slots, mask=slots < 0))


def _features(parts: "pa.Array", wanted: Wanted, where: str) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.list_element(parts, 0) if len(parts) else pa.array([], pa.large_string())
    try:
        return texts.cast(pa.uint32())
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where}: field {wanted.field!r}: a feature is no whole number below 2**32 ({error})"
        ) from error


def _values(parts: "pa.Array", wanted: Wanted, where: str) -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if not len(parts):
        return pa.array([], pa.float64())
    try:
        return pc.list_element(parts, 1).cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowIndexError) as error:
        raise DataError(f"{where}: field {wanted.field!r}: a value is missing or no number ({error})") from error


def _consistent(batch: "pa.RecordBatch") -> "pa.Array":
    import pyarrow.compute as pc

    bought_alone = pc.and_(pc.equal(batch.column("buy"), "1"), pc.equal(batch.column("click"), "0"))
    return pc.if_else(bought_alone, "0", "1")


@dataclass(frozen=True, eq=False)
class _CommonFeatures:
    """Columns of common features by index, as arrays."""

    path: Path
    keys: "pa.Array"
    columns: dict[str, "pa.Array"]

    @classmethod
    def read(cls, path: Path, columns: Mapping[str, Wanted]) -> "_CommonFeatures":
        import pyarrow as pa
        import pyarrow.compute as pc

        keys, pieces, row = [], [], 0
        for batch in _lines(path, COMMON):
            keys.append(batch.column(_INDEX))
            found = unpacked(batch.column("features"), columns, f"{path}, from row {row} on")
            pieces.append(pa.record_batch([found[name] for name in columns], names=list(columns)))
            row += batch.num_rows
        if not keys:
            raise DataError(f"{path}: no rows; the skeleton's rows have their common features here")
        index = pa.concat_arrays(keys)
        if pc.count_distinct(index).as_py() < len(index):
            counted = pc.value_counts(index)
            twice = counted.field(0).filter(pc.greater(counted.field(1), 1))[0].as_py()
            raise DataError(f"{path}: {_INDEX} {twice!r} has more than one line; it must name one")
        whole = pa.concat_batches(pieces)
        return cls(path, index, {name: whole.column(name) for name in columns})

    def of(self, index: "pa.Array", skeleton: Path, first_row: int) -> dict[str, "pa.Array"]:
        """The columns of the rows that have `index`."""
        import pyarrow.compute as pc

        places = pc.index_in(index, value_set=self.keys)
        if places.null_count:
            row = int(np.flatnonzero(places.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(
                f"{skeleton}: row {first_row + row} (counted from 0): {_INDEX} {index[row].as_py()!r} is not in "
                f"{self.path.name}; the two files must be of one release and whole"
            )
        return {name: values.take(places) for name, values in self.columns.items()}


def _lines(path: Path, names: tuple[str, ...]) -> Iterator["pa.RecordBatch"]:
    import pyarrow as pa
    import pyarrow.csv as csv

    if not path.is_file():
        raise DataError(f"{path}: no such file")
    read = csv.ReadOptions(column_names=list(names), block_size=_BLOCK, use_threads=False)
    parse = csv.ParseOptions(quote_char=False)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    try:
        with csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: not lines of {', '.join(names)} ({' '.join(str(error).split())})") from error
