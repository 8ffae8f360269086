"""A CTR model as a sum of towers over shared field vectors: logits(x) = bias + linear(x) + sum of towers.

A parallel deep branch is a second tower (a linear map of concatenated outputs is the sum of two linear maps). With a
`sequence` the past of the row's user gives fields too, in place of the ordinary vectors of the fields that events have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ctr_models.batch import FeatureBatch
from ctr_models.checks import check_at_least
from ctr_models.interactions.aggregators import Aggregator
from ctr_models.protocols import FieldSource
from ctr_models.schema import Schema
from ctr_models.sequences.events import EventsConfig, EventTables
from ctr_models.sequences.source import OtherFields, SequenceConfig, SequenceFields, SequenceSource, other_schema
from ctr_models.towers import AnyTowerConfig, Tower, build_tower, needs_one_output, start_as_one_head


@runtime_checkable
class LinearPart(Protocol):
    """First-order weights of features: one logit a row and output."""

    def __call__(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CTRModelConfig:
    """`dim` is the width of a field's vector in each of `num_tables` sets; `linear` how features enter at first order:
    one `weight` each, or one `vector` each, multiplied by the field's vector of the interaction (FeLV of FwFM, which
    doubles the tables). `joint_head` starts the linear heads of all towers as one map of their concatenated vectors
    (DCN and its kin), where each by itself would start larger.

    `sequence`: how past events are read; then a model's fields are those that events do not have, in the schema's
    order, and the sequence's after them. `auxiliary`: towers over the fields of its auxiliary head.
    """

    towers: tuple[AnyTowerConfig, ...] = ()
    dim: int = 10
    num_tables: int = 1
    linear: Literal["none", "weight", "vector"] = "none"
    num_outputs: int = 1
    joint_head: bool = False
    sequence: SequenceConfig | None = None
    auxiliary: tuple[AnyTowerConfig, ...] = ()

    def __post_init__(self) -> None:
        check_at_least("dim", self.dim, 1)
        check_at_least("num_tables", self.num_tables, 1)
        check_at_least("num_outputs", self.num_outputs, 1)
        if not self.towers and self.linear != "weight":
            raise ValueError(f"a model without towers needs linear 'weight', got {self.linear!r}")
        if self.linear == "vector" and self.num_tables > 1:
            raise ValueError(f"linear 'vector' is for one table, got num_tables {self.num_tables}")
        heads = (*self.towers, *self.auxiliary)
        if self.num_outputs > 1 and (self.linear == "vector" or any(needs_one_output(tower) for tower in heads)):
            raise ValueError(f"num_outputs {self.num_outputs} needs linear heads: a sum gives one logit")
        self._check_sequence()

    def _check_sequence(self) -> None:
        if self.sequence is None:
            if self.auxiliary:
                raise ValueError("auxiliary towers read what a sequence gives; set sequence, or leave auxiliary out")
            return
        if not self.towers:
            raise ValueError("a sequence gives fields to towers; name at least one")
        if self.linear == "vector":
            raise ValueError("linear 'vector' weighs the fields of the schema, which a sequence replaces; use 'weight'")

    @property
    def history_length(self) -> int:
        """How many past events a row must bring; 0 without a sequence."""
        return 0 if self.sequence is None else self.sequence.max_length


class ParameterSplit(NamedTuple):
    """Parameters by how they are regularised and trained: each once. Orders are the aggregators' layer weights, which
    are not to be decayed to 0.
    """

    embeddings: list[nn.Parameter]
    dense: list[nn.Parameter]
    orders: list[nn.Parameter]


class ModelOutputs(NamedTuple):
    """What training needs. `auxiliary` logits are those of a second head, `loss` is the sequence encoder's own; both
    come from a model in training alone, where its sequence has them.
    """

    logits: Float[Tensor, "batch outputs"]
    auxiliary: Float[Tensor, "batch outputs"] | None = None
    loss: Float[Tensor, ""] | None = None


class LastHidden(NamedTuple):
    """Logits, and what the linear heads of all towers read, side by side: each logit is affine in `vectors`."""

    logits: Float[Tensor, "batch outputs"]
    vectors: Float[Tensor, "batch width"]


class CTRModel(nn.Module):
    """See the module and `CTRModelConfig`. Parts that hold tables are passed in built: `sources` of the field vectors
    (None without towers, or when the sequence gives all fields), `linear` for first-order weights, `linear_vectors` for
    `linear="vector"`, and `sequence`.
    """

    def __init__(
        self,
        config: CTRModelConfig,
        sources: FieldSource | None,
        *,
        linear: LinearPart | None = None,
        linear_vectors: FieldSource | None = None,
        sequence: SequenceSource | None = None,
    ) -> None:
        super().__init__()
        _check_parts(config, sources, linear, linear_vectors, sequence)
        self.config = config
        self.sources = sources if config.towers else None
        self.linear = linear
        self.linear_vectors = linear_vectors
        self.sequence = sequence
        num_fields = (0 if sources is None else sources.num_fields) + (0 if sequence is None else sequence.num_fields)
        self.towers = _towers(config, config.towers, num_fields)
        if config.joint_head:
            start_as_one_head(
                [tower.head for tower in self.towers if isinstance(tower, Tower) and tower.head is not None]
            )
        self.bias = nn.Parameter(torch.zeros(config.num_outputs))
        self.auxiliary = _towers(config, config.auxiliary, 0 if sequence is None else sequence.num_auxiliary_fields)
        self.auxiliary_bias = nn.Parameter(torch.zeros(config.num_outputs)) if config.auxiliary else None

    def forward(self, batch: FeatureBatch) -> Float[Tensor, "batch outputs"]:
        """Logits, one column an output: all that a server needs. `ValueError` for vectors of another layout than the
        config's, and for a batch without the history that the model reads.
        """
        return self._logits(batch, None if self.sequence is None else self.sequence(batch))

    def with_fields(self, batch: FeatureBatch, read: SequenceFields) -> Float[Tensor, "batch outputs"]:
        """Logits of rows whose past has been read already (a server's, by `SequenceSource.of_found`)."""
        return self._logits(batch, read)

    def outputs(self, batch: FeatureBatch) -> ModelOutputs:
        """Logits with what is added to their loss in training. The same errors."""
        if self.sequence is None:
            return ModelOutputs(self._logits(batch, None))
        read: SequenceFields = self.sequence(batch)
        logits = self._logits(batch, read)
        if read.auxiliary is None or self.auxiliary_bias is None:
            return ModelOutputs(logits, None, read.loss)
        auxiliary = self.auxiliary_bias.expand(len(logits), -1)
        for tower in self.auxiliary:
            auxiliary = auxiliary + tower(read.auxiliary)
        return ModelOutputs(logits, auxiliary, read.loss)

    def last_hidden(self, batch: FeatureBatch) -> LastHidden:
        """Logits with the input of their linear heads, in one pass. `ValueError` without a tower that has such a head
        (FinalMLP's is bilinear, that of FM and its kin a sum).
        """
        read = None if self.sequence is None else self.sequence(batch)
        logits, fields = self._first_order(batch, read)
        vectors: list[Tensor] = []
        for tower in self.towers:
            if isinstance(tower, Tower) and tower.head is not None and fields is not None:
                vectors.append(tower.vectors(fields))
                logits = logits + tower.read_out(vectors[-1])
            else:
                logits = logits + tower(fields)
        if not vectors:
            found = ", ".join(type(tower).__name__ for tower in self.towers) or "none"
            raise ValueError(
                f"no tower has a linear head (towers: {found}); a sum, a bilinear head and first-order weights alone "
                "have no last hidden vector: choose a model with a tower of head 'linear'"
            )
        return LastHidden(logits, torch.cat(vectors, 2).squeeze(0))

    def _logits(self, batch: FeatureBatch, read: SequenceFields | None) -> Float[Tensor, "batch outputs"]:
        logits, fields = self._first_order(batch, read)
        for tower in self.towers:
            logits = logits + tower(fields)
        return logits

    def _first_order(
        self, batch: FeatureBatch, read: SequenceFields | None
    ) -> tuple[Float[Tensor, "batch outputs"], Float[Tensor, "tables batch fields dim"] | None]:
        """Logits without those of towers, and what towers read (None for a model without any)."""
        logits = self.bias.expand(batch.labels.shape[0], -1)  # len() would fix the batch in an exported graph
        if self.linear is not None:
            logits = logits + self.linear(batch)
        fields = self._fields(batch, read)
        if fields is not None and self.linear_vectors is not None:
            logits = logits + (fields * self.linear_vectors(batch)).sum((0, 2, 3)).unsqueeze(1)
        return logits, fields

    def _fields(
        self, batch: FeatureBatch, read: SequenceFields | None
    ) -> Float[Tensor, "tables batch fields dim"] | None:
        parts = [] if self.sources is None else [self.sources(batch)]
        if read is not None:
            parts.append(read.fields)
        for fields in parts:
            expected, found = (self.config.num_tables, self.config.dim), (fields.shape[0], fields.shape[3])
            if found != expected:
                raise ValueError(f"the sources give (num_tables, dim) {found} but the config says {expected}")
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def split_parameters(self) -> ParameterSplit:
        """Every parameter once: those of sources, first-order parts and tables of events, layer weights of aggregators,
        all others (projections and encoders of sequences among them).
        """
        tables = [] if self.sequence is None else [self.sequence.events.representation, self.sequence.events.attention]
        parts = [p for p in (self.sources, self.linear, self.linear_vectors, *tables) if isinstance(p, nn.Module)]
        embeddings = [p for part in parts for p in part.parameters()]
        orders = [p for module in self.modules() if isinstance(module, Aggregator) for p in module.parameters()]
        seen = {id(p) for p in (*embeddings, *orders)}
        return ParameterSplit(embeddings, [p for p in self.parameters() if id(p) not in seen], orders)


@torch.no_grad()
def draw_weights(model: CTRModel, std: float) -> None:
    """N(0, std^2) for every weight that is no bias and in no table of vectors, scales of normalisations and slopes of
    PReLU among them: with tables of the same deviation the released DARE's start, std 0.01 (its biases are torch's).
    """
    biases, drawn = bias_ids(model), {id(parameter) for parameter in model.split_parameters().dense}
    for parameter in model.parameters():
        if id(parameter) in drawn and id(parameter) not in biases:
            parameter.normal_(0.0, std)


def bias_ids(model: nn.Module) -> set[int]:
    """Identities of the parameters whose name ends in bias."""
    return {id(parameter) for name, parameter in model.named_parameters() if name.endswith("bias")}


SourceBuilder: TypeAlias = Callable[[Schema, int, int], FieldSource]
LinearBuilder: TypeAlias = Callable[[Schema, int], LinearPart]
EventsBuilder: TypeAlias = Callable[[EventsConfig, Schema, int, int], EventTables]


def build_ctr_model(
    config: CTRModelConfig,
    schema: Schema,
    *,
    build_sources: SourceBuilder,
    build_linear: LinearBuilder,
    build_events: EventsBuilder = EventTables,
) -> CTRModel:
    """The model of `config` over `schema`: sources of (schema, dim, num_tables), linear part of (schema, num_outputs),
    tables of events of (config, schema, dim, num_tables).

    A model without towers reads no vectors and gets no source. With a sequence, `build_sources` is asked for the fields
    that events do not have, if there are any. `ValueError` when the schema has no history and the model reads one.
    """
    if config.sequence is None:
        return CTRModel(
            config,
            build_sources(schema, config.dim, config.num_tables) if config.towers else None,
            linear=build_linear(schema, config.num_outputs) if config.linear == "weight" else None,
            linear_vectors=build_sources(schema, config.dim, 1) if config.linear == "vector" else None,
        )
    rest = other_schema(schema)
    events = build_events(config.sequence.events, schema, config.dim, config.num_tables)
    return CTRModel(
        config,
        None if rest is None else OtherFields(schema, build_sources(rest, config.dim, config.num_tables)),
        linear=build_linear(schema, config.num_outputs) if config.linear == "weight" else None,
        sequence=SequenceSource(config.sequence, schema, events, config.num_tables),
    )


def _check_parts(
    config: CTRModelConfig,
    sources: FieldSource | None,
    linear: LinearPart | None,
    linear_vectors: FieldSource | None,
    sequence: SequenceSource | None,
) -> None:
    if (linear is not None) != (config.linear == "weight"):
        raise ValueError(f"linear is {config.linear!r} in the config but the part is {type(linear).__name__}")
    if (linear_vectors is not None) != (config.linear == "vector"):
        found = type(linear_vectors).__name__
        raise ValueError(f"linear is {config.linear!r} in the config but linear_vectors is {found}")
    if (sequence is not None) != (config.sequence is not None):
        raise ValueError(f"the config {_has(config.sequence)} a sequence but the part is {type(sequence).__name__}")
    if sources is None and sequence is None and config.towers:
        raise ValueError("towers read field vectors: pass sources")
    given = 0 if sequence is None else sequence.num_auxiliary_fields
    if bool(config.auxiliary) != bool(given):
        raise ValueError(
            f"the config names {len(config.auxiliary)} auxiliary towers but its sequence gives {given} auxiliary "
            "fields; set both, or neither"
        )


def _towers(config: CTRModelConfig, towers: tuple[AnyTowerConfig, ...], num_fields: int) -> nn.ModuleList:
    return nn.ModuleList(
        build_tower(tower, config.num_tables, num_fields, config.dim, config.num_outputs) for tower in towers
    )


def _has(sequence: SequenceConfig | None) -> str:
    return "has no" if sequence is None else "has"
