"""Frequency buckets of Amazon-2018 Prime Pantry against the boundaries that PAD's code release uses.

    python scripts/pantry_buckets.py --data DATA/amazon2018-prime-pantry [--out DIR]

The folder holds ``items.parquet`` (item_id, title) and ``interactions.parquet`` (user_id, item_id, order): ratings of 4
and more, users with at least five of them, their latest 22 (23 where there are exactly 23), items with metadata. Exit
code 1 when a boundary or the number of train events differs. There is nothing to shorten, so there is no --quick.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from llm_rec.artifacts import write_json
from llm_rec.codec import Plain
from llm_rec.data import FrequencyBuckets, Split, leave_one_out
from llm_rec.data.sources import FolderConfig, load_source

BOUNDARIES = [0, 35, 100, 205, 361, 585, 898, 1357, 2074, 3348, 8347]  # the last is the number of items
TRAIN_EVENTS = 89_262


def records(split: Split, buckets: FrequencyBuckets) -> list[dict[str, Plain]]:
    """One flat record for each bucket and figure."""
    ranked = np.sort(split.train_counts[1:])[::-1]
    rows: list[dict[str, Plain]] = []
    for bucket, (start, end) in enumerate(zip(buckets.boundaries[:-1], buckets.boundaries[1:], strict=True), start=1):
        counts = ranked[start:end]
        figures = {
            "first_rank": start,
            "end_rank": end,
            "items": len(counts),
            "train_events": counts.sum(),
            "highest_count": counts.max(initial=0),
            "lowest_count": counts[-1] if len(counts) else 0,
        }
        for metric, value in figures.items():
            record: dict[str, Plain] = {"model": "frequency_buckets", "slice": f"bucket_{bucket}", "metric": metric}
            rows.append({**record, "mean": float(value), "std": 0.0, "seeds": 1})
    return rows


def show(console: Console, rows: list[dict[str, Plain]]) -> None:
    metrics = list(dict.fromkeys(str(row["metric"]) for row in rows))
    table = Table("bucket", *metrics, title="Prime Pantry: ten buckets of equal train mass")
    for name in dict.fromkeys(str(row["slice"]) for row in rows):
        cells = [f"{row['mean']:,.0f}" for row in rows if row["slice"] == name]
        table.add_row(name.removeprefix("bucket_"), *cells)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with items.parquet and interactions.parquet")
    parser.add_argument("--out", type=Path, help="folder for table.json")
    options = parser.parse_args(arguments)

    _, log = load_source(FolderConfig(path=options.data))
    split = leave_one_out(log)
    buckets = FrequencyBuckets.fit(split.train_counts)
    rows = records(split, buckets)
    console = Console()
    show(console, rows)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / "table.json", rows)
    found, events = buckets.boundaries.tolist(), int(split.train_counts.sum())
    if found == BOUNDARIES and events == TRAIN_EVENTS:
        console.print(f"equal to the published boundaries {found}; {events:,} train events")
        return 0
    console.print(
        f"DIFFERENT: boundaries {found}, published {BOUNDARIES}; train events {events:,}, published {TRAIN_EVENTS:,}"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
