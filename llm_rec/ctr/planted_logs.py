"""What planted worlds of histories share: rows that hold ids alone, parts, and the log they are written as."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ctr_models.encode import VocabularyConfig
from ctr_models.encoders import Vocabulary
from ctr_models.schema import Schema
from llm_rec.artifacts import write_artifact
from llm_rec.codec import Plain
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter, FittedColumn
from llm_rec.data.event_store import EventStore
from llm_rec.data.log_spec import PARTS, ColumnSpec
from llm_rec.errors import ConfigError
from llm_rec.metrics.classification import auc

USER = "user"


def check_planted(counts: Mapping[str, int], shares: tuple[float, float]) -> None:
    """`ConfigError` unless counts are at least 1, and the shares of validation and test leave rows to train on."""
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if min(shares) <= 0 or sum(shares) >= 1:
        raise ConfigError(f"validation and test must be above 0 and leave rows to train on, got {shares}")


def planted_rows(
    ids: Int64[np.ndarray, "rows fields"],
    labels: Float32[np.ndarray, "rows"],
    windows: Int64[np.ndarray, "rows 2"],
    store: EventStore,
    *,
    rows_per_user: int,
) -> ClickColumns:
    """Rows that hold ids alone. So many neighbours are one user's, each with a history of its own."""
    empty = np.zeros((len(ids), 0), dtype=np.float32)
    return ClickColumns(
        ids=ids.astype(np.int32),
        numbers=empty,
        dense=empty,
        labels=labels[:, None],
        groups=np.arange(len(ids), dtype=np.int64) // rows_per_user,
        windows=windows,
        events=store,
    )


def part_bounds(rows: int, shares: tuple[float, float]) -> list[tuple[int, int]]:
    """First and one past the last row of train, validation and test: rows are drawn independently, so they stay in
    order, and the events of a part lie together.

    >>> part_bounds(20, (0.1, 0.25))
    [(0, 13), (13, 15), (15, 20)]
    """
    test, validation = (max(1, round(rows * share)) for share in (shares[1], shares[0]))
    cuts = [0, rows - test - validation, rows - test, rows]
    return list(pairwise(cuts))


def write_planted(
    rows: ClickColumns,
    sizes: Mapping[str, int],
    shares: tuple[float, float],
    path: Path,
    name: str,
    *,
    overwrite: bool,
) -> ClickLog:
    """A click log of planted rows with the fingerprint `name`; values are their numbers as texts."""
    columns = tuple(
        FittedColumn(
            ColumnSpec(name=field, encoder=VocabularyConfig()), Vocabulary(tuple(str(value) for value in range(size)))
        )
        for field, size in sizes.items()
    )
    fields = tuple(column.encoder.field(column.spec.name) for column in columns)
    schema = Schema(fields=fields, group=USER, history=tuple(sizes))
    bounds = dict(zip(PARTS, part_bounds(len(rows), shares), strict=True))
    numbers = {part: stop - start for part, (start, stop) in bounds.items()}
    details: dict[str, Plain] = {}
    with write_artifact(path, kind=KIND, fingerprint=name, details=details, overwrite=overwrite) as folder:
        with ClickWriter(folder, schema, columns, numbers, events=rows.events) as writer:
            for part, (start, stop) in bounds.items():
                writer.append(part, rows.select(slice(start, stop)))
        details.update(writer.details())
    return ClickLog.load(path)


def expected_auc(probabilities: Float64[np.ndarray, "rows"]) -> float:
    """AUC of true probabilities: every row is a positive by p and a negative by 1 - p."""
    weights = np.concatenate([probabilities, 1 - probabilities])
    return auc(np.tile(probabilities, 2), np.repeat([1, 0], len(probabilities)), weights)
