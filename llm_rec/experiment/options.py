"""The command line options that all scripts share."""

import argparse
from pathlib import Path


def script_options(
    description: str, *, out: str, data: bool = True, seeds: int | None = None
) -> argparse.ArgumentParser:
    """The options every script shares: --data, --out, --quick and, for tables, --seeds."""
    parser = argparse.ArgumentParser(description=description)
    if data:
        parser.add_argument(
            "--data", type=Path, required=True, help="folder with items.parquet and interactions.parquet"
        )
    parser.add_argument("--out", type=Path, default=Path(out), help=f"folder of the results (default: {out})")
    parser.add_argument(
        "--quick", action="store_true", help="a reduced run of a few minutes; its figures are not results"
    )
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help=f"number of seeds (default: {seeds})")
    return parser


def bench_options(description: str, *, out: str) -> argparse.ArgumentParser:
    """The options that benchmarks without data share: --out, --quick, --threads and --seed."""
    parser = script_options(description, out=out, data=False)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn (default: 0)")
    return parser
