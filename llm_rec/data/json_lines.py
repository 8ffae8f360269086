"""Files with one object a line, in JSON or as Python literals, packed by gzip or plain: read as a stream, checked."""

import ast
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from llm_rec.errors import DataError

_GZIP = b"\x1f\x8b"
_WHOLE = re.compile(r"\s*-?[0-9]{1,18}\s*")


def json_records(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Number (from 1) and object of every line that is not blank. A line that is no JSON may be a Python literal, as
    some public files have; literals are parsed and never executed.

    `DataError` naming the line for what is neither or no object, and for a missing, damaged or cut file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open("rb") as start:
        packed = start.read(2) == _GZIP
    number = 0
    try:
        with gzip.open(path) if packed else path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _record(path, number, line)
    except EOFError as error:
        raise DataError(f"{path}: ends in the middle, after line {number}; the file is cut, get it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged after line {number} ({error}); get the file again") from error


def text_of(record: dict[str, object], name: str, where: str) -> str:
    """A text or whole number that must be there, as text."""
    value = record.get(name)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{where}: {_lacking(record, name)} must be a text")


def number_of(record: dict[str, object], name: str, where: str) -> float | int:
    """A number below 2**63 that must be there; text that spells a whole one is fine."""
    value = record.get(name)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    raise DataError(f"{where}: {_lacking(record, name)} must be a number")


def _lacking(record: dict[str, object], name: str) -> str:
    if name in record:
        return f"{name!r} is {record[name]!r}, but"
    return f"no {name!r} (there are {', '.join(sorted(record)) or 'no names at all'}), which"


def _record(path: Path, number: int, line: bytes) -> dict[str, object]:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {number} is not utf-8 ({error.reason}); repair or remove it") from error
    found = _parsed(path, number, text.strip())
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path}: line {number} holds a {type(found).__name__}, expected one object with named values")
    return found


def _parsed(path: Path, number: int, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{path}: line {number} is neither JSON nor a Python literal ({type(error).__name__}); repair or remove it"
        ) from error
