"""A training step of DARE: ours beside the released code, on the same rows, by the number of items.

The setting is the paper's: batches of 2,048 rows with 200 events, K = 20, vectors of 16 in both roles, the auxiliary
head. Three columns of ours: `dense` is Adam on every row of every table, the released algorithm; `lazy_adam` and
`rowwise_adagrad` move the rows of a batch alone, another algorithm, so they stand apart. Ours is the whole trainer,
batches included; theirs is its own training loop with its own loader, unchanged, stopped by the rows it is given
(`peers/dare_training.py`). Steps are timed after one pass over all rows on our side, in which the state of the row-wise
columns comes into memory, and after `--warmup` steps on theirs, whose Adam has all of its state in the first. All take
turns, `--rounds` times, and medians are compared, by the wall clock and by processor time.

Ids are drawn by Zipf's law with a small exponent, as flat as the items of shops: a step then touches most of the rows
it could (`--zipf 0` is the worst case of the row-wise columns). Without `--dare` our columns are compared with `dense`.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from bench_ctr_training import Steps, zipf_ids
from dare_released import CLONE, add_dare_options, call_dare, exported
from torch import nn

from ctr_models.model import CTRModel
from ctr_models.schema import RESERVED, Categorical, Schema
from ctr_models.sequences.presets import dare
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.sequence_method import dare_protocol
from llm_rec.ctr.task import ClickTask, click_groups
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter
from llm_rec.data.event_store import EventStore
from llm_rec.experiment import Cell, CellResult, Measured, Record, run_grid
from llm_rec.training.groups import OptimizerKind, ParameterGroup
from llm_rec.training.trainer import Trainer

OURS: tuple[OptimizerKind, ...] = get_args(OptimizerKind)
DENSE, RELEASED = "dense", "released DARE"
UNITS = ("ms", "cpu ms")
SHARED = ("categories", "history", "dim", "batch_size", "training_rows", "zipf", "steps", "warmup", "threads", "quick")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--items", type=int, nargs="+", default=[20_000, 4_000_000], help="ids of the item field")
    group.add_argument("--categories", type=int, default=9408, help="ids of the category field (default: 9,408)")
    group.add_argument("--history", type=int, default=200, help="events of a row (default: 200)")
    group.add_argument("--dim", type=int, default=16, help="numbers of a vector (default: 16)")
    group.add_argument("--batch-size", type=int, default=2048)
    group.add_argument("--training-rows", type=int, default=8192, help="rows, gone over again and again")
    group.add_argument("--zipf", type=float, default=0.6, help="exponent of the frequencies of ids (default: 0.6)")
    group.add_argument("--steps", type=int, default=8, help="steps to time (default: 8)")
    group.add_argument("--warmup", type=int, default=2, help="steps of the released code before the clock starts")
    group.add_argument("--rounds", type=int, default=3, help="how often all take turns (default: 3)")
    add_dare_options(parser, required=False)


def measure_training(args: argparse.Namespace) -> tuple[list[Measured], dict[str, Plain]]:
    """Lines of `bench.json`, and what they were measured with."""
    if args.quick:
        args.items, args.steps, args.rounds = args.items[:1], min(args.steps, 2), 1
        args.training_rows = min(args.training_rows, 2 * args.batch_size)
    if args.dare is None:
        print(f"training: the released code is left out; to compare with it, {CLONE}, and give --dare")
    context = {name: cast(Plain, getattr(args, name)) for name in SHARED}

    def run(cell: Cell) -> list[Record]:
        log = drawn_log(args.out / "logs", int(str(cell.setting["items"])), args)
        seconds = released_seconds(log, args) if cell.model == RELEASED else our_seconds(log, cell.model, args)
        return [Record(unit, 1e3 * value) for unit, value in zip(UNITS, seconds, strict=True)]

    models = [*OURS, *([] if args.dare is None else [RELEASED])]
    cells = [
        Cell(model, {"items": items}, turn) for items in args.items for turn in range(args.rounds) for model in models
    ]
    results = run_grid(cells, run, args.out, context=context, report=say)
    return [line for items in args.items for line in side_by_side(results, items)], context


def drawn_log(folder: Path, items: int, args: argparse.Namespace) -> ClickLog:
    """Every row has a past of its own, of full length; a category belongs to an item. Drawn once."""
    names = ("categories", "history", "training_rows", "zipf", "seed")
    name = fingerprint({"items": items, **{key: getattr(args, key) for key in names}})
    path = folder / f"training-{name}"
    if path.exists():
        return ClickLog.load(path)
    rng = np.random.default_rng(args.seed)
    sizes = {"train": args.training_rows, "validation": 1, "test": 1}
    rows, events = sum(sizes.values()), args.history + 1  # the last is the candidate
    ids = rng.permutation(items - RESERVED)[zipf_ids(rng, rows, events, items, args.zipf) - RESERVED] + RESERVED
    category = rng.integers(RESERVED, args.categories, items)
    both = np.stack([ids, category[ids]], axis=2).astype(np.int32)
    store = EventStore.of(both[:, :-1].reshape(-1, 2))
    starts = np.arange(rows) * args.history + 1  # the store counts from 1
    nothing = np.zeros((rows, 0), dtype=np.float32)
    labels = (rng.random((rows, 1)) < 1 / 3).astype(np.float32)
    windows = np.stack([starts, starts + args.history], axis=1)
    drawn = ClickColumns(both[:, -1], nothing, nothing, labels, windows=windows, events=store)
    fields = (Categorical(name="item", size=items), Categorical(name="category", size=args.categories))
    schema = Schema(fields=fields, history=("item", "category"))
    details: dict[str, Plain] = {}
    with write_artifact(path, kind=KIND, fingerprint=name, details=details) as target:
        with ClickWriter(target, schema, (), sizes, events=store) as writer:
            start = 0
            for part, size in sizes.items():
                writer.append(part, drawn.select(slice(start, start + size)))
                start += size
        details.update(writer.details())
    return ClickLog.load(path)


def our_method(kind: str, args: argparse.Namespace) -> ClickMethodConfig:
    method = dare_protocol(dare(dim=args.dim, max_length=args.history), epochs=1, batch_size=args.batch_size)
    return replace(method, tables=cast(OptimizerKind, kind), trainer=replace(method.trainer, device="cpu"))


def our_seconds(log: ClickLog, kind: str, args: argparse.Namespace) -> tuple[float, float]:
    """Of one step: by the wall clock, and of processor time."""
    method = our_method(kind, args)
    torch.manual_seed(args.seed)
    task = ClickTask(build_click_model(method, log.schema), method.loss)

    def groups(module: nn.Module) -> Sequence[ParameterGroup]:
        if not isinstance(module, CTRModel):
            raise TypeError(f"expected a click model, got {type(module).__name__}")
        l2 = method.trainer.weight_decay
        return click_groups(module, embedding_l2=0.0, dense_l2=l2, tables=method.tables, decay_biases=False)

    batches = ClickBatchConfig(batch_size=args.batch_size, drop_last=True)
    source = ClickBatches(log, "train", batches, args.seed, history_length=args.history)
    steps = Steps(source, args.steps, warmup=len(source))
    Trainer(method.trainer).fit(task, steps, groups=groups)
    return steps.wall / args.steps, steps.cpu / args.steps


def released_seconds(log: ClickLog, args: argparse.Namespace) -> tuple[float, float]:
    rows = exported(log, args.out / "rows", args.history)
    words = (
        *("--dim", args.dim, "--batch-size", args.batch_size, "--threads", args.threads),
        *("--warmup", args.warmup, "--steps", args.steps),
    )
    found = call_dare("training", rows, words, args, length=args.history)
    return float(str(found["seconds"])), float(str(found["cpu_seconds"]))


def side_by_side(results: Sequence[CellResult], items: int) -> Iterator[Measured]:
    """Medians over the turns of one size: every column of ours beside the released code, and beside our dense one."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.cell.setting["items"] == items:
            for record in result.records:
                found.setdefault((result.cell.model, record.metric), []).append(record.value)
    middle = {key: statistics.median(values) for key, values in found.items()}
    for ours in OURS:
        for unit in UNITS:
            for peer in (RELEASED, DENSE):
                if ours != peer and (ours, unit) in middle and (peer, unit) in middle:
                    yield Measured(
                        what=f"training step, {items:,} items, {ours}",
                        against=peer,
                        ours=middle[ours, unit],
                        peer=middle[peer, unit],
                        unit=unit,
                        higher_is_better=False,
                    )


def say(result: CellResult) -> None:
    shown = ", ".join(f"{record.value:,.5g} {record.metric}" for record in result.records)
    what = f"training, {result.cell.setting['items']:,} items, {result.cell.model}, turn {result.cell.seed}"
    print(f"{what}: {shown or result.error}", flush=True)
