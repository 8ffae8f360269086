"""What a row of a click log holds: typed fields, their sizes, and where each lies in the arrays of a batch.

A schema describes encoded rows. How raw columns become ids is `ctr_models.encode`; both are fitted on training rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

PADDING, UNKNOWN = 0, 1  # ids of every field with a table: nothing here (a zero vector), and not in the vocabulary
RESERVED = 2  # ids before the first value of a vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Categorical:
    """One id a row. `size` counts ids, padding and unknown among them. Fields that name one `table` share its rows."""

    name: str
    size: int
    table: str | None = None

    def __post_init__(self) -> None:
        _check_size(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiValue:
    """Up to `length` ids a row, padded on the right with 0; one vector comes of them by `pooling`."""

    name: str
    size: int
    length: int
    pooling: Literal["mean", "sum"] = "mean"
    table: str | None = None

    def __post_init__(self) -> None:
        _check_size(self)
        if self.length < 1:
            raise ValueError(f"field {self.name!r}: length must be at least 1, got {self.length}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric:
    """One finite number a row, used as it is: its vector is the number times a learned vector."""

    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Dense:
    """A given vector of `width` numbers a row."""

    name: str
    width: int

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"field {self.name!r}: width must be at least 1, got {self.width}")


IdField: TypeAlias = Categorical | MultiValue
Field: TypeAlias = Categorical | MultiValue | Numeric | Dense


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The fields of a row in order, its labels (numbers in 0..1), and the column that groups rows (a user), if any.

    `history` names the categorical fields that past events of the user have too, the one that tells events apart (the
    item) first; empty when rows have no past. A field and its past share one vocabulary.

    `domain` names the categorical field whose values are domains (a page, a market): value v of its vocabulary, id
    RESERVED + v, is domain v.
    """

    fields: tuple[Field, ...]
    labels: tuple[str, ...] = ("label",)
    group: str | None = None
    history: tuple[str, ...] = ()
    domain: str | None = None

    def __post_init__(self) -> None:
        names = [*(field.name for field in self.fields), *self.labels]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two columns are called {repeated[0]!r}; rename one")
        if not self.fields:
            raise ValueError("a schema needs at least one field")
        if not self.labels:
            raise ValueError("a schema needs at least one label")
        self._check_history()
        self._check_domain()
        for first in self.id_fields:
            for other in self.id_fields:
                if first.table is not None and first.table == other.table and first.size != other.size:
                    raise ValueError(
                        f"fields {first.name!r} and {other.name!r} share table {first.table!r} but their sizes are "
                        f"{first.size} and {other.size}; give them one vocabulary"
                    )

    def _check_history(self) -> None:
        known = {field.name for field in self.fields if isinstance(field, Categorical)}
        for place, name in enumerate(self.history):
            if name not in known:
                raise ValueError(f"history names {name!r}, which is no categorical field; there are {sorted(known)}")
            if name in self.history[:place]:
                raise ValueError(f"history names {name!r} twice")

    def _check_domain(self) -> None:
        known = {field.name for field in self.fields if isinstance(field, Categorical)}
        if self.domain is not None and self.domain not in known:
            raise ValueError(f"domain names {self.domain!r}, which is no categorical field; there are {sorted(known)}")

    @property
    def num_domains(self) -> int:
        """How many values the vocabulary of `domain` has; 1 where rows have no domain."""
        return next((field.size - RESERVED for field in self.id_fields if field.name == self.domain), 1)

    @property
    def history_columns(self) -> tuple[int, ...]:
        """Where the candidate's ids of the `history` fields lie among the columns of `FeatureBatch.ids`."""
        return tuple(self.id_columns[name].start for name in self.history)

    @cached_property
    def id_fields(self) -> tuple[IdField, ...]:
        """Fields read from tables, in order."""
        return tuple(field for field in self.fields if isinstance(field, Categorical | MultiValue))

    @cached_property
    def id_columns(self) -> dict[str, slice]:
        """Where each id field lies among the columns of `FeatureBatch.ids`."""
        return _slices((field.name, field.length if isinstance(field, MultiValue) else 1) for field in self.id_fields)

    @cached_property
    def number_columns(self) -> dict[str, int]:
        """Where each numeric field lies among the columns of `FeatureBatch.numbers`."""
        names = [field.name for field in self.fields if isinstance(field, Numeric)]
        return {name: column for column, name in enumerate(names)}

    @cached_property
    def dense_columns(self) -> dict[str, slice]:
        """Where each dense field lies among the columns of `FeatureBatch.dense`."""
        return _slices((field.name, field.width) for field in self.fields if isinstance(field, Dense))


def _slices(widths: Iterator[tuple[str, int]]) -> dict[str, slice]:
    slices: dict[str, slice] = {}
    start = 0
    for name, width in widths:
        slices[name] = slice(start, start + width)
        start += width
    return slices


def _check_size(field: IdField) -> None:
    if field.size <= RESERVED:
        raise ValueError(
            f"field {field.name!r}: size must be above {RESERVED} (padding, unknown, values), got {field.size}"
        )
