"""DCNv2 beside FuxiCTR, DeepCTR-Torch and torch-rechub: training rows a second by the size of the embedding tables.

    python scripts/bench_ctr.py --out out/bench_ctr
    python scripts/bench_ctr.py --out out/bench_ctr --auc --data DATA/frappe

Equal settings: 10 fields of equally many ids, vectors of 16, batches of 4,096, three full-matrix cross layers beside an
MLP 256-128, Adam, no regularisation, the same rows (Zipf ids, drawn here) and number of threads. Three columns of ours:
`dense` is Adam on every row, the peers' algorithm; `lazy_adam` and `rowwise_adagrad` move the rows of a batch alone,
another algorithm, so they stand apart. Ours is the whole trainer, batches included. DeepCTR-Torch runs its `fit`,
torch-rechub its trainer's epoch, both with their loaders; FuxiCTR its `train_step` on batches sliced for it. Each gets
a few steps to warm up and to size its run (the row-wise columns a pass over the rows, in which their state comes into
memory), then about `--seconds`; they take turns, `--rounds` times, and medians are
compared. Besides the wall clock, processor time is reported: on a busy machine it is the steadier of the two.

Losses, GAUC and information abundance beside their naive forms are in `bench_ctr_forms.py`, run from here as well.
`--auc` trains `dense` and FuxiCTR from the same initial distributions for `--epochs` epochs on frappe, `--seeds` seeds
each, and compares their test AUCs. Peers live in environments that are built on first use (about 1.5 GB each).
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from bench_ctr_forms import measure_forms
from bench_ctr_training import call_peer, drawn_log, our_method, our_speed, peer_speed, trained, write_rows

from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_encoding import encode_log
from llm_rec.data.sources.frappe import FrappeConfig, frappe
from llm_rec.experiment import (
    Cell,
    CellResult,
    Measured,
    Record,
    run_grid,
    script_options,
    write_bench,
)
from llm_rec.metrics.classification import auc
from llm_rec.training.groups import OptimizerKind

OURS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)
PEERS = ("fuxictr", "deepctr", "rechub")
UNITS = ("rows/s", "rows/cpu-s")
SHARED = (
    "rows",
    "fields",
    "zipf",
    "dim",
    "cross_layers",
    "widths",
    "batch_size",
    "seconds",
    "warmup",
    "threads",
    "seed",
)


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.sizes, args.seconds, args.rounds, args.rows = args.sizes[:2], min(args.seconds, 2.0), 1, 65536
    context = {name: cast(Plain, getattr(args, name)) for name in SHARED}
    if args.auc:
        measured = [*compare_auc(args, context)]
    else:
        measured = [*compare_training(args, context), *measure_forms(quick=args.quick, seed=args.seed)]
    write_bench(args.out / ("bench_auc.json" if args.auc else "bench.json"), measured, context)
    for line in measured:
        print(f"{line.what}: {line.ours:,.5g} {line.unit}, {line.against} {line.peer:,.5g}: {line.ratio:.3g} x")


def options() -> argparse.ArgumentParser:
    parser = script_options(__doc__.splitlines()[0], out="out/bench_ctr", data=False)
    parser.add_argument("--auc", action="store_true", help="compare test AUCs on --data instead of speed")
    parser.add_argument("--data", type=Path, help="folder of frappe, for --auc")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of --auc (default: 5)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of --auc (default: 10)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000], help="rows of all tables"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="about how long each trains (default: 15)")
    parser.add_argument("--rounds", type=int, default=3, help="how often all take turns (default: 3)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts (default: 3)")
    parser.add_argument(
        "--rows", type=int, default=131_072, help="rows to draw; training goes over them again and again"
    )
    parser.add_argument("--fields", type=int, default=10)
    parser.add_argument("--zipf", type=float, default=1.1, help="exponent of the ids' frequencies (default: 1.1)")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--cross-layers", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-cache", type=Path, help="where peers' environments live")
    parser.add_argument("--peer-python", default="python3.11", help="a Python 3.11 for the peers")
    return parser


# --- training speed ------------------------------------------------------------------------------------------------


def compare_training(args: argparse.Namespace, context: dict[str, Plain]) -> list[Measured]:
    """Every column of ours beside every peer at every size, in both units."""

    def run(cell: Cell) -> list[Record]:
        size = int(str(cell.setting["size"]))
        log = drawn_log(args.out / "logs", size, args)
        speed = our_speed(log, cell.model, args) if cell.model in OURS else peer_speed(cell.model, log, args)
        return [Record(unit, value) for unit, value in zip(UNITS, speed, strict=True)]

    cells = [
        Cell(model, {"size": size}, turn)
        for size in args.sizes
        for turn in range(args.rounds)
        for model in OURS + PEERS
    ]
    results = run_grid(cells, run, args.out, context=context, report=say)
    return [line for size in args.sizes for line in side_by_side(results, size)]


def side_by_side(results: Sequence[CellResult], size: int) -> list[Measured]:
    """Medians over the turns of one size."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.cell.setting["size"] == size:
            for record in result.records:
                found.setdefault((result.cell.model, record.metric), []).append(record.value)
    middle = {key: statistics.median(values) for key, values in found.items()}
    return [
        Measured(
            what=f"training, {size:,} table rows, {ours}",
            against=peer,
            ours=middle[ours, unit],
            peer=middle[peer, unit],
            unit=unit,
        )
        for ours in OURS
        for unit in UNITS
        for peer in PEERS
        if (ours, unit) in middle and (peer, unit) in middle
    ]


# --- AUC of the dense column ---------------------------------------------------------------------------------------


def compare_auc(args: argparse.Namespace, context: dict[str, Plain]) -> Iterator[Measured]:
    """Mean test AUC of `dense` and of FuxiCTR over seeds; prints their difference in standard errors."""
    if args.data is None:
        raise SystemExit("--auc needs --data, the folder of frappe")
    path = args.out / "logs" / "frappe"
    if not path.exists():
        source = frappe(FrappeConfig(path=args.data))
        encode_log(source.files, source.spec, path)
    log = ClickLog.load(path)

    def run(cell: Cell) -> list[Record]:
        score = our_auc if cell.model == "dense" else peer_auc
        return [Record("auc", score(log, cell.seed, args))]

    cells = [Cell(model, {"epochs": args.epochs}, seed) for seed in range(args.seeds) for model in ("dense", "fuxictr")]
    results = run_grid(cells, run, args.out, context={**context, "log": log.fingerprint}, report=say)
    values = {
        model: [r.records[0].value for r in results if r.cell.model == model and r.records] for model in OURS + PEERS
    }
    ours, peer = values["dense"], values["fuxictr"]
    difference, error = difference_of_means(ours, peer)
    print(
        f"AUC of ours less FuxiCTR's: {difference:+.5f}, standard error {error:.5f}, {len(ours)} and {len(peer)} seeds"
    )
    yield Measured(
        what=f"test AUC on frappe, dense, {args.epochs} epochs",
        against="fuxictr",
        ours=statistics.mean(ours),
        peer=statistics.mean(peer),
        unit="AUC",
    )


def difference_of_means(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float]:
    """Difference of the means of two independent samples, and its standard error (infinite for a single value).

    >>> difference_of_means([2.0, 4.0], [1.0, 1.0])
    (2.0, 1.0)
    """
    error = math.hypot(*(statistics.stdev(v) / math.sqrt(len(v)) if len(v) > 1 else math.inf for v in (ours, peer)))
    return statistics.mean(ours) - statistics.mean(peer), error


def our_auc(log: ClickLog, seed: int, args: argparse.Namespace) -> float:
    method = our_method("dense", args, epochs=args.epochs)
    training = trained(method, log, seed)
    training.run(ClickBatches(log, "train", method.batches, seed))
    test = log.part("test")
    return auc(click_logits(training.task.model, method.loss, test), test.labels[:, 0])


def peer_auc(log: ClickLog, seed: int, args: argparse.Namespace) -> float:
    scores = args.out.resolve() / "fuxictr_scores.npy"
    words = ["--rows", str(write_rows(log, "train", args.out / "frappe_train.npz"))]
    words += ["--test", str(write_rows(log, "test", args.out / "frappe_test.npz")), "--scores", str(scores)]
    call_peer("fuxictr", [*words, "--epochs", str(args.epochs), "--seed", str(seed)], args)
    return auc(np.load(scores, allow_pickle=False), log.part("test").labels[:, 0])


def say(result: CellResult) -> None:
    what = f"{result.cell.model}, {result.cell.setting}, {result.cell.seed}"
    figures = ", ".join(f"{record.value:,.6g} {record.metric}" for record in result.records)
    print(f"{what}: {figures or result.error}", flush=True)


if __name__ == "__main__":
    main()
