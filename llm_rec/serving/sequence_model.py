"""A trained click model with a history as the parts of `SequenceServer`: what search reads, and the rest as a head."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.batch import FeatureBatch
from ctr_models.model import CTRModel
from ctr_models.sequences.attention import DotScore
from ctr_models.sequences.events import EventIds, EventVectors
from ctr_models.sequences.source import SequenceSource
from ctr_models.sequences.target_attention import TargetAttention
from llm_rec.errors import ConfigError
from llm_rec.serving.sequences import FoundEvents


class ServedSequence:
    """`AttentionParts` of `model`, and its logits for candidates whose events were found.

    Takes models of one embedding set that attend to the k best events by a dot product (DARE, TWIN, TWIN-4E, 3E,
    projections) with positions concatenated, or none; `ConfigError` for others.
    """

    def __init__(self, model: CTRModel) -> None:
        self.model = model.eval()
        self.source, self._score, self.k = _searchable(model)
        layout = self.source.events.layout
        self._width = layout.attention_width - layout.time_width
        self._bias = self._position_bias() if layout.time_width else None

    @property
    def bias(self) -> Float[Tensor, "positions"] | None:
        return self._bias

    def keys(self, ids: Int64[Tensor, "events fields"]) -> Float[Tensor, "events width"]:
        """Attention vectors of events, without their position."""
        columns = torch.cat([ids.new_zeros(1, ids.shape[1]), ids]).unsqueeze(0)
        return self._attended(columns, ids.new_zeros(1, len(ids) + 1)).events[0, 0, :, : self._width]

    def queries(self, ids: Int64[Tensor, "candidates fields"]) -> Float[Tensor, "candidates width"]:
        """Attention vectors of candidates, scaled, without their position."""
        target = self._attended(ids.unsqueeze(1), ids.new_zeros(1, 1)).target
        return self._score.scaled(target)[0, :, : self._width]

    def logits(self, batch: FeatureBatch, found: FoundEvents) -> Float[Tensor, "candidates outputs"]:
        """Of candidates, one a row of `batch` (its history is not read), with the events found for each."""
        target = batch.ids.index_select(1, self.source.columns)
        ids = torch.cat([target.unsqueeze(1), found.ids], 1)
        times = torch.cat([found.positions.new_zeros(len(target), 1), found.positions], 1)
        with torch.no_grad():
            return self.model.with_fields(batch, self.source.of_found(EventIds(ids, times)))

    @torch.no_grad()
    def _attended(
        self, ids: Int64[Tensor, "rows columns fields"], times: Int64[Tensor, "#rows columns"]
    ) -> EventVectors:
        return self.source.events.attend(EventIds(ids, times))

    def _position_bias(self) -> Float[Tensor, "positions"]:
        """<scaled p_0, p_p> of the positions 1, 2, .. that the model has."""
        rows = self.source.events.config.max_positions
        columns = self.source.columns
        ids = columns.new_zeros(1, rows, len(columns))
        vectors = self._attended(ids, torch.arange(rows, device=columns.device).unsqueeze(0))
        return vectors.events[0, 0, :, self._width :] @ self._score.scaled(vectors.target)[0, 0, self._width :]


def _searchable(model: CTRModel) -> tuple[SequenceSource, DotScore, int]:
    source = model.sequence
    if source is None:
        raise ConfigError("the model reads no history; serve it by ClickScorer")
    encoder, config = source.encoder, source.config
    if not isinstance(encoder, TargetAttention) or encoder.config.search != "soft" or encoder.config.top_k is None:
        raise ConfigError(f"{config.encoder} does not search the k best events by score; serve it on whole histories")
    if not isinstance(encoder.score, DotScore):
        raise ConfigError(f"{encoder.config.score} is no dot product of keys; serve the model on whole histories")
    events = config.events
    if events.position == "add" or (events.position == "concat" and events.time == "gap"):
        raise ConfigError(
            f"keys contain when events were (position {events.position!r}, time {events.time!r}), so they change with "
            "every event; take position 'concat' with time 'position', or serve the model on whole histories"
        )
    if source.num_tables > 1:
        raise ConfigError(
            f"the model has {source.num_tables} embedding sets, each with a search of its own; serve it "
            "on whole histories"
        )
    return source, encoder.score, encoder.config.top_k
