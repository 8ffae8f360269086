"""Dataclass <-> JSON values, with the standard library alone.

`to_plain` turns a (nested) dataclass into dicts, lists and scalars. `from_plain` is its inverse and its gatekeeper:
unknown keys, missing keys and wrong types are `ConfigError`s that name the dotted path. A union of dataclasses is told
apart by the key ``kind``, which holds the class name without its trailing ``Config``.

>>> from dataclasses import dataclass
>>> @dataclass(frozen=True, kw_only=True, slots=True)
... class PointConfig:
...     x: int
...     y: float = 0.5
>>> to_plain(PointConfig(x=1))
{'x': 1, 'y': 0.5}
>>> from_plain(PointConfig, {"x": 3})
PointConfig(x=3, y=0.5)
>>> from_plain(PointConfig, {"x": 3, "yy": 1})
Traceback (most recent call last):
    ...
llm_rec.errors.ConfigError: yy: unknown key; did you mean 'y'?
"""

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from llm_rec.errors import ConfigError

T = TypeVar("T")
if TYPE_CHECKING:
    Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
else:  # checkers of types at run time resolve no recursive alias
    Plain = None | bool | int | float | str | list | dict

LATER = MappingProxyType({"later": True})
"""Metadata of a field that a config got after it was in use, with a default that keeps to what was done before: such a
field, left at its default, is not part of `identity`, so that what was made before is still known as the same."""


def kind_of(cls: type) -> str:
    """The tag of a dataclass inside a union: its name in snake case, without ``Config``."""
    name = cls.__name__.removesuffix("Config")
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def to_plain(value: object, *, tagged: bool = False) -> Plain:
    """JSON value of `value`; a dataclass in a union field carries its ``kind``."""
    return _plain(value, tagged=tagged, kept=lambda f, item: True)


def identity(value: object) -> Plain:
    """What `value` is made of, for fingerprints: `to_plain` with the ``kind``, without `LATER` fields at their default.

    >>> from dataclasses import dataclass, field
    >>> @dataclass(frozen=True, kw_only=True)
    ... class LossConfig:
    ...     weight: float = 1.0
    ...     margin: float = field(default=0.0, metadata=LATER)
    >>> identity(LossConfig()), identity(LossConfig(margin=0.5))
    ({'kind': 'loss', 'weight': 1.0}, {'kind': 'loss', 'weight': 1.0, 'margin': 0.5})
    """
    return _plain(value, tagged=True, kept=lambda f, item: not (f.metadata.get("later") and _is_default(f, item)))


def _plain(value: object, *, tagged: bool, kept: Callable[["Field[Any]", object], bool]) -> Plain:
    if is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Plain] = {"kind": kind_of(type(value))} if tagged else {}
        hints = _hints(type(value))
        for f in fields(value):
            item = getattr(value, f.name)
            if kept(f, item):
                plain[f.name] = _plain(item, tagged=_is_tagged(hints[f.name]), kept=kept)
        return plain
    if isinstance(value, Enum):
        return cast(Plain, value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, tagged=tagged, kept=kept) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item, tagged=tagged, kept=kept) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"cannot write a {type(value).__name__} as JSON")


def _is_default(f: "Field[Any]", value: object) -> bool:
    if f.default is not MISSING:
        return bool(value == f.default)
    return f.default_factory is not MISSING and bool(value == f.default_factory())


def from_plain(cls: type[T], plain: object, path: str = "") -> T:
    """Build `cls` from a JSON value; every error names the dotted path of the value that caused it."""
    return cast(T, _build(cls, plain, path))


def plain_numbers(values: np.ndarray | None) -> Plain:
    """An array of any number of axes as nested lists, None as it is; see `plain_number`."""
    if values is None:
        return None
    if values.ndim > 1:
        return [plain_numbers(row) for row in values]
    return [plain_number(value) for value in values.tolist()]


def plain_number(value: float | int) -> Plain:
    """The number, or an empty text where it is not finite: JSON has no NaN.

    >>> plain_number(0.5), plain_number(float("nan"))
    (0.5, '')
    """
    return value if math.isfinite(value) else ""


def fit_texts(hint: Any, texts: list[str], values: list[Plain], path: str) -> Plain:
    """The words of an option as the plain value that `hint` takes: what they say as JSON values, or texts as they are.

    Raises `ConfigError` when neither fits.

    >>> fit_texts(Path, ["7"], [7], "path"), fit_texts(int, ["7"], [7], "size")
    ('7', 7)
    """
    many: list[Plain] = list(texts)
    tries: list[Plain] = [values[0], texts[0], values, many] if len(texts) == 1 else [values, many]
    problems = []
    for plain in tries:
        try:
            _build(hint, plain, path)
        except ConfigError as error:
            problems.append(error)
        else:
            return plain
    raise problems[0]


def member_hints(cls: type, path: str, plain: Plain) -> dict[str, Any]:
    """Types of the settings at the dotted `path` of `cls`, members of unions chosen by the kinds that `plain` names.

    Empty where `path` leads to no dataclass; building `plain` then says why.
    """
    hint: Any = cls
    for key in path.split("."):
        hint = _hints(hint).get(key) if isinstance(hint, type) and is_dataclass(hint) else None
        plain = plain.get(key) if isinstance(plain, dict) else None
        kind = plain.get("kind") if isinstance(plain, dict) else None
        classes = [o for o in get_args(hint) if isinstance(o, type) and is_dataclass(o)] if hint else []
        if classes:
            hint = next((o for o in classes if kind_of(o) == kind or len(classes) == 1), None)
    return _hints(hint) if isinstance(hint, type) and is_dataclass(hint) else {}


def _build(hint: Any, plain: object, path: str) -> object:  # type hints are values without a common type
    origin = get_origin(hint)
    if hint is Any:
        return plain
    if isinstance(hint, type) and is_dataclass(hint):
        return _build_dataclass(hint, plain, path)
    if origin in (Union, types.UnionType):
        return _build_union(get_args(hint), plain, path)
    if origin is Literal:
        return _one_of(get_args(hint), plain, path)
    if origin in (tuple, list):
        return _build_sequence(origin, get_args(hint), plain, path)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return _build_mapping(get_args(hint), plain, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_one_of(tuple(member.value for member in hint), plain, path))
    return _build_scalar(hint, plain, path)


def _build_dataclass(cls: type, plain: object, path: str) -> object:
    if isinstance(plain, cls):
        return plain
    known = {f.name: f for f in fields(cls) if f.init}
    if not isinstance(plain, Mapping):
        keys = ", ".join(known) or "no keys"
        raise ConfigError(f"{path or cls.__name__}: expected settings of {cls.__name__} ({keys}), got {plain!r}")
    hints = _hints(cls)
    values = {}
    for key, item in plain.items():
        if key == "kind" and "kind" not in known:
            _one_of((kind_of(cls),), item, _join(path, "kind"))
            continue
        if key not in known:
            close = get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{_join(path, str(key))}: unknown key{hint}")
        values[str(key)] = _build(hints[str(key)], item, _join(path, str(key)))
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{_join(path, missing[0])}: missing; {cls.__name__} needs it")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}" if path else str(error)) from error


def _build_union(options: tuple[Any, ...], plain: object, path: str) -> object:
    if plain is None and type(None) in options:
        return None
    if type(plain) in options:  # exactly: in `float | str` a text of digits stays a text
        return plain
    options = tuple(o for o in options if o is not type(None))
    classes = {kind_of(o): o for o in options if isinstance(o, type) and is_dataclass(o)}
    if isinstance(plain, tuple(classes.values())):
        return plain
    if len(classes) > 1 and isinstance(plain, Mapping):
        kind = _one_of(tuple(classes), plain.get("kind"), _join(path, "kind"))
        return _build(classes[str(kind)], plain, path)
    problems = []
    for option in options:
        try:
            return _build(option, plain, path)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(problems[0] if len(problems) == 1 else f"{path}: {plain!r} fits none of {_names(options)}")


def _build_sequence(origin: Any, args: tuple[Any, ...], plain: object, path: str) -> object:
    if not isinstance(plain, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {plain!r}")
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        return origin(_build(args[0], item, f"{path}[{i}]") for i, item in enumerate(plain))
    if len(plain) != len(args):
        raise ConfigError(f"{path}: expected {len(args)} values, got {len(plain)}")
    return tuple(_build(arg, item, f"{path}[{i}]") for i, (arg, item) in enumerate(zip(args, plain, strict=True)))


def _build_mapping(args: tuple[Any, ...], plain: object, path: str) -> object:
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{path}: expected a mapping, got {plain!r}")
    return {str(key): _build(args[1], item, _join(path, str(key))) for key, item in plain.items()}


def _build_scalar(hint: Any, plain: object, path: str) -> object:
    if hint is Path and isinstance(plain, str | Path):
        return Path(plain)
    if hint is float and isinstance(plain, int | float) and not isinstance(plain, bool):
        return float(plain)
    if hint is float and isinstance(plain, str):  # YAML reads 1e-3 (no dot) as text
        try:
            return float(plain)
        except ValueError:
            pass
    if isinstance(hint, type) and isinstance(plain, hint) and (hint is bool) == isinstance(plain, bool):
        return plain
    raise ConfigError(f"{path}: expected {getattr(hint, '__name__', hint)}, got {plain!r}")


def _one_of(allowed: tuple[Any, ...], plain: object, path: str) -> object:
    if any(plain == item and isinstance(plain, bool) == isinstance(item, bool) for item in allowed):
        return plain
    close = get_close_matches(str(plain), [str(a) for a in allowed], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"{path}: {plain!r} is not one of {', '.join(repr(a) for a in allowed)}{hint}")


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _is_tagged(hint: Any) -> bool:
    """Whether a field's type is a union of several dataclasses, directly or inside lists, mappings and options."""
    is_union = get_origin(hint) in (Union, types.UnionType)
    if is_union and sum(isinstance(o, type) and is_dataclass(o) for o in get_args(hint)) > 1:
        return True
    return get_origin(hint) is not Literal and any(_is_tagged(arg) for arg in get_args(hint))


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _names(options: tuple[Any, ...]) -> str:
    return ", ".join(getattr(o, "__name__", str(o)) for o in options)
