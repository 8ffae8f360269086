"""Seconds of a training step of the released DARE code: its loop, its loader, its Adam over dense tables."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator

import dare_code
from common import prepare, result


class Done(Exception):
    """Enough steps have been timed."""


class TimedRows:
    """Its rows, again and again, with the clock: from when its loop asks for batch number `warmup` to when it asks for
    one more than `steps` later. Then it stops the loop.
    """

    def __init__(self, rows: Iterator[dict], warmup: int, steps: int) -> None:
        self.rows, self.warmup, self.steps = rows, warmup, steps
        self.wall, self.cpu = 0.0, 0.0

    def reset(self) -> None:
        self.rows.reset()

    def __iter__(self) -> Iterator[dict]:
        for number in range(self.warmup + self.steps + 1):
            if number == self.warmup:
                start = time.perf_counter(), time.process_time()
            if number == self.warmup + self.steps:
                self.wall, self.cpu = time.perf_counter() - start[0], time.process_time() - start[1]
                raise Done
            yield self._next()

    def _next(self) -> dict:
        try:
            return next(self.rows)
        except StopIteration:
            self.rows.reset()
            return next(self.rows)


def main() -> None:
    args = options().parse_args()
    prepare(args)
    code = dare_code.opened(args.dare)
    with tempfile.TemporaryDirectory() as logs:
        given = dare_code.its_arguments(code, args, logs, test_interval=10**9)
        rows = code.SeqRecDataset(given.train_dataset_path, args.batch_size, max_length=args.length)
        timed = TimedRows(rows, args.warmup, args.steps)
        with contextlib.suppress(Done), contextlib.redirect_stdout(sys.stderr):
            dare_code.train(code, given, timed, None, None)
    result(peer="dare", steps=args.steps, seconds=timed.wall / args.steps, cpu_seconds=timed.cpu / args.steps)


def options() -> argparse.ArgumentParser:
    parser = dare_code.options(__doc__.splitlines()[0])
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, default=6, help="steps to time")
    return parser


if __name__ == "__main__":
    main()
