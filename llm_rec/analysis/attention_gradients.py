"""Whether attention and representation pull one embedding apart: domination and conflict (DARE, arXiv 2410.02604).

A model with one table for both roles is trained with two that start equal (`TiedTables`): each role sends its gradient
to its own, the gradients are compared (`GradientProbe`), and their sum is written into both, so that any optimiser
keeps the tables equal and the model is the one with a single table. Statistics are kept, never gradients: both of every
step would be gigabytes.

The paper's "64.31 % conflict" is the share of iterations whose cosine, a mean over rows, is negative; the share of row
pairs is another number, and both are given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

FIRST = 100  # iterations of the category-wise statistics and of domination, as in the authors' code


@dataclass(frozen=True, eq=False)
class GradientReport:
    """Per iteration: mean norms over the rows that either role touches, mean cosine over the rows that both do (NaN
    without one), and the numbers of those. Per row: in how many of the first `first` iterations both roles touched it,
    and in how many of these the inner product was negative.
    """

    attention_norm: Float64[np.ndarray, "steps"]
    representation_norm: Float64[np.ndarray, "steps"]
    cosine: Float64[np.ndarray, "steps"]
    pairs: Int64[np.ndarray, "steps"]
    negative_pairs: Int64[np.ndarray, "steps"]
    row_pairs: Int64[np.ndarray, "rows"]
    row_negative_pairs: Int64[np.ndarray, "rows"]
    first: int = FIRST

    @property
    def domination(self) -> float:
        """Mean norm of the representation's gradient over that of the attention's, first `first` iterations."""
        attention, representation = (
            norms[: self.first].mean() for norms in (self.attention_norm, self.representation_norm)
        )
        return float(representation / attention) if attention > 0 else float("nan")

    @property
    def conflict(self) -> float:
        """Share of iterations whose mean cosine is negative: the paper's number."""
        known = self.cosine[np.isfinite(self.cosine)]
        return float((known < 0).mean()) if len(known) else float("nan")

    @property
    def row_conflict(self) -> float:
        """Share of (iteration, row) pairs with a negative inner product."""
        pairs = int(self.pairs.sum())
        return int(self.negative_pairs.sum()) / pairs if pairs else float("nan")

    @property
    def row_shares(self) -> Float64[np.ndarray, "seen"]:
        """For each row that both roles touched: the share of its iterations, of the first, in conflict."""
        seen = self.row_pairs > 0
        shares: np.ndarray = self.row_negative_pairs[seen] / self.row_pairs[seen]
        return shares

    def means(self) -> dict[str, float]:
        """The figures above by name, and the two mean norms of the first iterations."""
        return {
            "attention_norm": float(self.attention_norm[: self.first].mean()),
            "representation_norm": float(self.representation_norm[: self.first].mean()),
            "domination": self.domination,
            "conflict": self.conflict,
            "row_conflict": self.row_conflict,
            "row_share_mean": float(self.row_shares.mean()) if len(self.row_shares) else float("nan"),
        }


class GradientProbe:
    """Accumulates a `GradientReport` step by step, on the device of the gradients and without waiting for it.

    A row is touched where its gradient is not zero. Norms are means over the same rows for both roles (touched by
    either), so that their ratio is not one of row numbers; the source says no more than "touched".
    """

    def __init__(self, num_rows: int, *, first: int = FIRST) -> None:
        if num_rows < 1 or first < 1:
            raise ValueError(f"num_rows and first must be at least 1, got num_rows {num_rows} and first {first}")
        self.num_rows, self.first = num_rows, first
        self._steps: list[Tensor] = []
        self._pairs = torch.zeros(num_rows, dtype=torch.int64)
        self._negative = torch.zeros(num_rows, dtype=torch.int64)

    def update(self, attention: Float[Tensor, "rows dim"], representation: Float[Tensor, "rows dim"]) -> None:
        """Gradients of the two roles in one step; dense or sparse (row indices with their vectors)."""
        if attention.shape != representation.shape or len(attention) != self.num_rows:
            raise ValueError(
                f"gradients must both have {self.num_rows} rows of one width, got {tuple(attention.shape)} and "
                f"{tuple(representation.shape)}"
            )
        ids, first, second = _aligned(attention.detach(), representation.detach())
        norms = first.norm(dim=1), second.norm(dim=1)
        products = (first * second).sum(dim=1)
        both, either = (norms[0] > 0) & (norms[1] > 0), (norms[0] > 0) | (norms[1] > 0)
        cosines = torch.where(both, products / (norms[0] * norms[1]), 0.0)
        negative = both & (products < 0)
        touched = either.sum().clamp(min=1)
        sums = [norms[0].sum() / touched, norms[1].sum() / touched, cosines.sum() / both.sum()]  # 0 / 0 is NaN
        self._steps.append(torch.stack([*sums, both.sum().double(), negative.sum().double()]))
        if len(self._steps) <= self.first:
            self._pairs, self._negative = self._pairs.to(both.device), self._negative.to(both.device)
            self._pairs.index_add_(0, ids, both.long())
            self._negative.index_add_(0, ids, negative.long())

    def report(self) -> GradientReport:
        """What was seen so far; `ValueError` before the first step."""
        if not self._steps:
            raise ValueError("the probe has seen no gradients; call update after each backward pass")
        steps = torch.stack(self._steps).cpu().numpy()
        return GradientReport(
            attention_norm=steps[:, 0],
            representation_norm=steps[:, 1],
            cosine=steps[:, 2],
            pairs=steps[:, 3].astype(np.int64),
            negative_pairs=steps[:, 4].astype(np.int64),
            row_pairs=self._pairs.cpu().numpy(),
            row_negative_pairs=self._negative.cpu().numpy(),
            first=self.first,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """What `TiedTables` shows the probe: the rows (None: all) of one of its pairs, as those of the category in a table
    of all fields.
    """

    probe: GradientProbe
    rows: slice | None = None
    pair: int = 0


class TiedTables:
    """Pairs (attention, representation) of parameters that stay equal bit by bit under any optimiser of both.

    Tie all that a single-table model shares (item, category, position), else another model is probed. The constructor
    copies each representation table into its partner. Call `share` between backward and step, or `attach` it to the
    optimiser, which then does so before every step.
    """

    def __init__(self, pairs: Sequence[tuple[nn.Parameter, nn.Parameter]], watched: Watched | None = None) -> None:
        if not pairs:
            raise ValueError("there are no tables to tie; give at least one pair")
        for place, (attention, representation) in enumerate(pairs):
            if attention is representation or attention.shape != representation.shape:
                raise ValueError(
                    f"pair {place} must be two tables of one shape, got {tuple(attention.shape)} and "
                    f"{tuple(representation.shape)}"
                    f"{', which are one parameter' if attention is representation else ''}"
                )
            with torch.no_grad():
                attention.copy_(representation)
        self.pairs, self.watched = tuple(pairs), watched

    @torch.no_grad()
    def share(self) -> None:
        """Show the probe both gradients, then replace each by their sum. A role without a gradient counts as zero."""
        for place, (attention, representation) in enumerate(self.pairs):
            if self.watched is not None and place == self.watched.pair:
                shown = (_rows_of(_gradient(table), self.watched.rows) for table in (attention, representation))
                self.watched.probe.update(*shown)
            if attention.grad is None and representation.grad is None:
                continue
            total = _sum(_gradient(attention), _gradient(representation))
            attention.grad, representation.grad = total, total.clone()

    def attach(self, optimizer: torch.optim.Optimizer) -> RemovableHandle:
        """`share` before each step of `optimizer`, until the handle is removed."""

        def before(_optimizer: torch.optim.Optimizer, _args: object, _options: object) -> None:
            self.share()

        return optimizer.register_step_pre_hook(before)

    def equal(self) -> bool:
        """Whether the tables of every pair are the same to the last bit."""
        return all(torch.equal(attention, representation) for attention, representation in self.pairs)


def paired_parameters(attention: nn.Module, representation: nn.Module) -> tuple[tuple[nn.Parameter, nn.Parameter], ...]:
    """The tables of two modules of one build, one for each role, by their names; in the modules' order."""
    first, second = (dict(module.named_parameters()) for module in (attention, representation))
    if _described(first) != _described(second):
        raise ValueError(
            f"the roles have other tables: attention {_described(first)}; representation {_described(second)}; "
            "give both the same fields and dims"
        )
    return tuple(zip(first.values(), second.values(), strict=True))


def probe_gradients(
    tied: TiedTables, optimizer: torch.optim.Optimizer, losses: Iterable[Float[Tensor, ""]]
) -> GradientReport:
    """Train on `losses`, which are computed as they are asked for, and report what the probe of `tied` saw.

    Raises `ValueError` without a probe, or when the tables drift apart: parameters that the optimiser treats unlike
    (another learning rate, another decay) are not one table.
    """
    if tied.watched is None:
        raise ValueError("the tied tables have no probe; pass watched=Watched(...)")
    handle = tied.attach(optimizer)
    try:
        for loss in losses:
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
    finally:
        handle.remove()
    if not tied.equal():
        raise ValueError("tied tables have drifted apart; put both of a pair into one group of the optimiser")
    return tied.watched.probe.report()


def _aligned(first: Tensor, second: Tensor) -> tuple[Int64[Tensor, "seen"], Tensor, Tensor]:
    """Row numbers, and both gradients over exactly these rows."""
    if not first.is_sparse and not second.is_sparse:
        return torch.arange(len(first), device=first.device), first.double(), second.double()
    parts = [grad.coalesce() if grad.is_sparse else grad.to_sparse(1).coalesce() for grad in (first, second)]
    ids, place = torch.unique(torch.cat([part.indices()[0] for part in parts]), return_inverse=True)
    cut = parts[0].indices().shape[1]
    spread = []
    for part, where in zip(parts, (place[:cut], place[cut:]), strict=True):
        values = torch.zeros(len(ids), first.shape[1], dtype=torch.float64, device=first.device)
        spread.append(values.index_copy_(0, where, part.values().double()))
    return ids, spread[0], spread[1]


def _described(tables: dict[str, nn.Parameter]) -> str:
    return ", ".join(f"{name} {tuple(table.shape)}" for name, table in tables.items())


def _gradient(table: nn.Parameter) -> Tensor:
    return torch.zeros_like(table) if table.grad is None else table.grad


def _rows_of(gradient: Tensor, rows: slice | None) -> Tensor:
    if rows is None:
        return gradient
    start, stop, step = rows.indices(len(gradient))
    if step != 1:
        raise ValueError(f"watched rows must be neighbours, got {rows}")
    if not gradient.is_sparse:
        return gradient[start:stop]
    found = gradient.coalesce()
    inside = (found.indices()[0] >= start) & (found.indices()[0] < stop)
    ids, values = found.indices()[:, inside] - start, found.values()[inside]
    shape = (stop - start, *gradient.shape[1:])
    return torch.sparse_coo_tensor(ids, values, shape, is_coalesced=True, check_invariants=False)


def _sum(first: Tensor, second: Tensor) -> Tensor:
    if first.is_sparse and second.is_sparse:
        return (first + second).coalesce()
    dense = [part.to_dense() if part.is_sparse else part for part in (first, second)]
    return dense[0] + dense[1]
