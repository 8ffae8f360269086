"""Click models with long histories, served: events are found by cached keys, and the model reads only those.

A request is a user and candidates. Search reads the user's cached keys (`ctr_models.sequences.cache`), never the
history: one product for all candidates. What is found (ids and positions of k events a candidate) is all that the rest
of the model needs, since it attends to the k best events by the same score. So a served score equals that of the whole
model on the whole history, to rounding, whenever storage is float32, and whenever rounded keys miss no event otherwise.

What search needs to know of a model is `AttentionParts`; `DecoupledTables` is that for plain tables, and DARE's forward
pass over what was found.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from ctr_models.sequences.cache import UserKeyCache, UserKeyCacheConfig
from ctr_models.sequences.found import masked_softmax
from ctr_models.sequences.separable import Scaling, position_bias, semantic_factor
from llm_rec.errors import ConfigError, DataError


@runtime_checkable
class AttentionParts(Protocol):
    """What search reads of a trained model: attention vectors without their position, and what positions add.

    Scores must be <query, key> + bias[position - 1], with position 1 for the newest event: DARE, TWIN and their like
    with positions concatenated, or without. Added positions, MLP scores and gaps in time have no such form.
    """

    @property
    def bias(self) -> Float[Tensor, "positions"] | None: ...

    def keys(self, ids: Int64[Tensor, "events fields"]) -> Float[Tensor, "events width"]: ...

    def queries(self, ids: Int64[Tensor, "candidates fields"]) -> Float[Tensor, "candidates width"]:
        """Of candidates, scaled: a plain product with a key is the score."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FoundEvents:
    """k events for each candidate as a model reads a history: oldest first, padded on the left with id 0, position 0
    and score -inf. Positions are those in the whole history.
    """

    ids: Int64[Tensor, "candidates k fields"]
    positions: Int64[Tensor, "candidates k"]
    scores: Float32[Tensor, "candidates k"]

    @property
    def weights(self) -> Float32[Tensor, "candidates k"]:
        """Softmax over what was found; zeros for padding, and for all where there is no event."""
        return masked_softmax(self.scores, self.positions.ne(0))


@runtime_checkable
class Head(Protocol):
    """The rest of a model: logits of candidates with the events found for each."""

    def __call__(
        self, candidates: Int64[Tensor, "candidates fields"], found: FoundEvents
    ) -> Float[Tensor, "candidates"]: ...


class SequenceServer:
    """Finds events of cached users for candidates. `k` is the model's own number of events attended to.

    Updates and requests may come from any thread (see `UserKeyCache` for what they see). Parts must stay as they are;
    a new version of the model gets a new server.
    """

    def __init__(self, parts: AttentionParts, k: int, config: UserKeyCacheConfig | None = None) -> None:
        self.parts, self.k = parts, k
        try:
            self.cache = UserKeyCache(config or UserKeyCacheConfig(), parts.keys, parts.bias)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def put(self, user: Hashable, events: Int64[Tensor, "length fields"]) -> None:
        """A user's whole history, oldest first. Raises `DataError` for ids that cannot be, and users too large."""
        try:
            self.cache.put(user, events)
        except ValueError as error:
            raise DataError(str(error)) from error

    def append(self, user: Hashable, events: Int64[Tensor, "new fields"]) -> bool:
        """What the user did since; False when they are not here, and `put` is needed. Raises as `put` does."""
        try:
            return self.cache.append(user, events)
        except ValueError as error:
            raise DataError(str(error)) from error

    def find(self, user: Hashable, candidates: Int64[Tensor, "candidates fields"]) -> FoundEvents:
        """The k best events for each candidate; `DataError` when the user is not here."""
        with torch.no_grad():
            queries = self.parts.queries(candidates)
        try:
            hits = self.cache.search(user, queries, self.k)
        except ValueError as error:
            raise DataError(str(error)) from error
        order = hits.indices.sort(1).indices  # -1, where there is none, comes first
        return FoundEvents(
            hits.ids.gather(1, order.unsqueeze(2).expand_as(hits.ids)),
            hits.positions.gather(1, order),
            hits.scores.gather(1, order),
        )

    def score(
        self, user: Hashable, candidates: Int64[Tensor, "candidates fields"], head: Head
    ) -> Float[Tensor, "candidates"]:
        """Logits of all candidates by the rest of the model; `DataError` when the user is not here."""
        with torch.no_grad():
            return head(candidates, self.find(user, candidates))


@dataclass(frozen=True, slots=True, eq=False)
class DecoupledTables:
    """Tables of one embedding set, one a field, with one of positions (row 0: the candidate) or none in both roles.

    For one table in both roles (TWIN) give the same tensors twice.
    """

    attention: tuple[Float[Tensor, "_ _"], ...]
    representation: tuple[Float[Tensor, "_ _"], ...]
    attention_positions: Float[Tensor, "positions _"] | None = None
    representation_positions: Float[Tensor, "positions _"] | None = None
    scaling: Scaling = "split"

    def __post_init__(self) -> None:
        fields = len(self.attention), len(self.representation)
        if fields[0] != fields[1] or not fields[0]:
            raise ConfigError(
                f"attention has tables of {fields[0]} fields but representation of {fields[1]}; give all fields to both"
            )
        if (self.attention_positions is None) != (self.representation_positions is None):
            raise ConfigError("positions are in one role alone; give a table of positions for both, or for none")

    @property
    def bias(self) -> Float[Tensor, "positions"] | None:
        table = self.attention_positions
        return None if table is None else position_bias(table, self._width, self.scaling)

    def keys(self, ids: Int64[Tensor, "events fields"]) -> Float[Tensor, "events width"]:
        return look_up(self.attention, ids)

    def queries(self, ids: Int64[Tensor, "candidates fields"]) -> Float[Tensor, "candidates width"]:
        positions = 0 if self.attention_positions is None else self.attention_positions.shape[1]
        return self.keys(ids) * semantic_factor(self._width, positions, self.scaling)

    def vectors(
        self, candidates: Int64[Tensor, "candidates fields"], found: FoundEvents
    ) -> Float[Tensor, "candidates three_widths"]:
        """DARE's [r_t, h, r_t * h]: the candidate, the pooled events, and their product (arXiv 2410.02604)."""
        target, events = look_up(self.representation, candidates), look_up(self.representation, found.ids)
        if self.representation_positions is not None:
            own = self.representation_positions[torch.zeros_like(candidates[:, 0])]
            target = torch.cat([target, own], 1)
            events = torch.cat([events, self.representation_positions[found.positions]], 2)
        pooled = torch.einsum("ck,ckw->cw", found.weights.to(events.dtype), events)
        return torch.cat([target, pooled, target * pooled], 1)

    @property
    def _width(self) -> int:
        return sum(table.shape[1] for table in self.attention)


def look_up(
    tables: tuple[Float[Tensor, "_ _"], ...], ids: Int64[Tensor, "*shape fields"]
) -> Float[Tensor, "*shape width"]:
    """Rows of all fields side by side."""
    return torch.cat([table[ids[..., field]] for field, table in enumerate(tables)], -1)
