"""Losses, grouped AUC and information abundance beside their naive forms: time, and memory of the pair loss.

    python scripts/bench_ctr_forms.py --out out/bench_ctr_forms

Naive forms are written here as public code has them, and give the same values:

- pair loss: all (positive, negative) pairs listed by a cartesian product of rows, or a batch x batch matrix and a mask;
- listwise and JRC within groups: a batch x batch matrix whose mask says which rows share a group;
- GAUC: one AUC for each group in turn (rows sorted by group beforehand);
- information abundance: singular values of the whole table;
- Adam on rows that no batch touches for 850 steps: moments left alone, which are denormal numbers by then.

Times are forward and backward, the best of several runs that take turns; memory is the growth of the process's peak.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from ctr_models.losses import jrc_ranking, listwise_softmax, pairwise_logistic
from ctr_models.optim import RowSums
from llm_rec.analysis.spectrum import abundance_of, compact_factor, information_abundance
from llm_rec.experiment import Measured, bench_options, in_milliseconds, take_turns, write_bench
from llm_rec.metrics.classification import auc, grouped_auc
from llm_rec.training.groups import optimizer_groups
from llm_rec.training.loop import MOMENTS_CHECK_EVERY
from llm_rec.training.optimizers import build_optimizer, drop_vanished_moments
from llm_rec.training.trainer import TrainerConfig

GROUP_ROWS = 16
POSITIVES = 0.25  # Criteo's rate
MIB = 1024  # KiB, which /proc counts in


class Rows(NamedTuple):
    """Logits (two columns, JRC's), labels and groups of a batch."""

    logits: Float[Tensor, "batch 2"]
    labels: Float[Tensor, "batch"]
    groups: Int64[Tensor, "batch"]


Loss = Callable[[Rows], Tensor]


@dataclass(frozen=True, slots=True)
class Form:
    """Two ways to the same value; `memory`: whether that is measured too."""

    what: str
    against: str
    ours: Loss
    naive: Loss
    memory: bool = False


def main() -> None:
    args = bench_options(__doc__.splitlines()[0], out="out/bench_ctr_forms").parse_args()
    torch.set_num_threads(args.threads)
    measured = measure_forms(quick=args.quick, seed=args.seed)
    write_bench(args.out / "bench.json", measured)
    print("\n".join(line.text for line in measured))


def measure_forms(*, quick: bool, seed: int) -> list[Measured]:
    """Every comparison; `quick` leaves out the largest batch and shrinks the table and the rows of GAUC."""
    batches = (1024, 4096) if quick else (1024, 4096, 16384)
    repeats = 3 if quick else 5
    rng = np.random.default_rng(seed)
    measured = [line for batch in batches for line in measure_losses(rows_of(batch, seed), repeats)]
    measured.append(measure_gauc(rng, 100_000 if quick else 1_000_000, repeats))
    measured.append(measure_abundance(seed, 100_000 if quick else 1_000_000, repeats))
    measured.append(measure_rest(seed, 20_000 if quick else 200_000, repeats))
    return measured


# --- losses --------------------------------------------------------------------------------------------------------


def rows_of(batch: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(batch, generator=generator) < POSITIVES).float()
    groups = torch.randint(max(1, batch // GROUP_ROWS), (batch,), generator=generator)
    return Rows(torch.randn(batch, 2, generator=generator), labels, groups)


def measure_losses(rows: Rows, repeats: int) -> list[Measured]:
    """Time of every form, and for the pair loss its memory."""
    return [line for form in FORMS for line in measure_loss(form, rows, repeats)]


def measure_loss(form: Form, rows: Rows, repeats: int) -> list[Measured]:
    def ours() -> Tensor:
        return both_ways(form.ours, rows)

    def naive() -> Tensor:
        return both_ways(form.naive, rows)

    what = f"{form.what}, batch {len(rows.labels):,}"
    found = [in_milliseconds(what, form.against, *take_turns(ours, naive, repeats))]
    if form.memory and Path("/proc/self/clear_refs").exists():
        mine, other = (max(1.0, peak_memory(call)) for call in (ours, naive))
        memory = Measured(what=what, against=form.against, ours=mine, peer=other, unit="MiB", higher_is_better=False)
        found.append(memory)
    return found


def both_ways(loss: Loss, rows: Rows) -> Tensor:
    """Gradient of the logits, by forward and backward."""
    logits = rows.logits.detach().requires_grad_()
    loss(rows._replace(logits=logits)).backward()
    if logits.grad is None:
        raise RuntimeError("the loss is not connected to the logits")
    return logits.grad


def pair_loss(rows: Rows) -> Tensor:
    return pairwise_logistic(rows.logits[:, 0], rows.labels)


def pair_loss_cartesian(rows: Rows) -> Tensor:
    """All pairs of rows listed, two gathers, binary cross-entropy with a label of 1."""
    high, low = (side.nonzero().flatten() for side in (rows.labels > 0, rows.labels <= 0))
    pairs = torch.cartesian_prod(high, low)
    margins = rows.logits[pairs[:, 0], 0] - rows.logits[pairs[:, 1], 0]
    return F.binary_cross_entropy_with_logits(margins, torch.ones_like(margins))


def pair_loss_mask(rows: Rows) -> Tensor:
    """Margins of all rows against all, and the mask of those that are pairs."""
    margins = rows.logits[:, :1] - rows.logits[:, 0]
    mask = (rows.labels[:, None] - rows.labels) > 0
    return (F.softplus(-margins) * mask).sum() / mask.sum()


def list_loss(rows: Rows) -> Tensor:
    return listwise_softmax(rows.logits[:, 0], rows.labels, rows.groups)


def list_loss_mask(rows: Rows) -> Tensor:
    """Softmax over each row's group by a batch x batch matrix."""
    same = rows.groups[:, None] == rows.groups
    normaliser = rows.logits[:, 0].expand(len(same), -1).masked_fill(~same, -torch.inf).logsumexp(1)
    ranked = (rows.labels > 0) & (same & (rows.labels <= 0)).any(1)
    return ((normaliser - rows.logits[:, 0]) * ranked).sum() / ranked.sum()


def jrc_loss(rows: Rows) -> Tensor:
    return jrc_ranking(rows.logits, rows.labels, rows.groups)


def jrc_loss_mask(rows: Rows) -> Tensor:
    """Softmax over each row's group of the logit of the row's own class, by a batch x batch matrix for each class."""
    same = rows.groups[:, None] == rows.groups
    positive = rows.labels > 0
    mixed = (same & positive).any(1) & (same & ~positive).any(1)
    by_class = [
        column.expand(len(same), -1).masked_fill(~same, -torch.inf).logsumexp(1) - column
        for column in rows.logits.unbind(1)
    ]
    return (torch.where(positive, by_class[1], by_class[0]) * mixed).mean()


FORMS = (
    Form("pair loss", "cartesian product", pair_loss, pair_loss_cartesian, memory=True),
    Form("pair loss", "batch x batch mask", pair_loss, pair_loss_mask, memory=True),
    Form("listwise loss in groups", "batch x batch mask", list_loss, list_loss_mask),
    Form("JRC loss in groups", "batch x batch mask", jrc_loss, jrc_loss_mask),
)


# --- metrics -------------------------------------------------------------------------------------------------------


def measure_gauc(rng: np.random.Generator, rows: int, repeats: int) -> Measured:
    groups = rng.integers(0, max(1, rows // GROUP_ROWS), rows)
    scores, labels = rng.standard_normal(rows), rng.random(rows) < POSITIVES
    ours, naive = take_turns(
        lambda: grouped_auc(scores, labels, groups).value, lambda: gauc_by_loop(scores, labels, groups), repeats
    )
    return in_milliseconds(f"GAUC, {rows:,} rows, {groups.max() + 1:,} groups", "a loop over groups", ours, naive)


def gauc_by_loop(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Mean of the groups' AUCs, weighted by rows, one group after the other."""
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(np.diff(groups[order])) + 1
    total, weight = 0.0, 0
    for rows in np.split(order, ends):
        if 0 < labels[rows].sum() < len(rows):
            total += auc(scores[rows], labels[rows]) * len(rows)
            weight += len(rows)
    return total / weight


def measure_abundance(seed: int, rows: int, repeats: int) -> Measured:
    table = torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed))
    ours, naive = take_turns(lambda: abundance(table), lambda: abundance_by_svd(table), repeats)
    return in_milliseconds(f"information abundance, {rows:,} x 16", "SVD of the table", ours, naive)


def abundance(table: Float[Tensor, "rows dim"]) -> float:
    return float(abundance_of(compact_factor(table)))


def abundance_by_svd(table: Float[Tensor, "rows dim"]) -> float:
    values: np.ndarray = torch.linalg.svdvals(table.double()).numpy()
    return information_abundance(values)


def measure_rest(seed: int, rows: int, repeats: int) -> Measured:
    """A dense step over rows at rest, with and without the trainer's care for moments that have vanished."""
    steps = [rested(rows, seed, dropping=dropping).step for dropping in (True, False)]
    ours, naive = take_turns(steps[0], steps[1], repeats)
    return in_milliseconds(f"Adam, {rows:,} x 16 at rest for 850 steps", "denormal moments", ours, naive)


def rested(rows: int, seed: int, *, dropping: bool) -> torch.optim.Optimizer:
    """Adam over a table that had a gradient 850 steps ago; its moments are those that the steps would have left."""
    weight = torch.nn.Parameter(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)))
    config = TrainerConfig(epochs=1, optimizer="adam", learning_rate=1e-3)
    groups = optimizer_groups(torch.nn.ParameterList([weight]), None, weight_decay=0.0, learning_rate=1e-3)
    optimizer = build_optimizer(config, groups, RowSums())
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    weight.grad = torch.zeros_like(weight)
    state = optimizer.state[weight]
    for _ in range(850 // MOMENTS_CHECK_EVERY):
        state["exp_avg"].mul_(config.betas[0] ** MOMENTS_CHECK_EVERY)
        state["exp_avg_sq"].mul_(config.betas[1] ** MOMENTS_CHECK_EVERY)
        if dropping:
            drop_vanished_moments(optimizer)
    state["exp_avg"].mul_(config.betas[0] ** (850 % MOMENTS_CHECK_EVERY))
    return optimizer


# --- measuring -----------------------------------------------------------------------------------------------------


def peak_memory(call: Callable[[], object]) -> float:
    """By how many MiB `call` raises the process's resident memory at most (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back to the system, so that it counts when it is taken again
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew at what is held now
    before = _memory("VmRSS")
    call()
    return (_memory("VmHWM") - before) / MIB


def _memory(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split(f"{name}:")[1].split()[0])


if __name__ == "__main__":
    main()
