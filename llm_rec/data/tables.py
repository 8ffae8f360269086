"""Reading tables, and the checks at their edge: an error names the file, the column, the first bad rows and the repair.

This module imports pandas; the rest of `llm_rec.data` imports it only inside the functions that need it.
"""

import gzip
import html
import json
from collections.abc import Iterable, Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from string import Formatter
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64

from llm_rec.errors import DataError

FileFormat = Literal["parquet", "csv", "jsonl"]
_SUFFIXES: dict[str, FileFormat] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_SHOWN = 5  # bad rows that an error message lists
_EXACT = 2.0**53  # floats beyond this no longer tell neighbouring integers apart
_TIMES = "give every row a number, a datetime or an ISO 8601 text such as 2024-05-31T12:00:00"
_Scalar = str | int | float | np.integer | np.floating


def file_format(path: Path) -> FileFormat:
    """The format a file name stands for (a trailing .gz is fine for csv and jsonl)."""
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    found = _SUFFIXES.get(suffixes[-1].lower()) if suffixes else None
    if found is None:
        raise DataError(f"{path}: cannot tell the format by the name; use one of {', '.join(_SUFFIXES)}")
    return found


def read_table(
    path: Path, form: FileFormat, columns: Sequence[str] | None = None, ids: Sequence[str] = ()
) -> pd.DataFrame:
    """Read `columns` (None: all). In text formats `ids` stay text, so that 007 is not 7, and only "" is null.

    A csv file is comma separated, a .tsv file tab separated. Raises `DataError` when the file is missing, not readable
    as `form`, or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        match form:
            case "parquet":
                if columns is not None:
                    require_columns(pq.read_schema(path).names, columns, str(path))
                return pd.read_parquet(path, columns=None if columns is None else list(dict.fromkeys(columns)))
            case "csv":
                frame = _read_csv(path, ids)
            case "jsonl":
                frame = _read_jsonl(path)
    except DataError:
        raise
    except (ValueError, OSError, EOFError) as error:  # what pandas, pyarrow, gzip and utf-8 raise on foreign bytes
        raise DataError(f"{path}: not readable as {form} ({_one_line(error)})") from error
    if columns is None:
        return frame
    require_columns(frame.columns, columns, str(path))
    return frame[list(dict.fromkeys(columns))]


def _read_csv(path: Path, ids: Sequence[str]) -> pd.DataFrame:
    return pd.read_csv(
        path,
        sep="\t" if ".tsv" in path.suffixes else ",",
        dtype=dict.fromkeys(ids, "str"),
        keep_default_na=False,
        na_values=[""],
        low_memory=False,
    )


def _read_jsonl(path: Path) -> pd.DataFrame:
    """One object a line, values as JSON has them: nothing is guessed to be a date or a number."""
    rows = []
    packed = path.suffix == ".gz"
    with gzip.open(path, "rt", encoding="utf-8-sig") if packed else path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is not JSON ({error}); repair or remove it") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}: line {number} holds a {type(row).__name__}, expected one JSON object a line")
            rows.append(row)
    return pd.DataFrame(rows)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def require_columns(present: Iterable[object], needed: Iterable[str], where: str) -> None:
    """Raise `DataError` for the first column that is not there, with the closest name that is."""
    names = [str(name) for name in present]
    for column in needed:
        if column not in names:
            close = get_close_matches(column, names, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{where}: no column {column!r}{hint} (columns: {', '.join(names)})")
        if names.count(column) > 1:
            raise DataError(f"{where}: {names.count(column)} columns are called {column!r}; rename all but one")


def refuse_rows(bad: np.ndarray, values: Sequence[object] | pd.Series, what: str, fix: str) -> None:
    """Raise `DataError` listing the first rows where `bad` is True; silent when there is none."""
    rows = np.flatnonzero(bad)
    if not len(rows):
        return
    column = (
        values.iloc[rows[:_SHOWN]].tolist() if isinstance(values, pd.Series) else [values[r] for r in rows[:_SHOWN]]
    )
    shown = ", ".join(f"row {row}: {value!r}" for row, value in zip(rows[:_SHOWN].tolist(), column, strict=True))
    more = ", ..." if len(rows) > _SHOWN else ""
    raise DataError(f"{what} in {len(rows)} of {len(bad)} rows, counted from 0 ({shown}{more}); {fix}")


def id_strings(column: pd.Series, where: str) -> list[str]:
    """Ids as text: 7, 7.0 and "7" all become "7". Nulls, empty texts, fractions and other types are errors."""
    name = f"{where}: column {str(column.name)!r}"
    null = column.isna().to_numpy(dtype=bool)
    refuse_rows(null, column, f"{name}: null id", "remove or fill these rows")
    kind = "integer" if pd.api.types.is_integer_dtype(column.dtype) else pd.api.types.infer_dtype(column, skipna=False)
    match kind:
        case "string":
            texts = [str(value) for value in column.tolist()]
            empty = np.fromiter((not text.strip() for text in texts), dtype=bool, count=len(texts))
            refuse_rows(empty, column, f"{name}: empty id", "remove or fill these rows")
            return texts
        case "integer":
            return [str(value) for value in column.tolist()]
        case "floating" | "mixed-integer-float":
            numbers = column.to_numpy(dtype=np.float64)
            inexact = (numbers != np.floor(numbers)) | (np.abs(numbers) >= _EXACT)
            refuse_rows(inexact, column, f"{name}: id is not a whole number", "write ids as text or integers")
            return [str(value) for value in numbers.astype(np.int64).tolist()]
        case "mixed-integer":
            other = np.fromiter((not isinstance(v, str | int | np.integer) for v in column), bool, len(column))
            refuse_rows(other, column, f"{name}: id is neither text nor integer", "write all ids as text")
            return [str(value) for value in column.tolist()]
        case "categorical":
            return id_strings(pd.Series(column.astype(column.cat.categories.dtype), name=column.name), where)
        case _:
            raise DataError(f"{name}: ids must be text or integers, got {kind} values such as {column.iloc[0]!r}")


def repeated(ids: Sequence[str]) -> Bool[np.ndarray, "rows"]:
    """True where an id occurred before."""
    return pd.Series(ids, dtype=object).duplicated().to_numpy(dtype=bool)


def factorise_ids(column: pd.Series, where: str) -> tuple[Int64[np.ndarray, "rows"], list[str]]:
    """(code of each row, distinct ids as text in order of first appearance)."""
    name = f"{where}: column {str(column.name)!r}"
    refuse_rows(column.isna().to_numpy(dtype=bool), column, f"{name}: null id", "remove or fill these rows")
    codes, raw = pd.factorize(column)
    try:
        raw_ids = id_strings(pd.Series(raw, name=column.name), where)
    except DataError:
        id_strings(column, where)  # the same error, with the rows of the table
        raise
    merged, ids = pd.factorize(np.array(raw_ids, dtype=object))  # 7 and "7" are one id
    return merged[codes].astype(np.int64), list(ids)


def clean_texts(column: pd.Series) -> list[str]:
    """Cells as text: null is "", lists are joined with commas, 1999.0 is 1999, HTML entities become characters."""
    values = column
    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        numbers = numbers[~np.isnan(numbers)]
        if (numbers == np.floor(numbers)).all() and (np.abs(numbers) < _EXACT).all():
            values = values.astype("Int64")
    return [_clean(_cell(value)) for value in values.astype(object).tolist()]


def _cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | np.ndarray):
        return ", ".join(cell for cell in (_cell(part) for part in value) if cell)
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(value)


def _clean(text: str) -> str:
    """Entities unescaped once, white space of any kind made single blanks, halves of surrogate pairs replaced."""
    if "&" in text:
        text = html.unescape(text)
    text = " ".join(text.split())
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def template_columns(text: str | Sequence[str]) -> list[str]:
    """Columns that a text template, a column name or a list of columns reads.

    >>> template_columns("{title} by {brand}"), template_columns("title"), template_columns(["title", "brand"])
    (['title', 'brand'], ['title'], ['title', 'brand'])
    """
    if not isinstance(text, str):
        if not text:
            raise DataError("text: the list of columns is empty; name at least one")
        return list(text)
    if "{" not in text and "}" not in text:
        return [text]
    names = []
    for name, spec, conversion in _fields(text):
        if not name or spec or conversion or set(name) & set(".[]"):
            raise DataError(f"text template {text!r}: {{{name}}} must be a plain column name, as in {{title}}")
        names.append(name)
    if not names:
        raise DataError(f"text template {text!r} names no column; write one as {{title}}")
    return names


def _fields(template: str) -> list[tuple[str, str, str]]:
    return [(name, spec or "", conversion or "") for _, name, spec, conversion in _parse(template) if name is not None]


def _parse(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(template))
    except ValueError as error:
        raise DataError(f"text template {template!r}: {error}; write columns as {{title}}") from error


def render_texts(frame: pd.DataFrame, text: str | Sequence[str]) -> list[str]:
    """One text a row. A template is filled in; several columns are joined with ". ", without the empty ones."""
    cells = {name: clean_texts(frame[name]) for name in template_columns(text)}
    rows = zip(*cells.values(), strict=True)
    if not isinstance(text, str) or "{" not in text:
        return [". ".join(piece for piece in row if piece) for row in rows]
    slots = {name: slot for slot, name in enumerate(cells)}
    parts = [(literal, -1 if name is None else slots[name]) for literal, name, *_ in _parse(text)]
    return [
        _clean_blanks("".join(literal + ("" if slot < 0 else row[slot]) for literal, slot in parts)) if any(row) else ""
        for row in rows
    ]


def _clean_blanks(text: str) -> str:
    return " ".join(text.split())


def numbers_of(column: pd.Series, where: str, what: str) -> Float64[np.ndarray, "rows"] | Int64[np.ndarray, "rows"]:
    """Finite numbers of a column (integers stay exact); text that spells numbers is fine."""
    name = f"{where}: column {str(column.name)!r}"
    fix = f"{what} must be a number in every row"
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_datetime64_any_dtype(column.dtype):
        raise DataError(f"{name}: {what} must be numbers, got {column.dtype}")
    numbers = pd.to_numeric(column, errors="coerce")
    missing = numbers.isna().to_numpy(dtype=bool)
    refuse_rows(missing, column, f"{name}: not a number", fix)
    if pd.api.types.is_integer_dtype(numbers.dtype):
        return numbers.to_numpy(dtype=np.int64)
    values = numbers.to_numpy(dtype=np.float64)
    refuse_rows(~np.isfinite(values), column, f"{name}: not finite", fix)
    return values


class ClockTimes(NamedTuple):
    """Times to sort by, and how many of their ticks make one unit of what is stored."""

    ticks: Float64[np.ndarray, "rows"] | Int64[np.ndarray, "rows"]
    per_unit: int

    def stored(self) -> Int64[np.ndarray, "rows"]:
        """Whole units, rounded down."""
        units: np.ndarray = np.floor(self.ticks) if self.ticks.dtype.kind == "f" else self.ticks // self.per_unit
        return units.astype(np.int64)


def times_of(column: pd.Series, where: str) -> ClockTimes:
    """Clock times as numbers: numbers keep their own unit; datetimes and ISO 8601 texts become Unix seconds (UTC)."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _datetimes(column, column, where)
    is_number = pd.to_numeric(column, errors="coerce").notna()
    if pd.api.types.is_numeric_dtype(column.dtype) or is_number.all():
        return ClockTimes(numbers_of(column, where, "time"), 1)
    readable = column.map(lambda value: value if isinstance(value, str | date) else None).astype(object)
    times = pd.to_datetime(readable, format="ISO8601", utc=True, errors="coerce")
    if is_number.sum() > times.notna().sum():
        what = f"{where}: column {str(column.name)!r}: not a number like most times"
        refuse_rows(~is_number.to_numpy(dtype=bool), column, what, _TIMES)
    return _datetimes(times, column, where)


def _datetimes(times: pd.Series, column: pd.Series, where: str) -> ClockTimes:
    name = f"{where}: column {str(column.name)!r}"
    refuse_rows(times.isna().to_numpy(dtype=bool), column, f"{name}: not a time", _TIMES)
    naive = times if times.dt.tz is None else times.dt.tz_convert("UTC").dt.tz_localize(None)
    ticks = naive.to_numpy()
    one_second = np.array(1, dtype="timedelta64[s]").astype(ticks.dtype.str.replace("M8", "m8"))
    return ClockTimes(ticks.astype(np.int64), int(one_second.astype(np.int64)))
