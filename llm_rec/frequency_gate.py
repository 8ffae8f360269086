"""Weights of several experts for an item, by how often the item occurs in the train part.

PAD (arXiv 2412.04107, section on the frequency-aware gate)::

    w_k(b) = sigmoid(A_k[b])        g_k(b) = w_k(b) / sum_j w_j(b)        b = frequency bucket of the candidate item

The gate never sees the user or the history. So an inner product mixed by it, sum_k g_k <u_k, v_k>, is one inner product
<[u_1; u_2; ...], [g_1 v_1; g_2 v_2; ...]>, and a trained mixture serves at the cost of one item matrix.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from llm_rec.data.frequency import BucketMode, FrequencyBuckets

Ends = Sequence[tuple[float, float]]  # of every expert: its gate logit at the most and at the least frequent items


def paper_ends(aligned: float = -4.0) -> Ends:
    """PAD's initial gate logits of (collaborative, aligned, text); `aligned` is called gamma2 in the released scripts.

    At the start the aligned expert is almost switched off, as published.
    """
    return ((1.0, 0.0), (aligned, aligned - 1.0), (0.0, 1.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketGateConfig:
    """One learned logit per frequency bucket and expert (PAD). One bucket: learned weights, the same for all items."""

    num_buckets: int = 10
    mode: BucketMode = "equal_mass"

    def __post_init__(self) -> None:
        if self.num_buckets < 1:
            raise ValueError(f"num_buckets must be at least 1, got {self.num_buckets}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogFrequencyGateConfig:
    """Logits by a small network of the standardised log(1 + train count): smooth, no bucket edges. Our addition."""

    hidden: int = 16

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformGateConfig:
    """Every expert counts the same, nothing is learned: the ablation without a gate."""


GateConfig = BucketGateConfig | LogFrequencyGateConfig | UniformGateConfig


class BucketGate(nn.Module):
    """Learned gate logits `(num_buckets + 1, experts)`; bucket 0 is padding. Initially linear from end to end."""

    buckets: Tensor

    def __init__(self, buckets: Int64[Tensor, "items_plus_one"], num_buckets: int, ends: Ends) -> None:
        super().__init__()
        self.register_buffer("buckets", buckets)
        self.logits = nn.Parameter(_initial_logits(num_buckets, ends))

    def table(self) -> Float[Tensor, "buckets_plus_one experts"]:
        """Weights of every bucket; each row sums to 1."""
        return _normalised(self.logits)

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape experts"]:
        return self.table()[self.buckets[rows]]


class LogFrequencyGate(nn.Module):
    """Gate logits by a one-hidden-layer network of the standardised log frequency."""

    log_counts: Tensor

    def __init__(self, log_counts: Float[Tensor, "items_plus_one"], hidden: int, ends: Ends) -> None:
        super().__init__()
        self.register_buffer("log_counts", log_counts)
        self.inner = nn.Linear(1, hidden)
        self.outer = nn.Linear(hidden, len(ends))
        nn.init.zeros_(self.outer.weight)
        with torch.no_grad():
            self.outer.bias.copy_(torch.tensor(ends).mean(1))

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape experts"]:
        logits: Tensor = self.outer(torch.tanh(self.inner(self.log_counts[rows].unsqueeze(-1))))
        return _normalised(logits)


class UniformGate(nn.Module):
    """1 / experts for every item."""

    def __init__(self, num_experts: int) -> None:
        super().__init__()
        self.num_experts = num_experts

    def forward(self, rows: Int64[Tensor, "*shape"]) -> Float[Tensor, "*shape experts"]:
        weight = torch.full((), 1 / self.num_experts, device=rows.device)
        return weight.expand(*rows.shape, self.num_experts)


FrequencyGate = BucketGate | LogFrequencyGate | UniformGate


def build_gate(config: GateConfig, train_counts: Int64[np.ndarray, "items_plus_one"], ends: Ends) -> FrequencyGate:
    """The gate of `len(ends)` experts over items that occur `train_counts` times (entry 0 is padding).

    >>> gate = build_gate(BucketGateConfig(num_buckets=2), np.array([0, 9, 1]), ends=[(0.0, 0.0), (0.0, 0.0)])
    >>> gate(torch.tensor([1, 2])).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    match config:
        case BucketGateConfig():
            buckets = FrequencyBuckets.fit(train_counts, config.num_buckets, config.mode).buckets
            return BucketGate(torch.from_numpy(buckets), config.num_buckets, ends)
        case LogFrequencyGateConfig():
            logs = np.log1p(train_counts.astype(np.float64))
            spread = logs[1:].std() if len(logs) > 1 else 0.0
            standard = (logs - logs[1:].mean()) / spread if spread > 0 else np.zeros_like(logs)
            return LogFrequencyGate(torch.from_numpy(standard).float(), config.hidden, ends)
        case UniformGateConfig():
            return UniformGate(len(ends))
        case _:
            assert_never(config)


def _initial_logits(num_buckets: int, ends: Ends) -> Float[Tensor, "buckets_plus_one experts"]:
    """Evenly spaced over buckets 0 (padding) to `num_buckets`, as published; a single bucket starts half way (ours)."""
    steps = torch.full((2,), 0.5) if num_buckets == 1 else torch.linspace(0, 1, num_buckets + 1)
    first, last = torch.tensor(ends).unbind(1)
    return first + steps[:, None] * (last - first)


def _normalised(logits: Tensor) -> Tensor:
    """Sigmoid, then divided by the sum over the experts."""
    weights = logits.float().sigmoid()
    return weights / weights.sum(-1, keepdim=True)
