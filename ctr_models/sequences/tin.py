"""Temporal interest network (TIN; TIM of arXiv 2403.00793): attention and pooling over events and times together.

    e~_i = e_i + p(i),  v~ = v + p(target),  u = sum_i softmax(<e~_i, v~> / sqrt(d)) (e~_i * v~)

over all events. The sum of position and vector is made by `EventsConfig(position="add")`, with places or time gaps.
Since v~ is one for all events, u = v~ * sum_i w_i e~_i: nothing of the size (batch, length, dim) but the events.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ctr_models.layers import TableBatchNorm, TableLinear
from ctr_models.sequences.attention import DotScore, DotScoreConfig, attention_weights, pool
from ctr_models.sequences.events import EventLayout
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput
from ctr_models.sequences.target_attention import attended


@dataclass(frozen=True, kw_only=True, slots=True)
class TINConfig:
    """`tr`, the target-aware representation: "product" is the equation. "post_dense" is the released code: the pooled
    vector through batch normalisation and a linear map, u, then both u and u * v~.
    """

    tr: Literal["product", "post_dense"] = "product"


class TIN(nn.Module):
    """See `TINConfig`. A row without events has u = 0, after a linear map too (our choice)."""

    def __init__(self, config: TINConfig, num_tables: int, layout: EventLayout) -> None:
        super().__init__()
        self.score = DotScore(DotScoreConfig(scale="joint"), layout.attention_width, 0)
        width, released = layout.parts * layout.dim, config.tr == "post_dense"
        self.norm = TableBatchNorm(num_tables, width) if released else None
        self.dense = TableLinear(num_tables, width, width) if released else None

    @property
    def num_outputs(self) -> int:
        return 1 if self.dense is None else 2

    @property
    def num_auxiliary(self) -> int:
        return 0

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        weights = attention_weights(self.score(*attended(sequence)), sequence.mask.unsqueeze(0))
        pooled: Tensor = pool(weights, sequence.events)
        if self.norm is None or self.dense is None:
            return SequenceOutput((sequence.target * pooled).unsqueeze(2))
        own = self.dense(self.norm(pooled)) * sequence.mask.any(1).unsqueeze(1)
        return SequenceOutput(torch.stack([own, sequence.target * own], 2))
