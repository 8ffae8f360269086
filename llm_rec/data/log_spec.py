"""What a user says of a click log: its files, which column becomes which field, labels, groups, and the three parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from ctr_models.encode import (
    EncoderConfig,
    HashConfig,
    LogBinsConfig,
    MultiValueConfig,
    VocabularyConfig,
)

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class TableFile:
    """A parquet or csv file and, when files are parts, the part it holds.

    `form` None: by the name of the file (.gz is fine). A csv file without a header line has its columns in `names`.
    `delimiter` None: a tab in a .tsv file, else a comma. `ali_ccp` is a skeleton of packed features
    (`llm_rec.data.ali_ccp_files`), read with the common features that lie beside it.
    """

    path: Path
    part: Part | None = None
    names: tuple[str, ...] = ()
    delimiter: str | None = None
    form: Literal["parquet", "csv", "ali_ccp"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSpec:
    """The field `name`, made from the raw column `column` (None: of the same name) by an encoder.

    Fields with one `table` share ids and rows: their vocabulary is fitted on all their columns together.
    """

    name: str
    encoder: EncoderConfig
    column: str | None = None
    table: str | None = None

    @property
    def source(self) -> str:
        return self.column or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSpec:
    """A label: a column of numbers in 0..1, or with `equals`, 1 where the column's text is that and 0 elsewhere."""

    name: str = "label"
    column: str | None = None
    equals: str | None = None

    @property
    def source(self) -> str:
        return self.column or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class ByColumnConfig:
    """A column says the part of each row; an empty tuple means that there is no such part."""

    column: str = "split"
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ("validation",)
    test: tuple[str, ...] = ("test",)

    def __post_init__(self) -> None:
        values = [*self.train, *self.validation, *self.test]
        if len(set(values)) < len(values):
            raise ValueError(f"a value of column {self.column!r} must stand for one part, got {values}")
        if not self.train:
            raise ValueError("train must name at least one value")

    def values(self, part: Part) -> tuple[str, ...]:
        """The values that stand for `part`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


@dataclass(frozen=True, kw_only=True, slots=True)
class ByFractionsConfig:
    """Rows go to the parts at random: a pure function of (seed, number of the row), about these fractions of all."""

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise ValueError(
                "validation and test must not be negative and leave rows to train on, "
                f"got {self.validation} and {self.test}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ByFilesConfig:
    """Every file is (a piece of) a part. `validation` moves that fraction of the train rows, drawn as by fractions."""

    validation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must lie in 0..1 and leave rows to train on, got {self.validation}")


PartsConfig = ByColumnConfig | ByFractionsConfig | ByFilesConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepRows:
    """Rows whose `column` has one of `values` as its text; all others are left out of the log."""

    column: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"keep rows by column {self.column!r}: name at least one value")


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedTable:
    """A file with one row a user or an item, whose `columns` are added to the rows that have its `key`.

    `key` is a column of the rows and of the file; in the file it may be called `key_there`. Rows whose key the file
    lacks get null. The file is held in memory.
    """

    file: TableFile
    key: str
    columns: tuple[str, ...]
    key_there: str | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError(f"{self.file.path}: name at least one column to join")
        if self.key in self.columns:
            raise ValueError(f"{self.file.path}: the key {self.key!r} is a column of the rows already; leave it out")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSpec:
    """Fields in order, labels, how rows are parted, and the column whose equal values are one group (a user).

    `weight` names a column of numbers of at least 0: the weights of the rows in the loss of training.
    `domain` names the field whose values are domains: it needs a vocabulary of all its train values, and a row of any
    other value is refused. `keep` leaves rows out, all filters must agree; `joins` are tables of users and items.
    """

    columns: tuple[ColumnSpec, ...]
    parts: PartsConfig
    labels: tuple[LabelSpec, ...] = (LabelSpec(),)
    group: str | None = None
    weight: str | None = None
    domain: str | None = None
    keep: tuple[KeepRows, ...] = ()
    joins: tuple[JoinedTable, ...] = ()

    def __post_init__(self) -> None:
        names = [*(column.name for column in self.columns), *(label.name for label in self.labels)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two columns are called {repeated[0]!r}; rename one")
        if not self.columns or not self.labels:
            raise ValueError("columns and labels need at least one entry each")
        if self.domain is not None:
            check_domain(self.domain, self.columns)
        self._check_joins()
        tables: dict[str, ColumnSpec] = {}
        for column in self.columns:
            if column.table is not None:
                _check_shared(tables.setdefault(column.table, column), column)

    def _check_joins(self) -> None:
        joined = [name for table in self.joins for name in table.columns]
        repeated = sorted({name for name in joined if joined.count(name) > 1})
        if repeated:
            raise ValueError(f"column {repeated[0]!r} is joined from two tables; leave it out of one")

    @property
    def sources(self) -> list[str]:
        """The raw columns that are read from the files of rows, each once."""
        group = [name for name in (self.group, self.weight) if name]
        by = [self.parts.column] if isinstance(self.parts, ByColumnConfig) else []
        named = [*(column.source for column in self.columns), *(label.source for label in self.labels)]
        joined = {name for table in self.joins for name in table.columns}
        kept = [kept.column for kept in self.keep]
        own = [name for name in (*named, *group, *by, *kept) if name not in joined]
        return list(dict.fromkeys([*own, *(table.key for table in self.joins)]))


class ClickSource(NamedTuple):
    """Raw files and what they mean: what `encode_log` takes."""

    files: tuple[TableFile, ...]
    spec: LogSpec


def check_domain(domain: str, columns: Sequence[ColumnSpec]) -> None:
    """`ValueError` unless `domain` names one of `columns` that gives every value an id."""
    found = [column for column in columns if column.name == domain]
    if not found:
        raise ValueError(f"domain names {domain!r}, which is no field; there are {[c.name for c in columns]}")
    encoder = found[0].encoder
    if not isinstance(encoder, VocabularyConfig) or encoder.min_count > 1 or encoder.max_size is not None:
        raise ValueError(
            f"the domain {domain!r} needs a vocabulary of all its values (min_count 1, no max_size), got {encoder}"
        )
    if found[0].table is not None:
        raise ValueError(f"the domain {domain!r} needs a table of its own, got table {found[0].table!r}")


def _check_shared(first: ColumnSpec, other: ColumnSpec) -> None:
    if _identity(first.encoder) is None or _identity(first.encoder) != _identity(other.encoder):
        raise ValueError(
            f"fields {first.name!r} and {other.name!r} cannot share table {first.table!r}; give them vocabularies "
            "(or lists of one) with equal min_count and max_size, equal log bins, or equal hashes"
        )


def _identity(encoder: EncoderConfig) -> tuple[str | int | None, ...] | None:
    """What must be equal for two encoders to give equal ids; None for encoders without a table to share."""
    if isinstance(encoder, VocabularyConfig | MultiValueConfig):
        return ("vocabulary", encoder.min_count, encoder.max_size)
    if isinstance(encoder, LogBinsConfig):
        return ("log_bins", encoder.min_count)
    return ("hash", encoder.buckets, encoder.seed) if isinstance(encoder, HashConfig) else None
