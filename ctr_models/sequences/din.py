"""Deep interest network (arXiv 1706.06978): an MLP weighs every event, and the weights are not normalised.

    h = sum_i a(t, i) r_i,    a = MLP([q, k, q - k, q * k])

No search. The DIN that DARE's paper compares with has a softmax over the 20 best events and the target-aware product:
that is `TargetAttention` with this score (`ctr_models.sequences.presets.din`), this one is `din_unsearched`.
"""

from dataclasses import dataclass, field

from torch import nn

from ctr_models.sequences.attention import MLPScore, MLPScoreConfig, attention_weights, pool
from ctr_models.sequences.events import EventLayout
from ctr_models.sequences.protocols import SequenceInput, SequenceOutput
from ctr_models.sequences.target_attention import attended


@dataclass(frozen=True, kw_only=True, slots=True)
class DINConfig:
    """`softmax` over all events is off in the paper; public benchmarks tune it for each data set. PReLU stands for the
    paper's Dice, its other activation.
    """

    score: MLPScoreConfig = field(default_factory=MLPScoreConfig)
    softmax: bool = False


class DIN(nn.Module):
    """See `DINConfig`: one output, h."""

    def __init__(self, config: DINConfig, num_tables: int, layout: EventLayout) -> None:
        super().__init__()
        self.softmax = config.softmax
        self.score = MLPScore(config.score, num_tables, layout.attention_width)

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def num_auxiliary(self) -> int:
        return 0

    def forward(self, sequence: SequenceInput) -> SequenceOutput:
        scores = self.score(*attended(sequence))
        real = sequence.mask.unsqueeze(0)
        weights = attention_weights(scores, real) if self.softmax else scores * real
        return SequenceOutput(pool(weights, sequence.events).unsqueeze(2))
