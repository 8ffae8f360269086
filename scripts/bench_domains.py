"""Towers of domains and the covariance loss of experts beside their naive forms: time, forward and backward.

    python scripts/bench_domains.py --out out/bench_domains

Naive forms give the same values:

- towers: every tower over the whole batch, of which one result a row is kept, as public toolkits have it; and one
  product a domain in a Python loop, which must know the counts of the batch first, so that a GPU would be waited for;
- covariance: one product a pair of experts in a Python loop;
- the last phase of D-Train: what heads read of a row computed for every batch, as it must be where it is not kept;
- grouped AUC: rows in order by group, then a Python loop over groups with a sort each.

Domains are as uneven as 50 to 1. Times are the best of several runs that take turns.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ctr_models.domains.covariance import cross_expert_covariance
from ctr_models.domains.model import DomainModel
from ctr_models.domains.networks import HeadMLP
from ctr_models.domains.presets import mmoe
from ctr_models.domains.routing import Dispatch, by_domain
from ctr_models.layers import MLPConfig
from llm_rec.ctr.domain_evaluation import domain_numbers
from llm_rec.ctr.domain_heads import HeadBatches, HeadRows, HeadTask, head_alone
from llm_rec.ctr.domain_method import DomainMethodConfig, build_domain_click_model
from llm_rec.ctr.planted_domains import PlantedDomainsConfig, planted_domains, write_domains
from llm_rec.experiment import Measured, bench_options, in_milliseconds, take_turns, write_bench
from llm_rec.metrics.classification import auc, grouped_auc

DOMAINS = (3, 5, 30)
TOWERS = ((64, 32), (256, 128, 64))  # inputs and hidden layers
TAIL = 50.0  # rows of the largest domain for one of the smallest
EXPERTS, DIM = 5, 64


def main() -> None:
    args = bench_options(__doc__.splitlines()[0], out="out/bench_domains").parse_args()
    torch.set_num_threads(args.threads)
    measured = measure_forms(quick=args.quick, seed=args.seed)
    write_bench(args.out / "bench.json", measured)
    print("\n".join(line.text for line in measured))


def measure_forms(*, quick: bool, seed: int) -> list[Measured]:
    """Every comparison; `quick` takes smaller batches and fewer turns."""
    batch, repeats = (512, 2) if quick else (4096, 7)
    measured = [
        line
        for sizes in TOWERS
        for num_domains in DOMAINS
        for line in measure_towers(sizes, num_domains, batch, repeats, seed)
    ]
    rows = 4_000 if quick else 200_000
    training = [*measure_heads(rows, seed), *measure_grouped(rows, seed)]
    return [*measured, *measure_covariance(batch, repeats, seed), *training]


# --- towers --------------------------------------------------------------------------------------------------------


def measure_towers(sizes: tuple[int, ...], num_domains: int, batch: int, repeats: int, seed: int) -> list[Measured]:
    torch.manual_seed(seed)
    towers = HeadMLP(MLPConfig(widths=sizes[1:]), num_domains, sizes[0], outputs=1)
    domains, rows = drawn_domains(batch, num_domains, seed), torch.randn(batch, sizes[0])
    what = f"towers {'-'.join(map(str, (*sizes, 1)))}, {num_domains} domains, batch {batch:,}"
    naive = {
        "every tower over all rows": lambda: both_ways(towers, rows, routed(towers, domains, num_domains, "mask")),
        "one product a domain": lambda: both_ways(towers, rows, by_counts(towers, domains, num_domains)),
    }

    def ours() -> Tensor:
        return both_ways(towers, rows, routed(towers, domains, num_domains, "sort"))

    return [in_milliseconds(what, name, *take_turns(ours, call, repeats)) for name, call in naive.items()]


def drawn_domains(batch: int, num_domains: int, seed: int) -> Int64[Tensor, "batch"]:
    """Sizes fall geometrically from `TAIL` to 1."""
    weights = torch.logspace(0, -torch.log10(torch.tensor(TAIL)).item(), num_domains)
    return torch.multinomial(weights, batch, replacement=True, generator=torch.Generator().manual_seed(seed))


Towers = Callable[[Tensor], Tensor]


def routed(towers: HeadMLP, domains: Int64[Tensor, "batch"], num_domains: int, dispatch: Dispatch) -> Towers:
    """Each call makes its routing, as each batch must."""
    return lambda rows: towers(rows.unsqueeze(0), by_domain(domains, num_domains, dispatch))[0]


def by_counts(towers: HeadMLP, domains: Int64[Tensor, "batch"], num_domains: int) -> Towers:
    """Rows sorted by domain, then domain after domain."""
    layers = [layer for layer in (*towers.layers, towers.last) if isinstance(layer, nn.Module)]

    def run(rows: Float[Tensor, "batch inward"]) -> Float[Tensor, "batch 1"]:
        order = torch.argsort(domains, stable=True)
        counts = torch.bincount(domains, minlength=num_domains).tolist()
        weights = [(layer.weight.unbind(), layer.bias.unbind()) for layer in layers]
        results = []
        for domain, x in enumerate(rows.index_select(0, order).split(counts)):
            for number, (weight, bias) in enumerate(weights):
                x = torch.addmm(bias[domain], x, weight[domain])
                x = x if number == len(weights) - 1 else x.relu()
            results.append(x)
        back = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))
        return torch.cat(results).index_select(0, back)

    return run


def both_ways(towers: HeadMLP, rows: Float[Tensor, "batch inward"], run: Towers) -> Float[Tensor, "batch inward"]:
    """Gradient of the rows, by forward and backward through rows and towers."""
    towers.zero_grad()
    leaf = rows.detach().requires_grad_()
    run(leaf).square().sum().backward()
    if leaf.grad is None:
        raise RuntimeError("the towers are not connected to the rows")
    return leaf.grad


# --- covariance ----------------------------------------------------------------------------------------------------


def measure_covariance(batch: int, repeats: int, seed: int) -> list[Measured]:
    outputs = torch.randn(EXPERTS, batch, DIM, generator=torch.Generator().manual_seed(seed))
    ours, naive = take_turns(
        lambda: gradient(cross_expert_covariance, outputs), lambda: gradient(covariance_by_pairs, outputs), repeats
    )
    what = f"covariance of {EXPERTS} experts, dim {DIM}, batch {batch:,}"
    return [in_milliseconds(what, "one product a pair", ours, naive)]


def covariance_by_pairs(outputs: Float[Tensor, "experts batch dim"]) -> Float[Tensor, ""]:
    centred = outputs - outputs.mean(1, keepdim=True)
    pairs = [(centred[p].T @ centred[q]).abs().sum() for p in range(len(outputs)) for q in range(p)]
    return torch.stack(pairs).sum() / outputs.shape[2] ** 2


def gradient(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Float[Tensor, "experts batch dim"]:
    leaf = outputs.detach().requires_grad_()
    loss(leaf).backward()
    if leaf.grad is None:
        raise RuntimeError("the loss is not connected to the outputs")
    return leaf.grad


# --- training of domains -------------------------------------------------------------------------------------------


def measure_heads(rows: int, seed: int) -> list[Measured]:
    """An epoch of the last phase of D-Train for the largest domain: features kept and computed for every batch."""
    with tempfile.TemporaryDirectory() as folder:
        world = PlantedDomainsConfig(rows=rows, evaluation_rows=100, num_users=500, num_items=500, seed=seed)
        log = write_domains(planted_domains(world), Path(folder))
        torch.manual_seed(seed)
        model = build_domain_click_model(DomainMethodConfig(model=mmoe()), log.schema)
        columns = log.part("train")
        asked = np.flatnonzero(domain_numbers(log.schema, columns) == 0)
        kept, computed = (HeadRows(model, columns, asked, label=0, kept=keep) for keep in (True, False))
        start = time.perf_counter()
        len(kept.all)
        made = time.perf_counter() - start
        head_epoch(model, kept)  # imports what an optimiser needs
        ours, naive = take_turns(lambda: head_epoch(model, kept), lambda: head_epoch(model, computed), 2)
    what = f"last phase of D-Train, MMoE, {len(asked):,} rows"
    return [
        in_milliseconds(f"{what}, an epoch", "features computed for every batch", ours, naive),
        in_milliseconds(f"{what}, keeping them once", "an epoch of computing them", made, naive),
    ]


def head_epoch(model: DomainModel, rows: HeadRows) -> Tensor:
    """One pass of Adam over a head."""
    task = HeadTask(head_alone(model, 0))
    optimizer = torch.optim.Adam(task.head.parameters(), lr=1e-3)
    for batch in HeadBatches(rows, 1024, 0).epoch(1):
        optimizer.zero_grad()
        task.loss(batch).total.backward()
        optimizer.step()
    return torch.zeros(())


def measure_grouped(rows: int, seed: int) -> list[Measured]:
    """Grouped AUC by one sort, and by a loop over groups with one AUC each."""
    rng = np.random.default_rng(seed)
    scores, labels = rng.normal(size=rows), rng.integers(2, size=rows)
    groups = rng.integers(max(1, rows // 200), size=rows)
    ours, naive = take_turns(
        lambda: torch.tensor(grouped_auc(scores, labels, groups).value, dtype=torch.float64),
        lambda: torch.tensor(grouped_by_loop(scores, labels, groups), dtype=torch.float64),
        3,
    )
    return [in_milliseconds(f"grouped AUC, {rows:,} rows, {rows // 200:,} groups", "a group at a time", ours, naive)]


def grouped_by_loop(scores: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Rows are put in order by group once; then every group has a sort of its own."""
    order = np.argsort(groups, kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    total, weight = 0.0, 0
    for rows in np.split(order, cuts):
        if 0 < labels[rows].sum() < len(rows):
            total += len(rows) * auc(scores[rows], labels[rows])
            weight += len(rows)
    return total / weight


if __name__ == "__main__":
    main()
