"""Vectors of candidates and past events, by role: tables for what is attended to and for what is pooled.

DARE (arXiv 2410.02604) gives every field two tables, one read by search and attention, one by what is pooled and passed
on, so that neither gradient reaches the other's table. The candidate and its events share each table. `Decouple` names
what the paper compares:

| decouple | attention | representation | in the paper |
|---|---|---|---|
| shared | - | one table for all | TWIN |
| dare | one | one | DARE |
| three | one for candidates, one for events | one | 3E |
| four | one for candidates, one for events | one for candidates, one for events | TWIN-4E |
| projection | maps q, k of each part of one table | maps u, v of each part of it | TWIN (w/ proj.) |

An event's vector is made of parts side by side: the fields of `Schema.history`, further fields of the item (semantic
codes, language-model vectors) and, with `position="concat"`, when it was. With "add" the time is added instead (TIN,
arXiv 2403.00793). When it was is its place from the end, 1 for the newest and 0 for the candidate, or a bucket of the
time that passed (`HistoryBatch.gaps`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.batch import HistoryBatch
from ctr_models.checks import check_at_least
from ctr_models.embeddings import EmbeddingTable, NormalInit, TableInit, init_table
from ctr_models.schema import Categorical, Schema
from ctr_models.sequences.event_bags import BagInput, EventBags, EventIndex
from ctr_models.sequences.event_look_up import look_up_events

Decouple = Literal["shared", "dare", "three", "four", "projection"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsConfig:
    """`attention_dims`: numbers of each part of attention vectors; None, or no entry at all, as in the representation,
    whose parts are all `CTRModelConfig.dim` wide. One entry is for all parts. Otherwise there is one for each field of
    `Schema.history`, then one for further fields of the item if there are, then one for the position if concatenated.

    `time`: "position" counts events from the end; "gap" reads `HistoryBatch.gaps` (TTE-T of TIN), where buckets beyond
    the table share its last row. `max_positions` rows, the candidate's among them.
    """

    decouple: Decouple = "dare"
    attention_dims: tuple[int | None, ...] = ()
    position: Literal["concat", "add", "none"] = "concat"
    time: Literal["position", "gap"] = "position"
    max_positions: int = 2000

    def __post_init__(self) -> None:
        check_at_least("max_positions", self.max_positions, 2)
        if self.attention_dims and self.decouple == "shared":
            raise ValueError(f"attention_dims {self.attention_dims} need attention vectors; decouple is 'shared'")
        for dim in self.attention_dims:
            if dim is not None:
                check_at_least("attention_dims", dim, 1)
        if self.decouple == "projection" and len(self.attention_dims) > 1:
            raise ValueError(f"projections give all parts one width; name one attention dim, not {self.attention_dims}")


@runtime_checkable
class EventSource(Protocol):
    """Further fields of items, for candidates and events alike: codes, frozen vectors. Padding may give anything."""

    @property
    def num_fields(self) -> int:
        """How many fields it gives."""
        ...

    def look_up(self, ids: Int64[Tensor, "*shape"]) -> Float[Tensor, "tables *shape fields dim"]:
        """By ids of the first field of `Schema.history`."""
        ...


@dataclass(frozen=True, slots=True)
class EventSources:
    """How to make sources that give `num_fields` fields together: fresh ones, `dim` wide, for every table of the
    decoupling.
    """

    num_fields: int
    build: Callable[[int], Sequence[EventSource]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventLayout:
    """What vectors of events are made of: `parts` parts of `dim` numbers; attention vectors have `attention_widths`.

    With `has_position` the last part is when the event was. `num_fields` counts the fields of `Schema.history`.
    """

    num_fields: int
    parts: int
    dim: int
    attention_widths: tuple[int, ...]
    has_position: bool

    @property
    def attention_width(self) -> int:
        return sum(self.attention_widths)

    @property
    def time_width(self) -> int:
        """How many numbers at the end of an attention vector are the position's."""
        return self.attention_widths[-1] if self.has_position else 0


class EventIds(NamedTuple):
    """Ids of candidates (column 0) and their events, and when each was: 0 for candidates."""

    ids: Int64[Tensor, "batch columns fields"]
    times: Int64[Tensor, "#batch columns"]


class EventVectors(NamedTuple):
    """Of one role."""

    target: Float[Tensor, "tables batch width"]
    events: Float[Tensor, "tables batch length width"]


class PartTables(nn.Module):
    """One table of the decoupling: parts of `dims` (fields, further fields, position), side by side or summed with the
    position. `history` is the schema of the fields that events have.
    """

    def __init__(
        self,
        config: EventsConfig,
        history: Schema,
        dims: tuple[int, ...],
        num_tables: int,
        *,
        init: TableInit,
        sparse: bool,
        sources: Sequence[EventSource],
    ) -> None:
        super().__init__()
        fields = history.id_fields
        self.num_tables = num_tables
        self.groups = [[place for place in range(len(fields)) if dims[place] == dim] for dim in _distinct(dims, fields)]
        self.tables = nn.ModuleList(
            EmbeddingTable(
                Schema(fields=tuple(fields[place] for place in group)),
                dims[group[0]],
                num_tables,
                init=init,
                sparse=sparse,
            )
            for group in self.groups
        )
        self.sources = nn.ModuleList(source for source in sources if isinstance(source, nn.Module))
        if len(self.sources) != len(sources):
            raise ValueError("a source of events must be a torch module, so that its parameters are trained")
        self.position, self.last = config.position, config.max_positions - 1
        self.clamp = config.time == "gap"
        self.times = None if config.position == "none" else nn.Embedding(config.max_positions, self._time_width(dims))
        if self.times is not None:
            width = self.times.embedding_dim // num_tables
            init_table(self.times.weight.detach(), init, rows=config.max_positions, dim=width)

    def _time_width(self, dims: tuple[int, ...]) -> int:
        return self.num_tables * (dims[-1] if self.position == "concat" else sum(dims))

    def forward(self, events: EventIds) -> Float[Tensor, "tables batch columns width"]:
        parts = self._fields(events.ids)
        if self.times is None:
            return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        rows = events.times.clamp(max=self.last) if self.clamp else events.times
        when: Tensor = rearrange(self.times(rows), "b c (t w) -> t b c w", t=self.num_tables)
        if self.position == "add":
            return (parts[0] if len(parts) == 1 else torch.cat(parts, -1)) + when
        return torch.cat([*parts, when.expand(-1, events.ids.shape[0], -1, -1)], -1)

    def look_up_fits(self, events: EventIds) -> bool:
        """Whether `look_up` gives what `forward` does: one table, and all rows share the positions beside it."""
        plain = len(self.groups) == 1 and not self.sources and self.num_tables == 1
        placed = self.position == "concat" and not self.clamp and len(events.times) == 1
        return plain and (placed or self.position == "none")

    @property
    def table(self) -> EmbeddingTable:
        """Of the first group of fields, the only one where `look_up_fits`."""
        return cast(EmbeddingTable, self.tables[0])

    def look_up(self, events: EventIds) -> EventVectors:
        """Of candidates (column 0) and events apart, by one operation, as `look_up_events` says: for training."""
        table, times = self.table, None if self.times is None else self.times(events.times[0])
        weight, sparse = table.embedding.weight, table.embedding.sparse
        target, rest = look_up_events(weight, events.ids, table.offsets, times, sparse=sparse)
        return EventVectors(target.unsqueeze(0), rest.unsqueeze(0))

    def bags(self, events: EventIds, index: EventIndex) -> EventBags:
        """Of events (all columns but 0), whose rows `index` has, where `look_up_fits`."""
        embedding = self.table.embedding
        positions = None if self.times is None else self.times(events.times[0, 1:])
        return EventBags(embedding.weight, index, positions, embedding.sparse)

    def content(self, ids: Int64[Tensor, "batch columns fields"]) -> Float[Tensor, "tables batch columns content"]:
        """All parts but the position; zeros for padding."""
        return torch.cat(self._fields(ids), -1)

    def _fields(self, ids: Int64[Tensor, "batch columns fields"]) -> list[Tensor]:
        """Vectors of fields in their order, then of sources; those of padding are zero."""
        if len(self.groups) == 1:
            parts = [_look_up(self.tables[0], ids)]
        else:
            by_place: dict[int, Tensor] = {}
            for table, group in zip(self.tables, self.groups, strict=True):
                own = torch.stack([ids[..., place] for place in group], -1)
                by_place |= zip(group, _look_up(table, own).chunk(len(group), -1), strict=True)
            parts = [by_place[place] for place in range(len(by_place))]
        real = ids[..., 0].ne(0).unsqueeze(-1)
        return [*parts, *(_look_up(source, ids[..., 0]) * real for source in self.sources)]


class RoleTables(nn.Module):
    """Vectors of one role: one table, or with `split` one for candidates and one for events."""

    def __init__(self, build: Callable[[], PartTables], *, split: bool) -> None:
        super().__init__()
        self.target = build() if split else None
        self.events = build()

    def forward(self, given: EventIds) -> EventVectors:
        if self.target is None:
            if self.training and self.events.look_up_fits(given) and not torch.compiler.is_compiling():
                return self.events.look_up(given)
            both: Tensor = self.events(given)
            sizes = [1, both.shape[2] - 1]
            target, events = both.split_with_sizes(sizes, 2)  # the gradient is one copy, that of two slices three
            return EventVectors(target.squeeze(2), events)
        first, rest = (EventIds(given.ids[:, c], given.times[:, c]) for c in (slice(0, 1), slice(1, None)))
        return EventVectors(self.target(first).squeeze(2), self.events(rest))

    def bags(self, given: EventIds, index: EventIndex) -> tuple[Float[Tensor, "1 batch width"], EventBags]:
        """Vectors of candidates (column 0), and events as `PartTables.bags` has them."""
        first = EventIds(given.ids[:, :1], given.times[:, :1])
        target = (self.events if self.target is None else self.target)(first)
        return target.squeeze(2), self.events.bags(given, index)


class PartLinear(nn.Module):
    """A map of each part by itself, without bias: Xavier normal."""

    def __init__(self, num_tables: int, parts: int, inward: int, outward: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_tables, parts, inward, outward) * (2 / (inward + outward)) ** 0.5)

    def forward(self, vectors: Float[Tensor, "tables *shape inward"]) -> Float[Tensor, "tables *shape outward"]:
        parts = torch.unflatten(vectors, -1, self.weight.shape[1:3])
        mapped: Tensor = torch.einsum("t...pi,tpio->t...po", parts, self.weight)
        return mapped.flatten(-2)


class Projections(nn.Module):
    """TWIN (w/ proj.) of the DARE repository: maps q, u of the candidate and k, v of events. What is passed on as the
    candidate's own vector is u (our choice: the paper says nothing).
    """

    def __init__(self, layout: EventLayout, num_tables: int) -> None:
        super().__init__()
        parts, dim, attention_dim = layout.parts, layout.dim, layout.attention_widths[0]
        self.query, self.key = (PartLinear(num_tables, parts, dim, attention_dim) for _ in range(2))
        self.target, self.event = (PartLinear(num_tables, parts, dim, dim) for _ in range(2))

    def attention(self, shared: EventVectors) -> EventVectors:
        return EventVectors(self.query(shared.target), self.key(shared.events))

    def representation(self, shared: EventVectors) -> EventVectors:
        return EventVectors(self.target(shared.target), self.event(shared.events))


class EventTables(nn.Module):
    """All tables of an `EventsConfig`; `layout` says what their vectors are made of."""

    def __init__(
        self,
        config: EventsConfig,
        schema: Schema,
        dim: int,
        num_tables: int = 1,
        *,
        init: TableInit | None = None,
        sparse: bool = False,
        sources: EventSources | None = None,
    ) -> None:
        super().__init__()
        history = history_schema(schema)
        start, further = init or NormalInit(), 0 if sources is None else sources.num_fields
        self.config, self.layout = config, event_layout(config, len(schema.history), further, dim)

        def tables(dims: tuple[int, ...]) -> PartTables:
            fresh = sources.build(dims[len(schema.history)]) if sources is not None and further else ()
            return PartTables(config, history, dims, num_tables, init=start, sparse=sparse, sources=fresh)

        def representation() -> PartTables:
            return tables((dim,) * self.layout.parts)

        def attention() -> PartTables:
            return tables(self.layout.attention_widths)

        decouple = config.decouple
        self.representation = RoleTables(representation, split=decouple == "four")
        split = decouple in ("three", "four")
        self.attention = RoleTables(attention, split=split) if split or decouple == "dare" else None
        self.projections = Projections(self.layout, num_tables) if decouple == "projection" else None

    def join(self, target_ids: Int64[Tensor, "batch fields"], history: HistoryBatch) -> EventIds:
        """Candidates and events as one block of ids. `ValueError` when times are gaps and the batch has none."""
        ids = torch.cat([target_ids.unsqueeze(1), history.ids], 1)
        if self.config.time == "position":
            return EventIds(ids, torch.cat([ids.new_zeros(1), places(history.ids.shape[1], ids.device)]).unsqueeze(0))
        if history.gaps is None:
            raise ValueError("time is 'gap' but the batch has no gaps; take time 'position', or a log with times")
        return EventIds(ids, torch.cat([ids.new_zeros(ids.shape[0], 1), history.gaps], 1))

    def attend(self, given: EventIds) -> EventVectors:
        """What search and attention look at, alone."""
        if self.attention is not None:
            found: EventVectors = self.attention(given)
            return found
        shared: EventVectors = self.representation(given)
        return shared if self.projections is None else self.projections.attention(shared)

    def forward(self, given: EventIds) -> tuple[EventVectors, EventVectors | None]:
        """Vectors to pool and pass on, and those of attention where they differ."""
        shared: EventVectors = self.representation(given)
        if self.projections is not None:
            return self.projections.representation(shared), self.projections.attention(shared)
        return shared, None if self.attention is None else self.attention(given)

    def bags(self, given: EventIds) -> BagInput | None:
        """What `forward` gives, with bags for events: on a CPU, of one table a role, unprojected; None elsewhere."""
        roles = [role.events for role in (self.representation, self.attention) if role is not None]
        fits = self.projections is None and not given.ids.is_cuda and all(role.look_up_fits(given) for role in roles)
        table = roles[0].table
        if not fits or table.embedding.weight.dtype.itemsize < torch.float32.itemsize:
            return None
        ids = given.ids[:, 1:]
        index = EventIndex(ids, table.offsets)
        target, events = self.representation.bags(given, index)
        attention = (None, None) if self.attention is None else self.attention.bags(given, index)
        return BagInput(target, events, ids[..., 0].ne(0), given.ids[:, 0], ids, *attention)


def places(length: int, device: torch.device | str = "cpu") -> Int64[Tensor, "length"]:
    """The place of each column, from the end.

    >>> places(3).tolist()
    [3, 2, 1]
    """
    return torch.arange(length, 0, -1, device=device)


def history_schema(schema: Schema) -> Schema:
    """The fields that events have, alone and in the order of `Schema.history`."""
    if not schema.history:
        raise ValueError("the schema names no history fields; a model of sequences needs at least the item's")
    found = {field.name: field for field in schema.fields if isinstance(field, Categorical)}
    return Schema(fields=tuple(found[name] for name in schema.history))


def event_layout(config: EventsConfig, num_fields: int, further: int, dim: int) -> EventLayout:
    """Parts of events with `num_fields` fields and `further` fields of the item. `ValueError` for dims that do not fit.

    >>> event_layout(EventsConfig(attention_dims=(8, None, 4)), 2, 0, 16).attention_widths
    (8, 16, 4)
    """
    has_position = config.position == "concat"
    parts = num_fields + further + has_position
    counts = [1] * num_fields + ([further] if further else []) + [1] * has_position
    dims = config.attention_dims or (None,)
    entries = dims * len(counts) if len(dims) == 1 else dims
    if len(entries) != len(counts):
        raise ValueError(
            f"attention_dims {config.attention_dims} must name one dim, or one for each of {len(counts)} parts "
            "(fields of the history, further fields, position)"
        )
    widths = [entry or dim for entry, count in zip(entries, counts, strict=True) for _ in range(count)]
    return EventLayout(
        num_fields=num_fields, parts=parts, dim=dim, attention_widths=tuple(widths), has_position=has_position
    )


def _look_up(source: nn.Module, ids: Int64[Tensor, "*shape"]) -> Float[Tensor, "tables *outer width"]:
    """Fields of a table or a source, side by side."""
    return cast(EventSource, source).look_up(ids).flatten(-2)


def _distinct(dims: tuple[int, ...], fields: Sequence[object]) -> list[int]:
    return list(dict.fromkeys(dims[: len(fields)]))
