"""Models with long histories: search at serving beside what the machine allows, training beside the released DARE.

    python scripts/bench_long_sequence.py --out out/bench_long_sequence
    python scripts/bench_long_sequence.py --parts training --dare DARE --threads 1  # DARE: a clone of its code

Parts, each in a file of its own (`--parts`):

- `serving` (`bench_long_sequence_serving.py`): microseconds of a request, by candidates, events and attention numbers;
- `training` (`bench_long_sequence_training.py`): milliseconds of a step of DARE, by the number of items.

Lines are appended to one `bench.json`, cells are kept, so an interrupted run goes on where it was.
"""

import argparse
from collections.abc import Callable
from typing import cast

import torch
from bench_long_sequence_serving import add_serving_options, measure_serving
from bench_long_sequence_training import add_training_options, measure_training

from llm_rec.codec import Plain
from llm_rec.experiment import Measured, script_options, write_bench

Part = Callable[[argparse.Namespace], tuple[list[Measured], dict[str, Plain]]]  # lines, and details beside them
PARTS: dict[str, Part] = {"serving": measure_serving, "training": measure_training}


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    measured: list[Measured] = []
    details: dict[str, Plain] = {name: cast(Plain, getattr(args, name)) for name in ("quick", "threads", "seed")}
    for name in args.parts:
        lines, about = PARTS[name](args)
        measured += lines
        details[name] = about
    write_bench(args.out / "bench.json", measured, details)
    for line in measured:
        print(f"{line.what}: {line.ours:,.5g} {line.unit}, {line.against} {line.peer:,.5g}: {line.ratio:.3g} x")


def options() -> argparse.ArgumentParser:
    parser = script_options(__doc__.splitlines()[0], out="out/bench_long_sequence", data=False)
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=sorted(PARTS), help="what to measure")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    add_serving_options(parser)
    add_training_options(parser)
    return parser


if __name__ == "__main__":
    main()
