"""What sequence models get and give.

Vectors come from tables (`ctr_models.sequences.events`), so an encoder never sees one: ids, semantic codes and
language-model vectors of items meet every encoder. An event's vector has `width` numbers, parts of `dim` numbers side
by side (item, category, .., position); what an encoder gives has the same width, so it splits into fields again, and
interactions, losses and several embedding sets work on it as on any field.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SequenceInput:
    """A batch of candidates with their users' events (oldest first, padded on the left), for all embedding sets.

    `target` and `events` are what is pooled and passed on. Models that decouple attention from representation look at
    `attention_target` and `attention_events` to find and weigh events; elsewhere these are None, and the two above
    serve for both. Vectors of padding are zero before a position is added, and anything after: use `mask`. The ids are
    those of `Schema.history`, for rules such as "same category".
    """

    target: Float[Tensor, "tables batch width"]
    events: Float[Tensor, "tables batch length width"]
    mask: Bool[Tensor, "batch length"]
    target_ids: Int64[Tensor, "batch fields"]
    event_ids: Int64[Tensor, "batch length fields"]
    attention_target: Float[Tensor, "tables batch attention_width"] | None = None
    attention_events: Float[Tensor, "tables batch length attention_width"] | None = None


class SequenceOutput(NamedTuple):
    """`vectors` for the head of the model. `auxiliary`, from a model in training only: the vectors that a second head
    reads, whose loss is added. `loss`, from a model in training only: a term of the encoder's own (a next-event loss, a
    search loss), added to the total.
    """

    vectors: Float[Tensor, "tables batch outputs width"]
    auxiliary: Float[Tensor, "tables batch auxiliary_outputs width"] | None = None
    loss: Float[Tensor, ""] | None = None


@runtime_checkable
class SequenceEncoder(Protocol):
    """Candidate and events -> vectors of the events' width. Every set has parameters of its own.

    A row without events gets zero vectors for what is pooled, and finite numbers everywhere. Padding changes nothing:
    more columns on the left give the same result.
    """

    @property
    def num_outputs(self) -> int:
        """How many vectors it gives; the candidate's own is not among them."""
        ...

    @property
    def num_auxiliary(self) -> int:
        """How many vectors a second head gets in training; 0 when there is none."""
        ...

    def __call__(self, sequence: SequenceInput) -> SequenceOutput: ...
