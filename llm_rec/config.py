"""Settings of a job: preset, then YAML files, then the command line, each over the one before; nothing is ignored.

A job is a frozen dataclass (see `llm_rec.recipes`). Every source of settings goes through `llm_rec.codec.from_plain`,
so an unknown key is an error with a suggestion wherever it stands, and every effective value has one origin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import tyro
import yaml

from llm_rec.codec import Plain, fit_texts, from_plain, member_hints, to_plain
from llm_rec.errors import ConfigError

Job = TypeVar("Job")


@dataclass(frozen=True)
class Settings(Generic[Job]):
    """A job with the origin of each of its values: ``default``, a preset, a file, or ``command line``."""

    job: Job
    origins: dict[str, str]


def read_settings(
    cls: type[Job], argv: Sequence[str], *, presets: Mapping[str, Job], program: str, description: str
) -> Settings[Job]:
    """Settings of job type `cls` from command line words; --preset and --config may stand anywhere.

    The first preset is the default. Raises `ConfigError`; exits like any command line on --help and unknown options.
    """
    words, files, preset = _take_sources(argv)
    name = preset if preset is not None else next(iter(presets))
    if name not in presets:
        raise ConfigError(f"--preset: {name!r} is not one of {', '.join(presets)}")
    origin = "default" if preset is None else f"preset {name}"
    plain = to_plain(presets[name], tagged=False)
    origins = dict.fromkeys(flatten(plain), origin)
    for file in files:
        given = _read_yaml(file)
        plain = _merge(plain, given)
        origins = {key: origins.get(key, origin) for key in flatten(plain)}
        origins.update(dict.fromkeys(flatten(given), str(file)))
    kinds, words = _take_kinds(words)
    for key, kind in kinds.items():
        given = _nested(key, kind)
        plain = _merge(plain, given)
        origins = {leaf: origins.get(leaf, origin) for leaf in flatten(plain)} | {key: "command line"}
    for key in kinds:
        given, words = _take_members(cls, key.removesuffix(".kind"), plain, words)
        plain = _merge(plain, given)
        origins.update(dict.fromkeys(flatten(given), "command line"))
    before = from_plain(cls, plain)
    job = tyro.cli(
        cls,
        args=words,
        default=before,
        prog=program,
        config=(tyro.conf.AvoidSubcommands,),
        description=(
            f"{description}\n\nAlso: --config FILE (YAML, repeatable), --preset {{{','.join(presets)}}}, and "
            "--PART.kind KIND where a part has several kinds (its settings then start from their defaults)."
        ),
    )
    old, new = flatten(to_plain(before)), flatten(to_plain(job))
    typed = {word.split("=")[0].removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    for key in new:
        if old.get(key) != new[key] or key in typed:
            origins[key] = "command line"
        origins.setdefault(key, origin)
    return Settings(job=job, origins={key: origins[key] for key in new})


def to_yaml(job: object, origins: Mapping[str, str] | None = None) -> str:
    """The settings as YAML; with `origins`, each value is followed by where it came from."""
    plain = to_plain(job)
    if origins is None:
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return "\n".join(_annotated(plain, origins, "", 0)) + "\n"


def flatten(plain: Plain, path: str = "") -> dict[str, Plain]:
    """Dotted path -> scalar or list, for every leaf of a nested mapping.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': [2]}
    """
    if not isinstance(plain, dict) or not plain:
        return {path: plain} if path else {}
    leaves: dict[str, Plain] = {}
    for key, value in plain.items():
        leaves.update(flatten(value, f"{path}.{key}" if path else key))
    return leaves


def _take_sources(argv: Sequence[str]) -> tuple[list[str], list[Path], str | None]:
    """Split ``--config`` and ``--preset`` (both also in the form ``--x=value``) from the other words."""
    words: list[str] = []
    files: list[Path] = []
    preset: str | None = None
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        option, equals, value = word.partition("=")
        if option not in ("--config", "--preset"):
            words.append(word)
            continue
        if not equals:
            if not queue:
                raise ConfigError(f"{option}: needs a value")
            value = queue.pop(0)
        if option == "--config":
            files.append(Path(value))
        else:
            preset = value
    return words, files, preset


def _take_kinds(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Split ``--part.kind NAME`` from the other words: which kind a part is must be known before its options are."""
    kinds: dict[str, str] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        option, equals, value = word.partition("=")
        if not (option.startswith("--") and option.endswith(".kind")):
            rest.append(word)
            continue
        if not equals:
            if not queue:
                raise ConfigError(f"{option}: needs a value")
            value = queue.pop(0)
        kinds[option.removeprefix("--").replace("-", "_")] = value.replace("-", "_")
    return kinds, rest


def _take_members(cls: type, part: str, plain: Plain, words: Sequence[str]) -> tuple[dict[str, Plain], list[str]]:
    """Split ``--part.name VALUE ...`` from the other words, for a part whose kind was just named.

    Its settings without a default must be known before the rest is read. Switches stay (``--part.no-name``).
    """
    hints = member_hints(cls, part, plain)
    found: dict[str, Plain] = {}
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        option, equals, value = word.partition("=")
        head, _, name = option.removeprefix("--").replace("-", "_").rpartition(".")
        if not option.startswith("--") or head != part or name not in hints or hints[name] is bool:
            rest.append(word)
            continue
        texts = [value] if equals else []
        while not equals and queue and not queue[0].startswith("--"):
            texts.append(queue.pop(0))
        if not texts:
            raise ConfigError(f"{option}: needs a value")
        found[name] = fit_texts(hints[name], texts, [_scalar(text) for text in texts], f"{part}.{name}")
    return (_nested(part, found) if found else {}), rest


def _scalar(text: str) -> Plain:
    """What a word says as YAML; a text where it says nothing else."""
    try:
        value: Plain = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value


def _nested(key: str, value: Plain) -> dict[str, Plain]:
    """``a.b`` and a value as ``{"a": {"b": value}}``."""
    head, dot, rest = key.partition(".")
    return {head: _nested(rest, value) if dot else value}


def _read_yaml(path: Path) -> dict[str, Plain]:
    if not path.is_file():
        raise ConfigError(f"--config: no file {path}")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(value).__name__}")
    return value


def _merge(base: Plain, over: Plain) -> Plain:
    """`over` on top of `base`. A mapping that names another ``kind`` replaces instead of mixing two kinds' settings;
    one whose keys are numbers changes these entries of a list.
    """
    if isinstance(base, list) and isinstance(over, dict) and over and all(key.isdecimal() for key in over):
        entries: list[Plain] = list(base)
        for key, value in over.items():
            if int(key) >= len(entries):
                raise ConfigError(f"entry {key} of {len(entries)}: there is none; entries are counted from 0")
            entries[int(key)] = _merge(entries[int(key)], value)
        return entries
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    if "kind" in over and over["kind"] != base.get("kind"):
        return over
    return {**base, **{key: _merge(base.get(key), value) for key, value in over.items()}}


def _annotated(plain: Plain, origins: Mapping[str, str], path: str, depth: int) -> list[str]:
    lines: list[str] = []
    for key, value in plain.items() if isinstance(plain, dict) else ():
        here = f"{path}.{key}" if path else key
        indent = "  " * depth
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_annotated(value, origins, here, depth + 1)]
        else:
            text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
            lines.append(f"{indent}{key}: {text}  # {origins.get(here, 'default')}")
    return lines
