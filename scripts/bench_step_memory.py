"""A training step of click models on a CPU: freed memory kept for the next step, beside glibc's own way.

    python scripts/bench_step_memory.py --threads 1 --out out/bench_step_memory

Models are presets over 10 categorical fields, batches of 4,096, dense Adam, in the trainer that `llm-rec train ctr`
has, which keeps freed memory (`llm_rec.training.memory`). The other way is the same with ``GLIBC_TUNABLES`` in the
environment, empty: then it changes nothing. Every measurement is a process of its own, because the setting is one of
the process, and the two ways take turns; milliseconds of processor time a step are the best of `--rounds`, faults are
those that needed no disk (minor), a step, of the same turn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import torch
from bench_ctr_training import Steps, drawn_log, trained

from ctr_models.interactions.named import preset
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.experiment import Measured, bench_options, write_bench
from llm_rec.training.trainer import Precision, TrainerConfig

MODELS = ("dcn_v2", "finalmlp", "fibinet", "autoint")
AGAINST = "glibc's own way"
ROWS, FIELDS, ZIPF, SIZE, BATCH = 65_536, 10, 1.1, 5_000, 4_096


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    if args.child:
        print(json.dumps(measure_step(args)))
        return
    if args.quick:
        args.models, args.steps, args.rounds = args.models[:1], 4, 1
    measured = [
        line for precision in args.precision for model in args.models for line in beside(model, precision, args)
    ]
    write_bench(args.out / "bench.json", measured)
    print("\n".join(line.text for line in measured))


def options() -> argparse.ArgumentParser:
    parser = bench_options(__doc__.splitlines()[0], out="out/bench_step_memory")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="presets of `llm-rec train ctr`")
    parser.add_argument("--precision", nargs="+", choices=get_args(Precision), default=["no", "bf16"])
    parser.add_argument("--steps", type=int, default=24, help="timed steps (default: 24)")
    parser.add_argument("--rounds", type=int, default=3, help="how often both ways take turns (default: 3)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def beside(model: str, precision: str, args: argparse.Namespace) -> list[Measured]:
    """Milliseconds and faults of a step in both ways."""
    turns: dict[bool, list[list[float]]] = {True: [], False: []}
    for _ in range(args.rounds):
        for kept in turns:
            turns[kept].append(in_child(model, precision, args, kept=kept))
    (ours, our_faults), (naive, their_faults) = min(turns[True]), min(turns[False])
    what = f"a step of {model}, {precision}"
    pairs = ((ours, naive, "ms"), (max(1.0, our_faults), max(1.0, their_faults), "faults"))
    return [
        Measured(what=what, against=AGAINST, ours=mine, peer=theirs, unit=unit, higher_is_better=False)
        for mine, theirs, unit in pairs
    ]


def in_child(model: str, precision: str, args: argparse.Namespace, *, kept: bool) -> list[float]:
    """`measure_step` in a process of its own."""
    free = ("GLIBC_TUNABLES", "MALLOC_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(free)}
    words = ["--models", model, "--precision", precision, "--steps", str(args.steps), "--seed", str(args.seed)]
    shared = ["--threads", str(args.threads), "--out", str(args.out), "--child"]
    done = subprocess.run(
        [sys.executable, __file__, *words, *shared],
        env=environment if kept else {**environment, "GLIBC_TUNABLES": ""},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_step(args: argparse.Namespace) -> list[float]:
    """Milliseconds of processor time and minor faults of a step of the one model, after as many to warm up."""
    drawn = argparse.Namespace(rows=ROWS, fields=FIELDS, zipf=ZIPF, seed=args.seed)
    log = drawn_log(Path(args.out) / "logs", SIZE, drawn)
    method = ClickMethodConfig(
        model=preset(args.models[0], log.schema),
        batches=ClickBatchConfig(batch_size=BATCH),
        trainer=TrainerConfig(
            epochs=1, learning_rate=1e-3, optimizer="adam", device="cpu", seed=args.seed, precision=args.precision[0]
        ),
    )
    training = trained(method, log, args.seed)
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=BATCH, drop_last=True), args.seed)
    training.run(Steps(source, args.steps, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    steps = Steps(source, args.steps, 1)
    training.run(steps)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return [1e3 * steps.cpu / args.steps, faults / len(steps)]


if __name__ == "__main__":
    main()
