"""DIEN: interests along a history by a GRU, and how they evolve towards the candidate by AUGRU (arXiv 1809.03672)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.layers import TableLinear, xavier
from ctr_models.sequences.found import masked_softmax
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput


@dataclass(frozen=True, kw_only=True, slots=True)
class DIENConfig:
    """`next_event_weight` of the auxiliary loss (alpha of eq. 8; 0 switches it off)."""

    next_event_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.next_event_weight < 0:
            raise ValueError(f"next_event_weight must be at least 0, got {self.next_event_weight}")


class GatedScan(nn.Module):
    """A GRU whose update gate is multiplied by a given strength:

    u = strength * sigma(W_u x + U_u h + b_u),  r = sigma(W_r x + U_r h + b_r),
    n = tanh(W_n x + r * (U_n h) + b_n),        h' = (1 - u) h + u n,        h_0 = 0.

    Strength 1 is the GRU (eqs. 2 to 5), attention weights make AUGRU (eqs. 15, 16), and 0 skips a step: padding. Maps
    of the inputs of all steps are one product; the loop over time is one product a step for all sets and rows.
    """

    def __init__(self, num_tables: int, width: int) -> None:
        super().__init__()
        self.inward = TableLinear(num_tables, width, 3 * width, parts=3)
        self.recurrent = nn.Parameter(xavier(num_tables, inputs=width, outputs=3 * width, parts=3))

    def forward(
        self,
        inputs: Float[Tensor, "tables batch length width"],
        strength: Float[Tensor, "tables batch length"],
    ) -> Float[Tensor, "tables batch length width"]:
        """The state after each step."""
        width = inputs.shape[-1]
        state = inputs.new_zeros(*inputs.shape[:2], width)
        states = []
        for given, share in zip(self.inward(inputs).unbind(2), strength.unsqueeze(-1).unbind(2), strict=True):
            kept = torch.bmm(state, self.recurrent)
            update, reset = (given[..., : 2 * width] + kept[..., : 2 * width]).sigmoid().chunk(2, -1)
            new = (given[..., 2 * width :] + reset * kept[..., 2 * width :]).tanh()
            state = state + share * update * (new - state)
            states.append(state)
        return torch.stack(states, 2) if states else torch.zeros_like(inputs)


class DIEN(nn.Module):
    """h_t = GRU(events);  a_t = softmax_t(<h_t W, target>);  the vector is the last state of AUGRU(h, a).

    In training alone the loss is `next_event_weight` times

        mean_t of -log sigma(<h_t, e_(t+1)>) - log(1 - sigma(<h_t, e'_(t+1)>)),

    summed over embedding sets, so that each trains as it would alone. Negatives e' are our choice: the event at the
    same distance from the end of the batch's next row (a history has no events without a click here), left out where
    there is none or it is the same item; a batch of one row has none. Time is a loop: L products one after another,
    which attention does not need.
    """

    def __init__(self, config: DIENConfig, num_tables: int, parts: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.num_outputs, self.num_auxiliary = 1, 0
        self.extract = GatedScan(num_tables, parts * dim)
        self.evolve = GatedScan(num_tables, parts * dim)
        self.match = TableLinear(num_tables, parts * dim, parts * dim, bias=False)

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        mask = sequence.mask.expand(sequence.events.shape[:3])
        interests = self.extract(sequence.events, mask.to(sequence.events.dtype))
        query = torch.bmm(sequence.target, self.match.weight.transpose(1, 2))
        scores = (interests @ query.unsqueeze(-1)).squeeze(-1)
        weights = masked_softmax(scores, mask).to(interests.dtype)
        states = self.evolve(interests, weights)
        vectors = states[:, :, -1:] if states.shape[2] else states.new_zeros(*states.shape[:2], 1, states.shape[3])
        if not self.training or self.config.next_event_weight == 0:
            return SequenceOutput(vectors)
        loss = next_event_loss(interests, sequence.events, sequence.mask, sequence.event_ids[:, :, 0])
        return SequenceOutput(vectors, loss=self.config.next_event_weight * loss)


def next_event_loss(
    interests: Float[Tensor, "tables batch length width"],
    events: Float[Tensor, "tables batch length width"],
    mask: Bool[Tensor, "batch length"],
    items: Int64[Tensor, "batch length"],
) -> Float[Tensor, ""]:
    """See `DIEN`: a sum over sets of means over the steps that have a next event, each in float32 at least."""
    follows = mask[:, :-1] & mask[:, 1:]
    following, other = events[:, :, 1:], events.roll(1, dims=1)[:, :, 1:]
    differs = follows & mask.roll(1, dims=0)[:, 1:] & items.ne(items.roll(1, dims=0))[:, 1:]
    positive = _negative_log_sigmoid((interests[:, :, :-1] * following).sum(-1), 1)
    negative = _negative_log_sigmoid((interests[:, :, :-1] * other).sum(-1), -1)
    total = positive.masked_fill(~follows, 0.0).sum() + negative.masked_fill(~differs, 0.0).sum()
    return total / follows.sum().clamp(min=1)


def _negative_log_sigmoid(logits: Tensor, sign: int) -> Tensor:
    precise = torch.promote_types(logits.dtype, torch.float32)
    return nn.functional.softplus(-sign * logits.to(precise))
