"""What every peer runner shares. It runs inside the peer's environment, so it needs numpy and torch, never llm_rec.

A runner prints exactly one line ``RESULT {json}``; everything else it prints is a log.
"""

import argparse
import json
import platform
import random
import resource
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
