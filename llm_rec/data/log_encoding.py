"""Raw files and a `LogSpec` -> a `ClickLog`, in two streaming passes: fit on the train rows, then encode all rows.

Neither pass holds more than a chunk of rows and what the encoders remember, so a log may be far larger than memory.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

from ctr_models.encode import build_fitter
from ctr_models.encoders import DenseVector, Number
from ctr_models.fitters import Fitter, ValueCounts
from ctr_models.schema import UNKNOWN, Schema
from ctr_models.values import numbers_of, stable_hash, texts_of
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain, to_plain
from llm_rec.data.ali_ccp_files import common_file
from llm_rec.data.chunks import CHUNK_ROWS, Chunk
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter, FittedColumn
from llm_rec.data.joined_tables import read_joined
from llm_rec.data.log_spec import PARTS, ColumnSpec, LabelSpec, LogSpec, Part, TableFile
from llm_rec.data.parts import LEFT_OUT, TRAIN, expected_parts, parts_of
from llm_rec.errors import DataError


def encode_log(
    files: Sequence[TableFile],
    spec: LogSpec,
    path: Path | str,
    *,
    overwrite: bool = False,
    chunk_rows: int = CHUNK_ROWS,
) -> ClickLog:
    """Fit the encoders of `spec` on the train rows of `files`, encode all rows, and write them as the click log `path`.

    The folder appears at once and whole, or not at all. What is written depends on files and spec alone, not on
    `chunk_rows`. Raises `DataError` naming file, column and row or value for a missing column, a value that an encoder
    cannot read, a label outside 0..1, a null group, an unknown part, and a part without rows.
    """
    details: dict[str, Plain] = {}  # filled in before the block ends, which is when the manifest is written
    name = log_fingerprint(files, spec)
    with write_artifact(Path(path), kind=KIND, fingerprint=name, details=details, overwrite=overwrite) as folder:
        columns, rows = fit_columns(files, spec, chunk_rows=chunk_rows)
        schema = schema_of(columns, spec)
        with ClickWriter(folder, schema, columns, rows) as writer:
            for chunk in read_joined(files, spec, chunk_rows):
                encoded, parts = encode_chunk(chunk, columns, spec), parts_of(chunk, spec)
                _check_domains(chunk, encoded, schema, columns, parts != LEFT_OUT)
                for part in rows:
                    writer.append(part, encoded, parts == PARTS.index(part))
        details.update(writer.details())
    return ClickLog.load(path)


def log_fingerprint(files: Sequence[TableFile], spec: LogSpec) -> str:
    """The fingerprint of the log that `encode_log` makes of these files, wherever they lie. Reads them once."""
    joined = [table.file for table in spec.joins]
    return fingerprint(KIND, {"spec": _settings(spec)}, *(described_file(file) for file in (*files, *joined)))


def _settings(spec: LogSpec) -> Plain:
    """The spec without what is newer than fingerprints, where it is not used, and without where joined files lie."""
    joins = tuple(replace(table, file=replace(table.file, path=Path())) for table in spec.joins)
    settings = to_plain(replace(spec, joins=joins))
    newer = {"domain": spec.domain, "keep": spec.keep, "joins": spec.joins, "weight": spec.weight}
    return {name: value for name, value in _mapping(settings).items() if newer.get(name, True)}


def _mapping(value: Plain) -> dict[str, Plain]:
    return value if isinstance(value, dict) else {}


def fit_columns(
    files: Sequence[TableFile], spec: LogSpec, *, chunk_rows: int = CHUNK_ROWS
) -> tuple[tuple[FittedColumn, ...], dict[Part, int]]:
    """Encoders fitted on the train rows alone, and the number of rows of every part."""
    expected = expected_parts(files, spec)
    fitters = build_fitters(spec.columns)
    counts = np.zeros(len(PARTS), dtype=np.int64)
    for chunk in read_joined(files, spec, chunk_rows):
        parts = parts_of(chunk, spec)
        counts += np.bincount(parts, minlength=LEFT_OUT + 1)[:LEFT_OUT]
        train = parts == TRAIN
        for label in spec.labels:
            label_of(chunk, label)  # a bad label is found before anything is written
        if spec.weight is not None:
            weights_of(chunk, spec.weight)
        for column, fitter in zip(spec.columns, fitters, strict=True):
            with _naming(chunk, column.source):
                fitter.observe(chunk.column(column.source, train))
    rows = {part: int(count) for part, count in zip(PARTS, counts, strict=True) if count}
    for part, why in expected.items():
        if part not in rows:
            raise DataError(f"the {part} part has no rows: {why}; repair parts in the spec")
    fitted = [fitter.finish() for fitter in fitters]
    return tuple(FittedColumn(*pair) for pair in zip(spec.columns, fitted, strict=True)), rows


def build_fitters(columns: Sequence[ColumnSpec]) -> list[Fitter]:
    """One fitter a field; those of one table count their values together."""
    shared: dict[str, ValueCounts] = {}
    return [
        build_fitter(c.encoder, None if c.table is None else shared.setdefault(c.table, ValueCounts())) for c in columns
    ]


def schema_of(columns: Sequence[FittedColumn], spec: LogSpec) -> Schema:
    """The layout of encoded rows."""
    fields = tuple(column.encoder.field(column.spec.name, column.spec.table) for column in columns)
    labels = tuple(label.name for label in spec.labels)
    return Schema(fields=fields, labels=labels, group=spec.group, weight=spec.weight, domain=spec.domain)


def encode_chunk(chunk: Chunk, columns: Sequence[FittedColumn], spec: LogSpec) -> ClickColumns:
    """All rows of a chunk, encoded."""
    encoded = []
    for column in columns:
        with _naming(chunk, column.spec.source):
            encoded.append(column.encoder.transform(chunk.column(column.spec.source)))
    labels = np.stack([label_of(chunk, label) for label in spec.labels], axis=1)
    groups = None if spec.group is None else groups_of(chunk, spec.group)
    laid = lay_out(columns, encoded, labels, groups)
    return laid if spec.weight is None else replace(laid, weights=weights_of(chunk, spec.weight))


def _check_domains(
    chunk: Chunk,
    encoded: ClickColumns,
    schema: Schema,
    columns: Sequence[FittedColumn],
    kept: Bool[np.ndarray, "rows"],
) -> None:
    """A row of a domain without train rows has no tower, so it is refused; so is one without a domain."""
    if schema.domain is None:
        return
    source = next(column.spec.source for column in columns if column.spec.name == schema.domain)
    raw = chunk.column(source)
    null = raw.spread(np.array([text is None for text in texts_of(raw.values)], dtype=bool))
    chunk.refuse(kept & null, source, "is no domain", "give every row a domain, or leave such rows out by `keep`")
    unknown = encoded.ids[:, schema.id_columns[schema.domain].start] == UNKNOWN
    fix = "leave such rows out by `keep`, or part the rows otherwise"
    chunk.refuse(kept & unknown, source, "is a domain without train rows", fix)


def lay_out(
    columns: Sequence[FittedColumn],
    encoded: Sequence[np.ndarray],
    labels: Float32[np.ndarray, "rows labels"],
    groups: Int64[np.ndarray, "rows"] | None,
) -> ClickColumns:
    """Encoded columns side by side: ids, numbers and dense vectors, each in the order of their fields."""
    ids, numbers, dense = [], [], []
    for column, values in zip(columns, encoded, strict=True):
        table = values.reshape(len(values), prod(values.shape[1:]))
        match column.encoder:
            case Number():
                numbers.append(table)
            case DenseVector():
                dense.append(table)
            case _:
                ids.append(table)
    rows = len(labels)
    return ClickColumns(
        ids=_beside(ids, rows, np.int32),
        numbers=_beside(numbers, rows, np.float32),
        dense=_beside(dense, rows, np.float32),
        labels=labels,
        groups=groups,
    )


def _beside(tables: Sequence[np.ndarray], rows: int, dtype: type[np.int32] | type[np.float32]) -> np.ndarray:
    return np.concatenate([np.zeros((rows, 0), dtype), *tables], axis=1, dtype=dtype, casting="same_kind")


def label_of(chunk: Chunk, label: LabelSpec) -> Float32[np.ndarray, "rows"]:
    """A label of every row; `DataError` for one that is not a number in 0..1, or is null."""
    raw = chunk.column(label.source)
    texts = texts_of(raw.values)
    null = np.array([text is None for text in texts], dtype=bool)
    fix = "repair or remove these rows, or say `equals` to make a label of a text"
    chunk.refuse(raw.spread(null), label.source, "is no label", fix)
    if label.equals is not None:
        return raw.spread(np.array([text == label.equals for text in texts], dtype=np.float32))
    with _naming(chunk, label.source):
        numbers = numbers_of(raw.values)
    outside = (numbers < 0) | (numbers > 1)
    chunk.refuse(raw.spread(outside), label.source, "is not a label in 0..1", fix)
    return raw.spread(numbers.astype(np.float32))


def groups_of(chunk: Chunk, column: str) -> Int64[np.ndarray, "rows"]:
    """Equal values are equal numbers (63-bit hashes of their texts); a null group is a `DataError`."""
    raw = chunk.column(column)
    texts = texts_of(raw.values)
    null = np.array([text is None for text in texts], dtype=bool)
    chunk.refuse(raw.spread(null), column, "is no group", "give every row a group, or leave out `group`")
    return raw.spread(stable_hash([text or "" for text in texts]))


def weights_of(chunk: Chunk, column: str) -> Float32[np.ndarray, "rows"]:
    """The weight of every row; `DataError` for one that is null, below 0 or no number."""
    raw = chunk.column(column)
    with _naming(chunk, column):
        numbers = numbers_of(raw.values)
    wrong = np.isnan(numbers) | (numbers < 0)
    chunk.refuse(raw.spread(wrong), column, "is no weight", "give every row a number of at least 0")
    return raw.spread(numbers.astype(np.float32))


@contextmanager
def _naming(chunk: Chunk, column: str) -> Iterator[None]:
    """Say where a value comes from that an encoder cannot read."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{chunk.where(column)}: {error}") from error


def described_file(file: TableFile) -> Mapping[str, Plain]:
    """What a file is, whatever it is called: its bytes and how they are read."""
    if not file.path.is_file():
        raise DataError(f"{file.path}: no such file")
    read: dict[str, Plain] = {"sha256": _digest(file.path), "file": to_plain(replace(file, path=Path()))}
    return {**read, "common": _digest(common_file(file.path))} if file.form == "ali_ccp" else read


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
