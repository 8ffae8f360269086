"""Vectors of fields: one fused table for all ids, learned vectors of numbers, maps of dense features, frozen rows.

Every source gives (tables, batch, fields, dim): the first axis counts embedding sets, each complete and with parameters
of its own (multi-embedding, arXiv 2310.04400); an ordinary model has one. `schema_vectors` builds what a schema needs
and puts the fields in its order.

Padding (id 0) gives exact zeros, and its row gets no gradient. Ids beyond a field's size are not looked for while
training, which would wait for the device: such an id reads a row of the next field. `check_ids` finds them; call it
where batches are made.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.embedding_init import NormalInit as NormalInit
from ctr_models.embedding_init import TableInit as TableInit
from ctr_models.embedding_init import XavierJointInit as XavierJointInit
from ctr_models.embedding_init import init_table as init_table
from ctr_models.meta_embeddings import MetaEmbeddings, soft_groups
from ctr_models.numerals import NumeralVectors, numeral_groups
from ctr_models.protocols import FieldSource
from ctr_models.schema import Categorical, Field, MultiValue, Numerals, Numeric, Schema, TableField, columns_of


class EmbeddingTable(nn.Module):
    """All `table_fields` of a schema from one weight (rows of all fields, num_tables * dim) by one gather.

    Every field begins with a row for padding; fields that name one table share its rows. A `MultiValue` field is the
    mean or sum of the vectors of its ids that are not padding (zeros where there is none). With `sparse` the weight's
    gradient holds the rows of the batch alone, which the optimisers of `ctr_models.optim` need.
    """

    offsets: Tensor
    columns: Tensor | None

    def __init__(
        self, schema: Schema, dim: int, num_tables: int = 1, *, init: TableInit | None = None, sparse: bool = False
    ) -> None:
        super().__init__()
        if not schema.table_fields:
            raise ValueError("the schema has no field with ids; leave the table out")
        _check_positive(dim=dim, num_tables=num_tables)
        self.dim, self.num_tables, self.num_fields = dim, num_tables, len(schema.table_fields)
        self.rows = field_rows(schema)
        self._fields = _neighbours(schema.table_fields)
        kept = [column for field in schema.table_fields for column in _columns(schema, field.name)]
        among = torch.tensor(kept) if len(kept) < sum(map(columns_of, schema.id_fields)) else None
        self.register_buffer("columns", among, persistent=False)
        starts = [self.rows[f.name].start for columns, f in self._fields for _ in range(columns.start, columns.stop)]
        self.register_buffer("offsets", torch.tensor(starts), persistent=False)
        paddings = sorted({rows.start for rows in self.rows.values()})
        weight = torch.empty(max(rows.stop for rows in self.rows.values()), num_tables * dim)
        init_table(weight, init or NormalInit(), rows=len(weight) - len(paddings), dim=dim)
        weight[paddings] = 0.0
        self.embedding = nn.Embedding(len(weight), weight.shape[1], sparse=sparse, _weight=weight)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        return self.look_up(batch.ids)

    def look_up(self, ids: Int64[Tensor, "batch *shape id_columns"]) -> Float[Tensor, "tables batch *shape fields dim"]:
        """Fields of ids in the schema's columns, with any axes before them (past events have one of time)."""
        rows = ids.flatten(0, -2)
        rows = rows if self.columns is None else rows.index_select(1, self.columns)
        real = rows.ne(0)
        found = self.embedding(rows + self.offsets).mul_(real.unsqueeze(-1))
        vectors = rearrange(pool(found, real, self._fields), "b f (t d) -> t b f d", t=self.num_tables)
        shaped: Tensor = torch.unflatten(vectors, 1, ids.shape[:-1])
        return shaped

    def field_weight(self, name: str) -> Float[Tensor, "tables rows dim"]:
        """The rows of one field, padding first: a view, for analyses."""
        rows: Tensor = rearrange(self.embedding.weight[self.rows[name]], "r (t d) -> t r d", t=self.num_tables)
        return rows


class NumericVectors(nn.Module):
    """All `Numeric` fields without meta-embeddings: the number times a learned vector, one for each set. Zero gives
    zeros.
    """

    columns: Tensor | None

    def __init__(self, schema: Schema, dim: int, num_tables: int = 1, *, std: float = 1e-4) -> None:
        super().__init__()
        kept = [schema.number_columns[name] for name in plain_numbers(schema)]
        self.num_fields = len(kept)
        if not self.num_fields:
            raise ValueError("the schema has no numeric field; leave their vectors out")
        _check_positive(dim=dim, num_tables=num_tables)
        some = torch.tensor(kept) if len(kept) < len(schema.number_columns) else None
        self.register_buffer("columns", some, persistent=False)
        self.weight = nn.Parameter(torch.randn(num_tables, self.num_fields, dim) * std)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        numbers = batch.numbers if self.columns is None else batch.numbers.index_select(1, self.columns)
        return numbers[:, :, None] * self.weight[:, None]


class DenseVectors(nn.Module):
    """All `Dense` fields: a linear map of each without bias, one for each set; one product a field for all sets."""

    def __init__(self, schema: Schema, dim: int, num_tables: int = 1) -> None:
        super().__init__()
        self.columns = tuple(schema.dense_columns.values())
        self.num_fields, self.num_tables = len(self.columns), num_tables
        if not self.num_fields:
            raise ValueError("the schema has no dense field; leave their vectors out")
        _check_positive(dim=dim, num_tables=num_tables)
        widths = [columns.stop - columns.start for columns in self.columns]
        self.maps = nn.ModuleList(nn.Linear(width, num_tables * dim, bias=False) for width in widths)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        parts = [to(batch.dense[:, columns]) for to, columns in zip(self.maps, self.columns, strict=True)]
        return rearrange(torch.stack(parts, 1), "b f (t d) -> t b f d", t=self.num_tables)


class FrozenRows(nn.Module):
    """One more field: rows of a frozen matrix (language-model vectors of items), found by an id field, then projected.

    `matrix` has a row for each id of `field`, padding and unknown among them; it is a buffer. Padding gives zeros
    whatever its row holds. A `MultiValue` field is pooled before the projection, which is linear, without bias, one for
    each set. For a given vector in each row of the data, not one by id, use a `Dense` field.
    """

    matrix: Tensor

    def __init__(
        self, schema: Schema, field: str, matrix: Float32[Tensor, "rows width"], dim: int, num_tables: int = 1
    ) -> None:
        super().__init__()
        found = {known.name: known for known in schema.table_fields}
        if field not in found:
            raise ValueError(f"no field with ids is called {field!r}; there are {', '.join(found) or 'none'}")
        if len(matrix) != found[field].size:
            raise ValueError(
                f"the matrix has {len(matrix)} rows but field {field!r} has {found[field].size} ids "
                "(padding, unknown, values); give one row for each"
            )
        _check_positive(dim=dim, num_tables=num_tables)
        self.num_fields, self.num_tables = 1, num_tables
        self.columns = schema.id_columns[field]
        self._fields = [(slice(0, self.columns.stop - self.columns.start), found[field])]
        self.register_buffer("matrix", matrix.clone())
        self.project = nn.Linear(matrix.shape[1], num_tables * dim, bias=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        ids = batch.ids[:, self.columns]
        real = ids.ne(0)
        pooled = pool(F.embedding(ids, self.matrix) * real.unsqueeze(-1), real, self._fields)
        vectors: Tensor = rearrange(self.project(pooled), "b f (t d) -> t b f d", t=self.num_tables)
        return vectors


class FieldVectors(nn.Module):
    """Sources side by side. `order` names, for each place of the result, the field of the concatenation that goes there
    (as they come by default). All sources have the same number of sets and the same dim.
    """

    order: Tensor | None

    def __init__(self, sources: Sequence[FieldSource], order: Sequence[int] | None = None) -> None:
        super().__init__()
        if not sources:
            raise ValueError("there is no source of fields; give at least one")
        self.num_fields = sum(source.num_fields for source in sources)
        places = list(range(self.num_fields))
        if order is not None and sorted(order) != places:
            raise ValueError(f"order must hold each of 0..{self.num_fields - 1} once, got {list(order)}")
        self.sources = nn.ModuleList(source for source in sources if isinstance(source, nn.Module))
        if len(self.sources) != len(sources):
            raise ValueError("a source of fields must be a torch module, so that its parameters are trained")
        permuted = order is not None and list(order) != places
        self.register_buffer("order", torch.tensor(order) if permuted else None, persistent=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        found = [source(batch) for source in self.sources]
        joined: Tensor = found[0] if len(found) == 1 else torch.cat(found, dim=2)
        return joined if self.order is None else joined.index_select(2, self.order)


def schema_vectors(
    schema: Schema, dim: int, num_tables: int = 1, *, init: TableInit | None = None, sparse: bool = False
) -> FieldVectors:
    """Vectors of all fields of `schema` in its order: a table, tables of digits, mixtures and vectors of numbers and
    maps of dense features.
    """
    sources: list[FieldSource] = []
    numerals, soft = numeral_groups(schema.numeral_fields), soft_groups(schema)
    names = [field.name for field in schema.table_fields]
    names += [field.name for group in numerals for field in group]
    names += [field.name for mixed in soft for field in mixed]
    names += [*plain_numbers(schema), *schema.dense_columns]
    if schema.table_fields:
        sources.append(EmbeddingTable(schema, dim, num_tables, init=init, sparse=sparse))
    for group in numerals:
        sources.append(NumeralVectors(schema, group, dim, num_tables, init=init, sparse=sparse))
    for mixed in soft:
        sources.append(MetaEmbeddings(schema, mixed, dim, num_tables, init=init))
    if plain_numbers(schema):
        sources.append(NumericVectors(schema, dim, num_tables))
    if schema.dense_columns:
        sources.append(DenseVectors(schema, dim, num_tables))
    return FieldVectors(sources, [names.index(field.name) for field in schema.fields])


class LinearTerm(nn.Module):
    """sum_f w_f[x_f], with a weight for each id, digit, number and dense column and output; the bias is the model's.

    The weights of an integer's digits are added over all bases, whatever its `combine`; a number has one weight,
    whatever its meta-embeddings.
    """

    def __init__(
        self, schema: Schema, num_outputs: int = 1, *, init: TableInit | None = None, sparse: bool = False
    ) -> None:
        super().__init__()
        first_order = replace(schema, fields=tuple(map(_first_order, schema.fields)))
        self.vectors = schema_vectors(first_order, num_outputs, init=init, sparse=sparse)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]:
        vectors: Tensor = self.vectors(batch)
        return vectors[0].sum(1)


def pool(
    vectors: Float[Tensor, "batch columns width"],
    real: Bool[Tensor, "batch columns"],
    fields: Sequence[tuple[slice, TableField]],
) -> Float[Tensor, "batch fields width"]:
    """Columns -> fields. Vectors of padding must be zero; neighbouring fields of one column are taken in one piece."""
    if all(isinstance(field, Categorical) for _, field in fields):
        return vectors
    parts: list[Tensor] = []
    start = 0
    for columns, field in fields:
        if isinstance(field, MultiValue):
            parts.append(vectors[:, start : columns.start])
            total = vectors[:, columns].sum(1, keepdim=True)
            count = real[:, columns].sum(1).clamp(min=1)
            parts.append(total / count[:, None, None] if field.pooling == "mean" else total)
            start = columns.stop
    return torch.cat([*parts, vectors[:, start:]], dim=1)


def plain_numbers(schema: Schema) -> list[str]:
    """Numeric fields whose vector is the number times a learned vector."""
    return [field.name for field in schema.fields if isinstance(field, Numeric) and not field.meta_embeddings]


def _first_order(field: Field) -> Field:
    if isinstance(field, Numerals):
        return replace(field, combine="sum")
    return replace(field, meta_embeddings=0) if isinstance(field, Numeric) else field


def _columns(schema: Schema, name: str) -> range:
    place = schema.id_columns[name]
    return range(place.start, place.stop)


def _neighbours(fields: Sequence[TableField]) -> list[tuple[slice, TableField]]:
    """Where each field lies when only the columns of `fields` are kept."""
    stops = list(accumulate(map(columns_of, fields)))
    return [(slice(stop - columns_of(field), stop), field) for stop, field in zip(stops, fields, strict=True)]


def field_rows(schema: Schema) -> dict[str, slice]:
    """Rows of the fused table by field, padding first; fields that name one table have the same rows.

    >>> item, past = Categorical(name="item", size=5, table="items"), Categorical(name="past", size=5, table="items")
    >>> field_rows(Schema(fields=(item, Categorical(name="day", size=9), past)))
    {'item': slice(0, 5, None), 'day': slice(5, 14, None), 'past': slice(0, 5, None)}
    """
    found: dict[tuple[str, str], slice] = {}
    rows: dict[str, slice] = {}
    stop = 0
    for field in schema.table_fields:
        table = ("own", field.name) if field.table is None else ("shared", field.table)
        if table not in found:
            found[table] = slice(stop, stop + field.size)
            stop += field.size
        rows[field.name] = found[table]
    return rows


def check_ids(schema: Schema, ids: Int64[Tensor, "batch id_columns"]) -> None:
    """`ValueError` that names the field, the row and the id when one lies outside its field. Waits for the device."""
    for field in schema.id_fields:
        found = ids[:, schema.id_columns[field.name]]
        wrong = ((found < 0) | (found >= field.size)).nonzero()
        if len(wrong):
            row, column = wrong[0].tolist()
            raise ValueError(
                f"field {field.name!r}: id {int(found[row, column])} in row {row} of the batch is outside "
                f"0..{field.size - 1}; encode the rows with the vocabulary that the schema was made from"
            )


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
