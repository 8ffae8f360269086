"""SASRec beside RecBole and RecTools: training targets a second on the same rows, full ranking at a million items.

    python scripts/bench_sequential.py --data DATA/amazon2014-beauty --data2 DATA/ml-1m --out out/bench_sequential

Same width (of the feed-forward layers too), blocks, heads, dropout, history length, full softmax loss, and threads. A
target is one next item learned from: RecBole expands every prefix of a history into a sample with one target; RecTools
and ours learn all positions of a history at once; RecTools pads histories to the full length, ours packs short ones
together. Each trains for `--seconds` in its own loop with its own loader and batch size: 2,048 targets in ours and
RecBole, 128 users in RecTools. RecBole masks no seen items when it ranks, RecTools and ours do; ours gives the exact
rank of every target, the peers their top 20. Besides the wall clock, processor time is reported: on a busy machine it
is the steadier of the two. The peers run one after another, each in an environment that is built on first use (about
1.5 GB each).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch

from llm_rec.codec import Plain
from llm_rec.data.interactions import Interactions
from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.data.splits import Split, leave_one_out
from llm_rec.experiment import (
    Cell,
    CellResult,
    Measured,
    Record,
    run_grid,
    run_peer,
    script_options,
    write_bench,
)
from llm_rec.metrics.ranking import rank_split
from llm_rec.sequential.batches import BatchConfig, SequenceBatch, SequenceBatches
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.task import CrossEntropyConfig, NextItemTask
from llm_rec.training.trainer import Trainer, TrainerConfig

PEERS = Path(__file__).parent / "peers"
SPEED, RANKING = "training speed", "full ranking"
UNITS = {SPEED: "targets", RANKING: "users"}
MODEL = ["dim", "layers", "heads", "ffn_multiplier", "dropout", "max_length", "threads"]
SHARED = [*MODEL, "tokens", "seconds", "warmup", "items", "users"]


def main() -> None:
    args = options().parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        args.seconds, args.warmup, args.users = 10.0, 1, 256
    folders = {folder.name: folder for folder in (args.data, args.data2) if folder is not None}
    rows = {name: write_rows(folder, args.out / "rows" / f"{name}.npz") for name, folder in folders.items()}
    settings: list[dict[str, Plain]] = [{"what": SPEED, "on": name} for name in folders]
    settings.append({"what": RANKING, "on": f"{args.items:,} items"})

    def run(cell: Cell) -> list[Record]:
        unit, on = UNITS[str(cell.setting["what"])], str(cell.setting["on"])
        if cell.model != "llm-rec":
            speed = peer_speed(cell.model, rows.get(on), args)
        elif on in folders:
            speed = our_training(read_log(folders[on]), args)
        else:
            speed = our_ranking(args)
        return [Record(f"{unit}/s", speed.wall), Record(f"{unit}/cpu-s", speed.cpu)]

    context: dict[str, Plain] = {name: getattr(args, name) for name in SHARED}
    cells = [Cell(model, setting, args.seed) for setting in settings for model in ("llm-rec", "recbole", "rectools")]
    results = run_grid(cells, run, args.out, context=context, report=say)
    measured = [line for setting in settings for line in side_by_side(results, setting)]
    write_bench(args.out / "bench.json", measured, context)
    for line in measured:
        print(f"{line.what}: {line.ours:,.0f} {line.unit}, {line.against} {line.peer:,.0f}: {line.ratio:.1f} x")


def options() -> argparse.ArgumentParser:
    parser = script_options(__doc__.splitlines()[0], out="out/bench_sequential")
    parser.add_argument("--data2", type=Path, help="a second data set to train on")
    parser.add_argument("--seconds", type=float, default=120.0, help="training time of each (default: 120)")
    parser.add_argument("--warmup", type=int, default=3, help="batches of a peer before its clock starts (default: 3)")
    parser.add_argument("--items", type=int, default=1_000_000, help="items to rank (default: 1,000,000)")
    parser.add_argument("--users", type=int, default=1024, help="users to rank for (default: 1024)")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--ffn-multiplier", type=int, default=1, help="RecTools has 1 (default: 1)")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--max-length", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=2048, help="targets a batch of ours (RecBole: 2048 samples)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-cache", type=Path, help="where peers' environments live")
    parser.add_argument("--peer-python", default="python3.11", help="a Python 3.11 or 3.12 for the peers")
    return parser


def read_log(folder: Path) -> Interactions:
    return load_folder(FolderConfig(path=folder))[1]


def write_rows(folder: Path, path: Path) -> Path:
    """The same events for the peers: `users` and `items` by user, oldest first."""
    log = read_log(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    users = np.repeat(np.arange(log.num_users), np.diff(log.offsets))
    np.savez(path, users=users, items=np.asarray(log.items, dtype=np.int64))
    return path


def our_model(num_items: int, args: argparse.Namespace, train_counts: np.ndarray | None = None) -> SequentialModel:
    backbone = SASRecConfig(
        num_layers=args.layers, num_heads=args.heads, ffn_multiplier=args.ffn_multiplier, dropout=args.dropout
    )
    torch.manual_seed(args.seed)
    counts = None if train_counts is None else torch.from_numpy(train_counts)
    sources = ItemSources(num_items=num_items, train_counts=counts)
    return SequentialModel(SequentialConfig(backbone=backbone, dim=args.dim, max_length=args.max_length), sources)


@dataclass(frozen=True, slots=True)
class Speed:
    """Work done in each second on the wall clock, and in each second of processor time (all threads together)."""

    wall: float
    cpu: float


class Part:
    """The first `steps` batches of every epoch, counting the targets handed out. A `BatchSource`."""

    def __init__(self, source: SequenceBatches, steps: int) -> None:
        self.source, self.steps, self.targets = source, min(steps, len(source)), 0

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SequenceBatch]:
        for batch in islice(self.source.epoch(epoch, first_step), self.steps - first_step):
            self.targets += len(batch.targets)
            yield batch


def our_training(log: Interactions, args: argparse.Namespace) -> Speed:
    """Speed of the trainer, loader included: a few steps to warm up and to size the run, then about `--seconds`."""
    split = leave_one_out(log)
    source = SequenceBatches(split, BatchConfig(max_length=args.max_length, tokens=args.tokens), None, seed=args.seed)
    task = NextItemTask(our_model(split.num_items, args, split.train_counts), CrossEntropyConfig())
    timed_fit(task, Part(source, 2), epochs=1)
    start = perf_counter()
    timed_fit(task, Part(source, 5), epochs=1)
    steps = max(5, round(5 * args.seconds / (perf_counter() - start)))
    return timed_fit(task, Part(source, steps), epochs=max(1, round(steps / len(source))))


def timed_fit(task: NextItemTask, part: Part, epochs: int) -> Speed:
    config = TrainerConfig(epochs=epochs, learning_rate=1e-3, optimizer="adam", device="cpu")
    cpu = process_time()
    history = Trainer(config).fit(task, part).history
    wall = sum(float(str(entry["seconds"])) for entry in history)
    return Speed(part.targets / wall, part.targets / (process_time() - cpu))


def our_ranking(args: argparse.Namespace) -> Speed:
    """Speed in users: their state, the exact rank of the target among all items, seen items left out."""
    model = our_model(args.items, args).eval()
    rank_split(model, synthetic_split(8, args), "test", device="cpu")
    split = synthetic_split(args.users, args)
    start, cpu = perf_counter(), process_time()
    rank_split(model, split, "test", device="cpu")
    return Speed(args.users / (perf_counter() - start), args.users / (process_time() - cpu))


def peer_speed(name: str, rows: Path | None, args: argparse.Namespace) -> Speed:
    """Speed of a peer's training on `rows`, or of its ranking when there are none."""
    words = [word for option in MODEL for word in (f"--{option.replace('_', '-')}", str(getattr(args, option)))]
    if rows is None:
        words += ["--items", str(args.items), "--users", str(args.users)]
    else:
        words += ["--rows", str(rows.resolve()), "--seconds", str(args.seconds), "--warmup", str(args.warmup)]
    script = PEERS / f"{name}_{'ranking' if rows is None else 'sasrec'}.py"
    pins = PEERS / f"requirements-{name}.txt"
    found = run_peer(name, script, pins, words, cache=args.peer_cache, python=args.peer_python)
    return Speed(float(str(found["per_second"])), float(str(found["per_cpu_second"])))


def synthetic_split(users: int, args: argparse.Namespace) -> Split:
    """Users with `max_length` different items and one target more."""
    rng = np.random.default_rng(args.seed)
    first, step = rng.integers(0, args.items, users), rng.integers(1, args.items // (args.max_length + 2), users)
    events = (first[:, None] + step[:, None] * np.arange(args.max_length + 1)) % args.items + 1
    offsets = np.arange(users + 1, dtype=np.int64) * events.shape[1]
    names = [str(user) for user in range(users)]
    log = Interactions(names, offsets, events.ravel(), None, num_items=args.items, catalog="synthetic")
    return Split(log=log, train_ends=offsets[1:] - 1, validation=offsets[:0], test=offsets[1:] - 1, leakage=None)


def side_by_side(results: list[CellResult], setting: dict[str, Plain]) -> list[Measured]:
    found = {r.cell.model: r.records for r in results if r.cell.setting == setting and r.status == "done"}
    what = f"{setting['what']}, {setting['on']}"
    ours = found.pop("llm-rec", [])
    return [
        Measured(what=what, against=name, ours=mine.value, peer=record.value, unit=mine.metric)
        for name, records in found.items()
        for mine, record in zip(ours, records, strict=True)
    ]


def say(result: CellResult) -> None:
    what = f"{result.cell.model}, {result.cell.setting['what']}, {result.cell.setting['on']}"
    figures = ", ".join(f"{record.value:,.0f} {record.metric}" for record in result.records)
    print(f"{what}: {figures or result.error}", flush=True)


if __name__ == "__main__":
    main()
