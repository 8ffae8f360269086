"""What every peer runner shares. It runs inside the peer's environment, so it needs numpy and torch, never llm_rec.

A runner prints exactly one line ``RESULT {json}``; everything else it prints is a log.
"""

import argparse
import json
import platform
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def options(description: str, *, batch_size: int) -> argparse.ArgumentParser:
    """Model and training options, the same names for every peer."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--ffn-multiplier", type=int, default=1)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--max-length", type=int, default=50)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2024)
    return parser


def training_options(description: str, *, batch_size: int) -> argparse.ArgumentParser:
    """`options` with the rows to train on and how much of them."""
    parser = options(description, batch_size=batch_size)
    parser.add_argument("--rows", type=Path, required=True, help=".npz with `users` and `items`, oldest event first")
    parser.add_argument("--warmup", type=int, default=3, help="batches before the clock starts")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after the batch that passes this time")
    return parser


def ranking_options(description: str) -> argparse.ArgumentParser:
    """`options` with a synthetic catalog to rank."""
    parser = options(description, batch_size=64)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=512)
    parser.add_argument("--top-k", type=int, default=20)
    return parser


def click_options(description: str) -> argparse.ArgumentParser:
    """A click model with full-matrix cross layers beside an MLP (DCNv2), and the rows to train it on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rows", type=Path, required=True, help=".npz with `ids`, `labels` and `sizes`")
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--cross-layers", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=3, help="steps before the clock starts")
    parser.add_argument("--seconds", type=float, default=15.0, help="about how long to train by the clock")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=2024)
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Seeds and threads."""
    import torch

    random.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002 - the peers draw from numpy's global generator
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)


def read_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`users` and `items`, dense from 0, grouped by user and oldest event first."""
    with np.load(path, allow_pickle=False) as rows:
        return rows["users"], rows["items"]


class Clicks:
    """Rows of a click log: `ids` (rows, fields), `labels` (rows,), and `sizes`, the ids of every field."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as rows:
            self.ids = rows["ids"].astype(np.int64)
            self.labels, self.sizes = rows["labels"], rows["sizes"].tolist()
        self.names = [f"field{number}" for number in range(len(self.sizes))]

    def __len__(self) -> int:
        return len(self.labels)

    def columns(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Ids by the name of their field."""
        return {name: np.ascontiguousarray(self.ids[rows, place]) for place, name in enumerate(self.names)}

    def first(self, count: int) -> np.ndarray:
        """`count` row numbers from the first one on, again and again if there are not so many."""
        return np.arange(count) % len(self)


def timed_steps(train: Callable[[int], None], args: argparse.Namespace) -> dict[str, float]:
    """Run `train(steps)` to warm up, to learn how long a step takes, and for about `seconds` by the clock; rows/s."""
    train(args.warmup)
    start = time.perf_counter()
    train(args.warmup)
    steps = max(args.warmup, round(args.seconds * args.warmup / (time.perf_counter() - start)))
    start, cpu = time.perf_counter(), time.process_time()
    train(steps)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    rows = steps * args.batch_size
    return {"steps": steps, "seconds": seconds, "per_second": rows / seconds, "per_cpu_second": rows / cpu}


def synthetic_histories(users: int, items: int, length: int, seed: int) -> np.ndarray:
    """(users, length + 1) item numbers 1..items, all different within a user; the last one is the target."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, items, users)
    step = rng.integers(1, max(items // (length + 2), 2), users)
    return (start[:, None] + step[:, None] * np.arange(length + 1)) % items + 1


def result(**values: object) -> None:
    """Print the RESULT line, with versions and peak memory added."""
    import torch

    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    extra = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    print("RESULT " + json.dumps({**values, **extra, "peak_rss_mib": peak}), flush=True)
