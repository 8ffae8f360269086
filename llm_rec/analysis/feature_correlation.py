"""Feature correlation of a click log: what fields, and pairs of them, say about the label, and about each other.

The first of the three analysis tools of arXiv 2403.00793, which names mutual information and no estimator; ours are
those of `llm_rec.analysis.mutual_information`, in nats: as counted in train rows, which rises with the number of values
from sparsity alone, corrected for that (Miller-Madow), and held out, the gain in log loss on rows that were not
counted. Trust the last: an id with a value a row says all of the label in sample and nothing held out.

Between fields it is 2 I(A; B) / (H(A) + H(B)), beside what the same values give when one field is shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ctr_models.schema import Categorical, Dense, Field, MultiValue, Numerals, Numeric, Schema
from llm_rec.analysis.mutual_information import Cells, held_out_information, miller_madow, mutual_information
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.data.log_spec import Part
from llm_rec.errors import ConfigError, DataError
from semantic_ids.health import entropy

_BINS = 20  # of numbers, by equal training frequency
_DENSE_CELLS = 4  # a table of at most so many cells a row is counted without sorting


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCorrelationConfig:
    """`pairs` is how many pairs of fields are reported, those of the most held-out information (0: none are looked at).

    At most `max_rows` rows of a part are read, a random share drawn by `seed`. `label` None is the first one.
    """

    label: str | None = None
    pairs: int = 0
    max_rows: int = 200_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 0 or self.max_rows < 1:
            raise ConfigError(
                f"pairs must not be negative and max_rows at least 1, got {self.pairs} and {self.max_rows}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldInformation:
    """What a field, or a pair of them, says about the label, in nats. `values` are those that train rows hold.

    Of a pair, `gain` is its held-out information beyond the better of its two fields.
    """

    fields: tuple[str, ...]
    values: int
    plug_in: float
    corrected: float
    held_out: float
    gain: float | None = None


@dataclass(frozen=True, eq=False)
class FeatureCorrelation:
    """Fields by held-out information, the most first; pairs likewise; `nmi` in the order of `names`.

    `skipped` are fields that hold vectors, which have no values to count.
    """

    label: str
    part: Part
    rows: int
    label_entropy: float
    fields: tuple[FieldInformation, ...]
    pairs: tuple[FieldInformation, ...]
    names: tuple[str, ...]
    nmi: Float64[np.ndarray, "fields fields"]
    nmi_chance: Float64[np.ndarray, "fields fields"]
    skipped: tuple[str, ...]


def feature_correlation(log: ClickLog, part: Part, config: FeatureCorrelationConfig) -> FeatureCorrelation:
    """Information of the train rows of `log`, held out on the rows of `part`.

    `DataError` when train rows have one label alone, or the log has no field to count.
    """
    label = config.label or log.schema.labels[0]
    if label not in log.schema.labels:
        raise ConfigError(f"there is no label {label!r}; the log has {', '.join(log.schema.labels)}")
    train, test = (_sample(log.part(name), config) for name in ("train", part))
    place = log.schema.labels.index(label)
    clicks = _Labels(np.asarray(train.labels[:, place]) >= 0.5, np.asarray(test.labels[:, place]) >= 0.5)
    if len(np.unique(clicks.train)) < 2:
        raise DataError(f"{log.path}: all train rows have one value of label {label!r}; nothing can say more of it")
    codes = field_codes(log.schema, train, test)
    if not codes:
        raise DataError(f"{log.path}: every field holds vectors; there are no values to count")
    found = {name: _information((name,), *both, clicks) for name, both in codes.items()}
    nmi, chance = normalised_information([own for own, _ in codes.values()], seed=config.seed)
    return FeatureCorrelation(
        label=label,
        part=part,
        rows=len(train),
        label_entropy=entropy(np.bincount(clicks.train.astype(np.int64))),
        fields=_ranked(list(found.values())),
        pairs=_ranked(_pairs(codes, found, clicks))[: config.pairs] if config.pairs else (),
        names=tuple(codes),
        nmi=nmi,
        nmi_chance=chance,
        skipped=tuple(field.name for field in log.schema.fields if field.name not in codes),
    )


def field_codes(
    schema: Schema, train: ClickColumns, test: ClickColumns
) -> dict[str, tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "test"]]]:
    """Of every field that has values, one integer a row: equal where the field is equal, in both parts.

    A list is one value; numbers are 20 bins of equal training frequency.
    """
    return {field.name: codes for field in schema.fields if (codes := _codes(schema, field, train, test)) is not None}


def normalised_information(
    codes: Sequence[Int64[np.ndarray, "rows"]], *, seed: int = 0
) -> tuple[Float64[np.ndarray, "fields fields"], Float64[np.ndarray, "fields fields"]]:
    """2 I(A; B) / (H(A) + H(B)) of every pair, 1 on the diagonal, and the same with the second field shuffled.

    Two constant fields are 1, as equal fields are.
    """
    numbered = [np.unique(own, return_inverse=True)[1].astype(np.int64) for own in codes]
    single = [entropy(np.bincount(own)) for own in numbered]
    order = np.random.default_rng(seed).permutation(len(codes[0]))
    found, chance = np.eye(len(codes)), np.eye(len(codes))
    for a, b in combinations(range(len(codes)), 2):
        total = single[a] + single[b]
        for values, second in ((found, numbered[b]), (chance, numbered[b][order])):
            shared = total - entropy(_joint_counts(numbered[a], second))
            values[a, b] = values[b, a] = 1.0 if total == 0 else max(0.0, 2 * shared / total)
    return found, chance


@dataclass(frozen=True, eq=False)
class _Labels:
    train: Bool[np.ndarray, "train"]
    test: Bool[np.ndarray, "test"]


def _information(
    names: tuple[str, ...],
    train: Int64[np.ndarray, "train"],
    test: Int64[np.ndarray, "test"],
    labels: _Labels,
    best: float | None = None,
) -> FieldInformation:
    cells = Cells.of(train, labels.train)
    held_out = held_out_information(train, labels.train, test, labels.test)
    return FieldInformation(
        fields=names,
        values=int(cells.codes.max()) + 1,
        plug_in=mutual_information(cells),
        corrected=miller_madow(cells),
        held_out=held_out,
        gain=None if best is None else held_out - best,
    )


def _pairs(
    codes: dict[str, tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "test"]]],
    single: dict[str, FieldInformation],
    labels: _Labels,
) -> list[FieldInformation]:
    found = []
    for a, b in combinations(codes, 2):
        width = max(int(part.max(initial=0)) for part in codes[b]) + 1
        train, test = (first * width + second for first, second in zip(codes[a], codes[b], strict=True))
        best = max(single[a].held_out, single[b].held_out)
        found.append(_information((a, b), train, test, labels, best))
    return found


def _ranked(found: list[FieldInformation]) -> tuple[FieldInformation, ...]:
    return tuple(sorted(found, key=lambda one: (-one.held_out, one.fields)))


def _codes(
    schema: Schema, field: Field, train: ClickColumns, test: ClickColumns
) -> tuple[Int64[np.ndarray, "train"], Int64[np.ndarray, "test"]] | None:
    match field:
        case Categorical() | Numerals():
            column = schema.id_columns[field.name].start
            return np.asarray(train.ids[:, column], np.int64), np.asarray(test.ids[:, column], np.int64)
        case MultiValue():
            lists = np.concatenate([part.ids[:, schema.id_columns[field.name]] for part in (train, test)])
            numbers = np.unique(lists, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
            return numbers[: len(train)], numbers[len(train) :]
        case Numeric():
            column = schema.number_columns[field.name]
            own, other = train.numbers[:, column], test.numbers[:, column]
            edges = np.unique(np.quantile(own, np.arange(1, _BINS) / _BINS))
            first, second = (np.searchsorted(edges, part, side="right").astype(np.int64) for part in (own, other))
            return first, second
        case Dense():
            return None


def _joint_counts(first: Int64[np.ndarray, "rows"], second: Int64[np.ndarray, "rows"]) -> Int64[np.ndarray, "cells"]:
    width = int(second.max()) + 1
    keys = first * width + second
    if (int(first.max()) + 1) * width <= _DENSE_CELLS * len(keys):
        return np.bincount(keys).astype(np.int64)
    return np.unique(keys, return_counts=True)[1].astype(np.int64)


def _sample(columns: ClickColumns, config: FeatureCorrelationConfig) -> ClickColumns:
    if len(columns) <= config.max_rows:
        return columns
    rows = np.random.default_rng(config.seed).choice(len(columns), config.max_rows, replace=False)
    return columns.select(np.sort(rows))
