"""`RoleVectors` read off a model's own look-up of candidates and events, whatever tables or projections lie behind it.

Every part of a vector must be linear in its own field: tables side by side, tables with a position added, and maps of
each part are. Then the vector of a category is what an event with it has beyond one without, and nothing of the model's
build need be known.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.schema import PADDING, UNKNOWN
from llm_rec.analysis.target_attention import Position, RoleVectors


@runtime_checkable
class RoleLookUp(Protocol):
    """Ids of candidates (column 0) and their events (the others), in the order of `Schema.history`, and positions, 0
    for candidates -> vectors of one role: of candidates, and of events.
    """

    def __call__(
        self, ids: Int64[Tensor, "batch columns fields"], positions: Int64[Tensor, "one columns"], /
    ) -> tuple[Float[Tensor, "tables batch width"], Float[Tensor, "tables batch length width"]]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PartLayout:
    """Widths of the parts of a vector: the fields of the history in order, further ones, and with position "concat" the
    position last. `field` is the category's place among the history's `num_fields`.
    """

    widths: tuple[int, ...]
    field: int
    num_fields: int
    combine: Position

    def __post_init__(self) -> None:
        if not 1 <= self.field < self.num_fields <= len(self.widths):
            raise ValueError(
                f"the category must be a field after the item, and have a part: field {self.field} of "
                f"{self.num_fields} with {len(self.widths)} parts"
            )

    @property
    def category(self) -> slice:
        start = sum(self.widths[: self.field])
        return slice(start, start + self.widths[self.field])

    @property
    def position(self) -> slice:
        """Where positions lie: their own part, or with "add" the category's share of the whole; empty with "none"."""
        match self.combine:
            case "concat":
                return slice(sum(self.widths[:-1]), sum(self.widths))
            case "add":
                return self.category
            case "none":
                return slice(0, 0)


@torch.no_grad()
def read_role_vectors(
    look_up: RoleLookUp, layout: PartLayout, *, num_ids: int, num_positions: int, table: int = 0
) -> RoleVectors:
    """Vectors of all ids of the category and of positions 0 to `num_positions`, of embedding set `table`.

    Four look-ups: of events by category and by position, of candidates by category, and of one without.
    """
    categories, positions = torch.arange(num_ids), torch.arange(num_positions + 1)
    one, two = torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64)
    by_category, by_position = torch.cat([one, categories[None]], 1), torch.cat([one, positions[None]], 1)
    events = look_up(_ids(layout, by_category), torch.zeros_like(by_category))[1][table, 0]
    bare = look_up(_ids(layout, torch.zeros_like(by_position)), by_position)[1][table, 0]
    targets = look_up(_ids(layout, categories[:, None].expand(-1, 2)), two)[0][table]
    target = look_up(_ids(layout, two), two)[0][table]
    own, place = layout.category, layout.position
    return RoleVectors(
        category=_array(events[:, own] - bare[:1, own]),
        position=_array(bare[:, place]),
        combine=layout.combine,
        target_category=_array(targets[:, own] - target[:, own]),
        target_position=_array(target[0, place]),
    )


def _ids(layout: PartLayout, categories: Int64[Tensor, "batch columns"]) -> Int64[Tensor, "batch columns fields"]:
    """Of these categories. The item is real, so that nothing is taken for padding; other fields are left empty."""
    ids = torch.full((*categories.shape, layout.num_fields), PADDING)
    ids[:, :, 0] = UNKNOWN
    ids[:, :, layout.field] = categories
    return ids


def _array(vectors: Tensor) -> np.ndarray:
    found: np.ndarray = vectors.double().cpu().numpy()
    return found
