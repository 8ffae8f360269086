"""Fields that the language-model side gives a click model: semantic codes with fusion, and frozen text vectors.

Both find an item by the id of one field of the log, made with ``item_ids="catalog"``, so that items which training
never saw have codes and texts too. Codes may also be plain categorical fields of the log
(`llm_rec.ctr.log_rows`); here they pass a fusion first (Mixture-of-Codes, arXiv 2410.09560, stage 2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import FieldVectors, TableInit, init_table
from ctr_models.meta_embeddings import MetaEmbeddings
from ctr_models.protocols import FieldSource
from ctr_models.schema import RESERVED, Schema
from ctr_models.sequences.events import EventSources
from llm_rec.data.columns import ClickLog
from llm_rec.errors import ConfigError
from llm_rec.frequency_gate import GateConfig, build_gate
from semantic_ids.code_table import CodeTable
from semantic_ids.fusion import CodeEmbedding, CodeFusionConfig, build_fusion


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemFieldsConfig:
    """What items have beside the fields of the log, found by the id of `field`.

    `fusion`: one field a book of semantic codes, after this fusion; with `code_copies` each book is read that many
    times, every time with a table of its own (N tables for one code: the multi-embedding baseline of Mixture-of-Codes).
    `texts`: the item's text vector through `text_fields` linear maps, a field each (the dense adapter). N books of K
    codes, N copies of one book and N maps of vectors K wide have N K dim numbers each (and a padding row a table of
    codes). `gate`: PAD's frequency gate (arXiv 2412.04107) between the id and the codes; it multiplies the id's vector
    by 2 g_1 and those of the codes by 2 g_2, with g by the item's train positives. Gate and codes together are our
    combination; no paper tests it.
    """

    field: str = "item"
    fusion: CodeFusionConfig | None = None
    code_copies: int = 1
    texts: bool = False
    text_fields: int = 1
    gate: GateConfig | None = None

    def __post_init__(self) -> None:
        if self.gate is not None and self.fusion is None:
            raise ConfigError("a gate weighs ids against codes; set a fusion too")
        if self.code_copies < 1 or self.text_fields < 1:
            raise ConfigError(
                f"code_copies and text_fields must be at least 1, got {self.code_copies} and {self.text_fields}"
            )


@dataclass(frozen=True, eq=False)
class ItemTables:
    """What a catalog's items have: codes, text vectors (row 0 is padding), train positives (entry 0 is padding)."""

    train_counts: Int64[np.ndarray, "items_plus_one"]
    codes: CodeTable | None = None
    embeddings: Float32[np.ndarray, "items_plus_one width"] | None = None


def item_positives(log: ClickLog, field: str) -> Int64[np.ndarray, "items_plus_one"]:
    """Train positives of every item by catalog row, of a log made with ``item_ids="catalog"`` (id = row + 1)."""
    counts = log.train_counts(field, label=log.schema.labels[0])[RESERVED - 1 :]
    counts[0] = 0
    return counts


class CodeFields(nn.Module):
    """One field a book: fresh embeddings of the item's codes, for each set, and a fusion that the sets share.

    `init` is that of the other tables, drawn for one table of all books. Padding and unknown items have zeros before
    the fusion.
    """

    codes: Tensor

    def __init__(
        self,
        schema: Schema,
        field: str,
        codes: CodeTable,
        fusion: CodeFusionConfig,
        dim: int,
        num_tables: int = 1,
        *,
        init: TableInit | None = None,
    ) -> None:
        super().__init__()
        self.column, self.num_tables = _column(schema, field, codes.num_items), num_tables
        self.num_fields = codes.num_books
        self.register_buffer("codes", torch.from_numpy(_by_id(codes.offset_codes())))
        self.embedding = CodeEmbedding(codes.codebook_sizes, dim * num_tables)
        if init is not None:
            weight = self.embedding.weight.detach()
            init_table(weight, init, rows=sum(codes.codebook_sizes), dim=dim)
            weight[self.embedding.offsets] = 0.0
        self.fusion = build_fusion(fusion, codes.num_books, dim)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        return self.look_up(batch.ids[:, self.column])

    def look_up(self, ids: Int64[Tensor, "*shape"]) -> Float[Tensor, "tables *shape fields dim"]:
        """The fields of items by their ids in the log: candidates, or past events of any shape."""
        found = self.embedding(F.embedding(ids.flatten(), self.codes))
        vectors: Tensor = self.fusion(found.unflatten(-1, (self.num_tables, -1)).permute(2, 0, 1, 3))
        shaped: Tensor = torch.unflatten(vectors, 1, ids.shape)
        return shaped


class TextFields(nn.Module):
    """`num_fields` linear maps, without bias, of the item's frozen vector: a field each, for each set."""

    matrix: Tensor

    def __init__(
        self,
        schema: Schema,
        field: str,
        embeddings: Float32[np.ndarray, "items_plus_one width"],
        num_fields: int,
        dim: int,
        num_tables: int = 1,
    ) -> None:
        super().__init__()
        self.column, self.num_tables = _column(schema, field, len(embeddings) - 1), num_tables
        self.num_fields = num_fields
        self.register_buffer("matrix", torch.from_numpy(_by_id(embeddings)))
        self.project = nn.Linear(embeddings.shape[1], num_tables * num_fields * dim, bias=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        return self.look_up(batch.ids[:, self.column])

    def look_up(self, ids: Int64[Tensor, "*shape"]) -> Float[Tensor, "tables *shape fields dim"]:
        """The fields of items by their ids in the log: candidates, or past events of any shape."""
        found: Tensor = self.project(F.embedding(ids, self.matrix))
        return rearrange(found, "... (t f d) -> t ... f d", t=self.num_tables, f=self.num_fields)


class GatedFields(nn.Module):
    """The fields of `inner`, the one at place `id_place` times 2 g_1 and those at `code_places` times 2 g_2."""

    is_id: Tensor
    is_code: Tensor

    def __init__(
        self,
        inner: FieldSource,
        gate: nn.Module,
        column: int,
        id_place: int,
        code_places: Sequence[int],
    ) -> None:
        super().__init__()
        if not isinstance(inner, nn.Module):
            raise TypeError(f"a gated source must be a module, got {type(inner).__name__}")
        self.inner, self.gate, self.column, self.num_fields = inner, gate, column, inner.num_fields
        places = torch.arange(inner.num_fields)
        self.register_buffer("is_id", places == id_place, persistent=False)
        self.register_buffer("is_code", torch.isin(places, torch.tensor(list(code_places))), persistent=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        fields: Tensor = self.inner(batch)
        ids = batch.ids[:, self.column]
        weights = 2 * self.gate((ids - (RESERVED - 1)).clamp(min=0))
        ones = torch.ones_like(weights[:, :1])
        scale = torch.where(self.is_id, weights[:, :1], torch.where(self.is_code, weights[:, 1:], ones))
        return fields * scale.unsqueeze(-1)


def with_item_fields(
    own: FieldSource,
    schema: Schema,
    config: ItemFieldsConfig,
    tables: ItemTables,
    dim: int,
    num_tables: int,
    *,
    init: TableInit | None = None,
) -> FieldSource:
    """The fields of the log, then those of `config`; `init` starts the tables of codes (None: N(0, 0.02^2)).

    Raises `ConfigError` when `tables` lacks what `config` asks for.
    """
    further = list(_item_sources(schema, config, tables, dim, num_tables, init))
    joined = FieldVectors([own, *further])
    codes = further[0] if further else None
    if config.gate is None or not isinstance(codes, CodeFields):
        return joined
    place = [field.name for field in schema.fields].index(config.field)
    places = range(own.num_fields, own.num_fields + codes.num_fields)
    gate = build_gate(config.gate, tables.train_counts, [(0.0, 0.0), (0.0, 0.0)])
    column = _column(schema, config.field, len(tables.train_counts) - 1)
    return GatedFields(joined, gate, column, place, places)


def item_event_sources(
    schema: Schema, config: ItemFieldsConfig, tables: ItemTables, num_tables: int, *, init: TableInit | None = None
) -> EventSources:
    """The fields of `config` for candidates and their past events alike, as parts of both: each table of a decoupled
    model has embeddings of codes, or maps of texts, of its own. Raises `ConfigError` as `with_item_fields` does, for
    another field than the first of `Schema.history`, and for a gate, which is for ordinary fields.
    """
    if config.gate is not None:
        raise ConfigError("item_fields.gate is for ordinary fields; leave it out where a model reads past events")
    if schema.history[:1] != (config.field,):
        raise ConfigError(f"item_fields.field must be the first of the history {schema.history}, got {config.field!r}")

    def build(dim: int) -> Sequence[CodeFields | TextFields]:
        return list(_item_sources(schema, config, tables, dim, num_tables, init))

    books = 0 if config.fusion is None else _codes(config, tables).num_books
    maps = 0 if not config.texts else config.text_fields
    return EventSources(books + maps, build)


def _item_sources(
    schema: Schema, config: ItemFieldsConfig, tables: ItemTables, dim: int, num_tables: int, init: TableInit | None
) -> Iterator[CodeFields | TextFields]:
    if config.fusion is not None:
        yield CodeFields(schema, config.field, _codes(config, tables), config.fusion, dim, num_tables, init=init)
    if config.texts:
        if tables.embeddings is None:
            raise ConfigError("item_fields.texts reads text vectors, and none were given; encode the catalog first")
        yield TextFields(schema, config.field, tables.embeddings, config.text_fields, dim, num_tables)


def _codes(config: ItemFieldsConfig, tables: ItemTables) -> CodeTable:
    if tables.codes is None:
        raise ConfigError("item_fields.fusion reads semantic codes, and none were given; index the catalog first")
    return copied_books(tables.codes, config.code_copies)


def copied_books(codes: CodeTable, copies: int) -> CodeTable:
    """All books side by side, `copies` times over.

    >>> copied_books(CodeTable.from_codes(np.array([[2], [1]]), (4,)), 3).items.tolist()
    [[2, 2, 2], [1, 1, 1]]
    """
    if copies == 1:
        return codes
    return CodeTable(codes=np.tile(codes.codes, (1, copies)), codebook_sizes=codes.codebook_sizes * copies)


def field_weights(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of sources that are no vectors of features: those of fusions, of frequency gates, and of what assigns
    numbers to meta-embeddings.
    """
    found: list[nn.Parameter] = []
    for module in model.modules():
        if isinstance(module, CodeFields):
            found += module.fusion.parameters()
        elif isinstance(module, GatedFields):
            found += module.gate.parameters()
        elif isinstance(module, MetaEmbeddings):
            found += module.assignment.parameters()
    return found


@torch.no_grad()
def semantic_vectors(model: nn.Module) -> Float[Tensor, "items width"] | None:
    """What every item of the catalog has beside its id, in its rows' order: all fields of codes or texts, after the
    fusion and before a frequency gate, side by side for all sets. None for a model without such fields.
    """
    parts = []
    for module in model.modules():
        if isinstance(module, CodeFields | TextFields):
            by_id = module.codes if isinstance(module, CodeFields) else module.matrix
            found = module.look_up(torch.arange(RESERVED, len(by_id), device=by_id.device))
            parts.append(rearrange(found, "t i f d -> i (t f d)"))
    return torch.cat(parts, dim=1) if parts else None


def _column(schema: Schema, field: str, num_items: int) -> int:
    """The column of ids of `field`, which must have an id for each item of the catalog."""
    sizes = {found.name: found.size for found in schema.id_fields}
    if field not in sizes:
        raise ConfigError(f"item_fields.field {field!r} is no field with ids; there are {', '.join(sizes)}")
    if sizes[field] != num_items + RESERVED:
        raise ConfigError(
            f"field {field!r} has ids for {sizes[field] - RESERVED} items but the catalog has {num_items}; "
            'make the rows with item_ids="catalog"'
        )
    column: int = schema.id_columns[field].start
    return column


def _by_id(by_row: np.ndarray) -> np.ndarray:
    """Rows of a catalog's table (padding first) -> rows by id: padding, unknown (zeros), items."""
    return np.insert(by_row, 1, 0, axis=0)
