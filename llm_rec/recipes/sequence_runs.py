"""What the analysis of sequences needs of a run: its model as a view, its rows, and a trial of its two roles."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn, optim

from llm_rec.analysis.attention_gradients import (
    GradientProbe,
    GradientReport,
    TiedTables,
    Watched,
    probe_gradients,
)
from llm_rec.analysis.sequence_analysis import SequenceMaterial, SequenceView


@dataclass(frozen=True, eq=False)
class TiedTrial:
    """A fresh model whose two roles have tables of their own, to be trained as one with a single table for both.

    `pairs` (attention, representation) are all tables that such a model shares; `rows` are the category's in the first
    pair. `losses` of batch after batch are computed as they are asked for.
    """

    pairs: tuple[tuple[nn.Parameter, nn.Parameter], ...]
    rows: slice
    optimizer: optim.Optimizer
    losses: Iterator[Tensor]

    def report(self) -> GradientReport:
        """Train to the end of `losses`."""
        probe = GradientProbe(self.rows.stop - self.rows.start)
        return probe_gradients(TiedTables(self.pairs, Watched(probe, self.rows)), self.optimizer, self.losses)


@dataclass(frozen=True, eq=False)
class SequenceRun:
    """What the analysis needs of a run: the model seen, its rows, and a trial of so many steps where it has one."""

    view: SequenceView
    material: SequenceMaterial
    trial: Callable[[int], TiedTrial] | None = None
