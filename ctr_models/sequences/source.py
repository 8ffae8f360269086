"""Fields of a click model from its users' past: tables of events and an encoder, from a batch to field vectors.

The candidate's own vector comes first, then each output of the encoder, all split into their parts: fields as any
other, for interactions and losses, in every embedding set.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch, HistoryBatch
from ctr_models.checks import check_at_least
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema
from ctr_models.sequences.encoder import Encoder, EncoderConfig, build_encoder, needs_attention, reads_attention
from ctr_models.sequences.event_bags import BagInput
from ctr_models.sequences.events import EventIds, EventLayout, EventsConfig, EventTables, EventVectors
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput
from ctr_models.sequences.search import take
from ctr_models.sequences.target_attention import TargetAttentionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig:
    """How the past is read: at most `max_length` newest events, by `encoder`, from tables of `events`.

    `patterns` adds two vectors to those of `encoder`: what patterns of events say (DPN). `target_field`: the
    candidate's own vector is among the fields.
    """

    encoder: EncoderConfig = field(default_factory=TargetAttentionConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    patterns: PatternConfig | None = None
    max_length: int = 200
    target_field: bool = True

    def __post_init__(self) -> None:
        check_at_least("max_length", self.max_length, 1)
        counted = self.events.position != "none" and self.events.time == "position"
        if counted and self.max_length >= self.events.max_positions:
            raise ValueError(
                f"max_length {self.max_length} needs {self.max_length + 1} positions (the candidate has one), but "
                f"max_positions is {self.events.max_positions}"
            )
        if self.events.decouple != "shared" and not reads_attention(self.encoder):
            name, decouple = type(self.encoder).__name__, self.events.decouple
            raise ValueError(f"{name} reads one kind of vectors; set decouple 'shared', not {decouple!r}")
        if self.events.decouple == "shared" and needs_attention(self.encoder):
            name = type(self.encoder).__name__
            raise ValueError(f"this {name} searches attention tables; set decouple to something other than 'shared'")


@runtime_checkable
class Selects(Protocol):
    """An encoder that reads only some events, and gives the same result for these alone. Then their representation is
    all that is looked up, unless an auxiliary head reads every event.
    """

    @property
    def top_k(self) -> int | None: ...

    @property
    def selects_by_ids(self) -> bool:
        """Whether it needs no vectors to select."""
        ...

    def select(
        self,
        attended: EventVectors | None,
        mask: Bool[Tensor, "batch length"],
        target_ids: Int64[Tensor, "batch fields"],
        event_ids: Int64[Tensor, "batch length fields"],
    ) -> Int64[Tensor, "batch k"]: ...


@runtime_checkable
class ReadsBags(Protocol):
    """An encoder that needs no vectors of single events, only their scores and weighted sums."""

    @property
    def reads_bags(self) -> bool: ...

    def of_bags(self, sequence: BagInput) -> SequenceOutput: ...


class SequenceFields(NamedTuple):
    """`fields` for the towers. From a model in training: fields of the auxiliary head and the encoder's own loss."""

    fields: Float[Tensor, "tables batch fields dim"]
    auxiliary: Float[Tensor, "tables batch auxiliary_fields dim"] | None = None
    loss: Float[Tensor, ""] | None = None


class SequenceSource(nn.Module):
    """See the module. `ValueError` for a batch without history, or with another number of ids an event."""

    columns: Tensor

    def __init__(self, config: SequenceConfig, schema: Schema, events: EventTables, num_tables: int = 1) -> None:
        super().__init__()
        self.config, self.events, self.num_tables = config, events, num_tables
        self.encoder = _encoder(config, num_tables, events.layout)
        self.register_buffer("columns", torch.tensor(schema.history_columns), persistent=False)

    @property
    def num_fields(self) -> int:
        return self.events.layout.parts * (self.encoder.num_outputs + self.config.target_field)

    @property
    def num_auxiliary_fields(self) -> int:
        """Fields of the auxiliary head: those of the candidate and of the encoder's auxiliary outputs; 0 without."""
        outputs = self.encoder.num_auxiliary
        return self.events.layout.parts * (outputs + self.config.target_field) if outputs else 0

    def forward(self, batch: FeatureBatch) -> SequenceFields:
        given = self._given(batch)
        fields = self._of_bags(given) if self.training else None
        return self._encoded(self._looked_up(self._shortened(given))) if fields is None else fields

    def _of_bags(self, given: EventIds) -> SequenceFields | None:
        """Without vectors of single events, where neither encoder nor tables need them; None elsewhere."""
        encoder = self.encoder
        if not isinstance(encoder, ReadsBags) or not encoder.reads_bags or torch.compiler.is_compiling():
            return None
        bags = self.events.bags(given)
        return None if bags is None else self._fields(bags.target, encoder.of_bags(bags))

    def of_found(self, given: EventIds) -> SequenceFields:
        """Fields of candidates (column 0) with events that search has already found for each, with their own times."""
        return self._encoded(self._looked_up(given))

    def _encoded(self, sequence: SequenceInput) -> SequenceFields:
        return self._fields(sequence.target, self.encoder(sequence))

    def _fields(self, target: Float[Tensor, "tables batch width"], out: SequenceOutput) -> SequenceFields:
        auxiliary = None if out.auxiliary is None else self._split(target, out.auxiliary)
        return SequenceFields(self._split(target, out.vectors), auxiliary, out.loss)

    def read(self, batch: FeatureBatch, *, whole: bool = False) -> SequenceInput:
        """What the encoder gets. `whole`: all events, also where it reads only some."""
        given = self._given(batch)
        return self._looked_up(given if whole else self._shortened(given))

    def _given(self, batch: FeatureBatch) -> EventIds:
        return self.events.join(batch.ids.index_select(1, self.columns), self._history(batch))

    def _looked_up(self, given: EventIds) -> SequenceInput:
        vectors, attention = self.events(given)
        ids = given.ids[:, 1:]
        return SequenceInput(
            target=vectors.target,
            events=vectors.events,
            mask=ids[..., 0].ne(0),
            target_ids=given.ids[:, 0],
            event_ids=ids,
            attention_target=None if attention is None else attention.target,
            attention_events=None if attention is None else attention.events,
        )

    def _history(self, batch: FeatureBatch) -> HistoryBatch:
        if batch.history is None:
            raise ValueError(
                f"the model reads up to {self.config.max_length} past events but the batch has no history; read the "
                "log with its history_length"
            )
        fields = batch.history.ids.shape[2]
        if fields != len(self.columns):
            raise ValueError(f"events of the batch have {fields} ids each, those of the schema {len(self.columns)}")
        return batch.history.newest(self.config.max_length)

    def _shortened(self, given: EventIds) -> EventIds:
        """Candidates and the events that the encoder would select, oldest first, where that spares look-ups."""
        encoder, length = self.encoder, given.ids.shape[1] - 1
        if self.num_tables > 1 or not isinstance(encoder, Selects) or (self.training and encoder.num_auxiliary):
            return given
        if encoder.top_k is None or encoder.top_k >= length:
            return given
        ids, events = given.ids[:, 0], given.ids[:, 1:]
        with torch.no_grad():
            attended = None if encoder.selects_by_ids else self.events.attend(given)
            chosen = encoder.select(attended, events[..., 0].ne(0), ids, events)
        columns = torch.cat([chosen.new_zeros(chosen.shape[0], 1), chosen.sort(dim=1).values + 1], 1)
        return EventIds(take(given.ids, columns), given.times.expand(ids.shape[0], -1).gather(1, columns))

    def _split(
        self, target: Float[Tensor, "tables batch width"], outputs: Float[Tensor, "tables batch outputs width"]
    ) -> Float[Tensor, "tables batch fields dim"]:
        vectors = torch.cat([target.unsqueeze(2), outputs], 2) if self.config.target_field else outputs
        layout = self.events.layout
        parts: Tensor = torch.unflatten(vectors, -1, (layout.parts, layout.dim))
        return parts.flatten(2, 3)


def _encoder(config: SequenceConfig, num_tables: int, layout: EventLayout) -> Encoder | DPN:
    """The encoder, inside that of patterns where there are such: those leave out how far an event is from the end."""
    encoder = build_encoder(config.encoder, num_tables, layout)
    if config.patterns is None:
        return encoder
    return DPN(
        config.patterns,
        encoder,
        num_tables,
        layout.parts,
        layout.dim,
        content_parts=layout.parts - layout.has_position,
        attention_width=layout.attention_width,
    )


class OtherFields(nn.Module):
    """Vectors of the fields that events do not have: `inner` is over a schema without those of `Schema.history`."""

    columns: Tensor

    def __init__(self, schema: Schema, inner: FieldSource) -> None:
        super().__init__()
        if not isinstance(inner, nn.Module):
            raise TypeError(f"a source of fields must be a module, got {type(inner).__name__}")
        self.inner, self.num_fields = inner, inner.num_fields
        slices = [schema.id_columns[f.name] for f in schema.id_fields if f.name not in schema.history]
        kept = [column for columns in slices for column in range(columns.start, columns.stop)]
        self.register_buffer("columns", torch.tensor(kept, dtype=torch.long), persistent=False)

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "tables batch fields dim"]:
        ids = batch.ids.index_select(1, self.columns)
        vectors: Tensor = self.inner(FeatureBatch(ids, batch.numbers, batch.dense, batch.labels, batch.groups))
        return vectors


def other_schema(schema: Schema) -> Schema | None:
    """The fields that events do not have; None when there are none."""
    fields = tuple(field for field in schema.fields if field.name not in schema.history)
    return Schema(fields=fields, labels=schema.labels, group=schema.group) if fields else None
