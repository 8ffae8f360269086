"""What PAD learns: phase 2 (align) and phase 3 (disentangle); phase 1 is `llm_rec.sequential.task.NextItemTask`.

A step computes the vectors of each distinct item of its batch once, and all experts share the look-up of its text.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from llm_rec.errors import ConfigError
from llm_rec.pad.alignment import NoAlignmentConfig, alignment_loss, pick_rows
from llm_rec.pad.experts import AlignedItems, AlignedParts
from llm_rec.pad.model import Expert, PADModel
from llm_rec.sequential.batches import SequenceBatch
from llm_rec.sequential.items import distinct_rows
from llm_rec.sequential.objective import CrossEntropyConfig, LossConfig, catalog_loss, negatives_of, sampled_loss
from llm_rec.training.groups import ParameterGroup
from llm_rec.training.task import StepLoss


class StepItems(NamedTuple):
    """Item rows a step needs vectors of, and where the batch's history, targets and negatives are among them."""

    rows: Int64[Tensor, "rows"]
    history: Int64[Tensor, "batch length"]
    targets: Int64[Tensor, "targets"]
    negatives: Int64[Tensor, "*negatives"] | None


def step_items(batch: SequenceBatch, loss: LossConfig, num_items: int) -> StepItems:
    """The distinct rows of a batch, or all rows where the loss ranks the whole catalog.

    Raises `ConfigError` when the loss needs negatives and the batch has none.
    """
    if isinstance(loss, CrossEntropyConfig):
        rows = torch.arange(num_items + 1, device=batch.history.device)
        return StepItems(rows, batch.history, batch.targets, None)
    asked = (batch.history, batch.targets, negatives_of(batch, loss))
    rows, places = distinct_rows(torch.cat([part.flatten() for part in asked]), num_items + 1)
    parts = torch.split(places, [part.numel() for part in asked])
    history, targets, negatives = (place.view(part.shape) for place, part in zip(parts, asked, strict=True))
    return StepItems(rows, history, targets, negatives)


def next_item_loss(
    config: LossConfig,
    states: Float[Tensor, "targets width"],
    vectors: Float[Tensor, "rows width"],
    items: StepItems,
    batch: SequenceBatch,
    *,
    num_items: int,
) -> Float[Tensor, ""]:
    """The loss `config` names, of user states against candidates given as places in `vectors`.

    A mixture of experts comes here folded, as one inner product, so every loss of `llm_rec.sequential.losses` applies.
    """
    if isinstance(config, CrossEntropyConfig):
        return catalog_loss(config, states, vectors, items.targets)
    if items.negatives is None:
        raise ConfigError("the step holds no negatives; only the full cross-entropy does without")
    target, negative = F.embedding(items.targets, vectors), F.embedding(items.negatives, vectors)
    return sampled_loss(config, states, target, negative, batch, num_items=num_items)


class AlignTask:
    """Phase 2: L = recommendation loss of the aligned tower + weight * alignment of p(t) and e' (PAD, section 2.4).

    The recommendation loss is the anchor: without it a permutation of the texts aligns as well. Only the aligned expert
    learns; the collaborative one keeps every bit of phase 1.
    """

    def __init__(self, model: PADModel) -> None:
        self.model = model
        tower = model.expert("aligned")
        if not isinstance(tower.items, AlignedItems):
            raise TypeError(f"the aligned expert holds {type(tower.items).__name__}")
        self.tower: Expert = tower
        self.items: AlignedItems = tower.items

    @property
    def module(self) -> PADModel:
        return self.model

    def loss(self, batch: SequenceBatch) -> StepLoss:
        """Both terms on one look-up of the batch's items."""
        config = self.model.config
        items = step_items(batch, config.loss, self.model.num_items)
        parts = self.items.parts(self.model.inputs(items.rows))
        terms = {}
        if config.anchor:
            terms["anchor"] = self._anchor(parts.fused, items, batch)
        if not isinstance(config.alignment, NoAlignmentConfig):
            terms["alignment"] = self._alignment(parts, items, batch)
        total = torch.stack([*terms.values()]).sum()
        return StepLoss(total, {name: term.detach() for name, term in terms.items()}, float(len(batch.targets)))

    def _anchor(self, fused: Float[Tensor, "rows dim"], items: StepItems, batch: SequenceBatch) -> Float[Tensor, ""]:
        vectors = fused * (items.rows != 0)[:, None]
        states = self.tower.backbone(F.embedding(items.history, vectors), batch.history != 0)
        states = states.flatten(0, 1).index_select(0, batch.positions)
        loss, number = self.model.config.loss, self.model.num_items
        return next_item_loss(loss, states, vectors, items, batch, num_items=number)

    def _alignment(self, parts: AlignedParts, items: StepItems, batch: SequenceBatch) -> Float[Tensor, ""]:
        config = self.model.config
        if config.alignment_rows == "all":
            places = every_place(items, batch)
            mask = None
        else:
            given = [part.flatten() for part in (items.history, items.targets, items.negatives) if part is not None]
            places = torch.cat(given)
            picked, mask = pick_rows(items.rows[places], config.max_alignment_rows)
            places = places[picked]
        if self.model.known is not None:  # ids that are never read need no alignment
            known = self.model.known[items.rows[places]]
            mask = known if mask is None else mask & known
        texts, ids = F.embedding(places, parts.texts), F.embedding(places, parts.ids)
        return alignment_loss(config.alignment, texts, ids, mask)


def every_place(items: StepItems, batch: SequenceBatch) -> Int64[Tensor, "places"]:
    """Every row of the flattened batch as the released code compares them: sequences, negatives, padding alike.

    A sequence is a history with its last target, so its items count once each; negatives are laid out as the history
    is, with its padding. Padding reaches the longest history of the batch (the released code pads to a fixed length).
    """
    length = items.history.shape[1]
    sequence = torch.cat([items.history, items.history[:, -1:]], dim=1).flatten()
    following = batch.positions + torch.div(batch.positions, length, rounding_mode="floor") + 1
    sequence = sequence.scatter(0, following, items.targets)
    if items.negatives is None:
        return sequence
    if items.negatives.dim() == 1:
        return torch.cat([sequence, items.negatives])
    columns = items.negatives.T
    laid_out = items.history.flatten().expand(len(columns), -1)
    laid_out = laid_out.scatter(1, batch.positions.expand(len(columns), -1), columns)
    return torch.cat([sequence, laid_out.flatten()])


class DisentangleTask:
    """Phase 3: the recommendation loss of the gated mixture; every expert and the gate learn, no alignment term."""

    def __init__(self, model: PADModel) -> None:
        self.model = model

    @property
    def module(self) -> PADModel:
        return self.model

    def loss(self, batch: SequenceBatch) -> StepLoss:
        """The loss on folded candidates, which is the loss on mixed logits: each item under its own gate weights."""
        config = self.model.config
        items = step_items(batch, config.loss, self.model.num_items)
        looked_up = self.model.look_up(items.rows)
        states = self.model.states(looked_up.vectors, items.history, batch.history != 0)
        states = states.flatten(0, 1).index_select(0, batch.positions)
        total = next_item_loss(config.loss, states, looked_up.folded(), items, batch, num_items=self.model.num_items)
        return StepLoss(total, {"loss": total.detach()}, float(len(batch.targets)))


def pad_groups(module: nn.Module) -> Sequence[ParameterGroup]:
    """All trainable parameters; those of the gate without weight decay (PAD, section 2.5)."""
    trainable = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    gate = [parameter for name, parameter in trainable if name.startswith("gate.")]
    rest = [parameter for name, parameter in trainable if not name.startswith("gate.")]
    groups = (ParameterGroup(params=rest), ParameterGroup(params=gate, weight_decay=0.0))
    return [group for group in groups if group["params"]]
