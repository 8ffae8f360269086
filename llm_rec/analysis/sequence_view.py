"""A `CTRModel` with a sequence as the analyses see it: one of its embedding sets, in evaluation mode."""

from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ctr_models.batch import FeatureBatch
from ctr_models.model import CTRModel
from ctr_models.schema import Schema
from ctr_models.sequences.attention import DotScore
from ctr_models.sequences.events import EventIds, EventVectors
from ctr_models.sequences.source import SequenceSource
from ctr_models.sequences.target_attention import TargetAttention, attended
from ctr_models.sequences.tin import TIN
from llm_rec.analysis.role_vectors import PartLayout, RoleLookUp, read_role_vectors
from llm_rec.analysis.target_attention import RoleVectors
from llm_rec.errors import DataError


class ModelView:
    """A `SequenceView`. Vectors by category and position are read of models that attend by a scaled product and count
    positions from the end; `scores` are those of target attention and TIN. All other models have features alone.
    """

    def __init__(self, model: CTRModel, schema: Schema, category: str, *, table: int = 0) -> None:
        if model.sequence is None:
            raise DataError("this model reads no behaviour sequence; choose a run of a model with one")
        if category not in schema.history[1:]:
            raise DataError(
                f"{category!r} is no field of past events beside the item (there are: "
                f"{', '.join(schema.history[1:]) or 'none'}); name one of them"
            )
        self.model, self.source, self.table = model.eval(), model.sequence, table
        self.field = schema.history.index(category)
        self.num_ids = next(field.size for field in schema.id_fields if field.name == category)

    @cached_property
    def attention(self) -> RoleVectors | None:
        score, layout = _score(self.source), self.source.events.layout
        if not isinstance(score, DotScore) or self.source.config.events.time == "gap":
            return None
        found = self._read(lambda ids, at: self.source.events.attend(EventIds(ids, at)), layout.attention_widths)
        if not layout.has_position or found.target_position is None:
            return found
        own = float(score.scales[-1]) * layout.time_width**0.5  # 1 where each part has a scale of its own
        return RoleVectors(
            found.category, found.position, found.combine, found.target_category, own * found.target_position
        )

    @cached_property
    def representation(self) -> RoleVectors | None:
        layout = self.source.events.layout
        if self.source.config.events.time == "gap":
            return None
        return self._read(lambda ids, at: self.source.events(EventIds(ids, at))[0], (layout.dim,) * layout.parts)

    @property
    def semantic_dim(self) -> int | None:
        score = _score(self.source)
        return round(float(score.scales[0]) ** -2) if isinstance(score, DotScore) else None

    def scores(self, batch: FeatureBatch) -> Float[Tensor, "batch length"] | None:
        score = _score(self.source)
        if score is None or batch.history is None:
            return None
        query, keys = attended(self.source.read(batch.to(self._device), whole=True))
        found: Tensor = score(query, keys)[self.table]
        return F.pad(found, (batch.history.ids.shape[1] - found.shape[1], 0), value=-torch.inf)

    def features(self, batch: FeatureBatch) -> Float[Tensor, "batch width"]:
        there = batch.to(self._device)
        parts = [] if self.model.sources is None else [self.model.sources(there)]
        found: Tensor = torch.cat([*parts, self.source(there).fields], 2)[self.table]
        return found.flatten(1)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _read(self, look_up: RoleLookUp, widths: tuple[int, ...]) -> RoleVectors:
        config, layout = self.source.config, self.source.events.layout
        parts = PartLayout(
            widths=widths, field=self.field, num_fields=layout.num_fields, combine=config.events.position
        )

        def on_device(ids: Int64[Tensor, "batch columns fields"], at: Int64[Tensor, "one columns"]) -> EventVectors:
            return EventVectors(*look_up(ids.to(self._device), at.to(self._device)))

        return read_role_vectors(
            on_device, parts, num_ids=self.num_ids, num_positions=config.max_length, table=self.table
        )


def _score(source: SequenceSource) -> torch.nn.Module | None:
    """The module that scores events against the candidate, where a model has one for all of them."""
    encoder = source.encoder
    return encoder.score if isinstance(encoder, TargetAttention | TIN) else None
