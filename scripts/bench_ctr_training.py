"""What `bench_ctr.py` times: rows drawn as a click log, our trainer on them, and the peers on the same rows."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import cast

import numpy as np
import torch
from jaxtyping import Int32

from ctr_models.batch import FeatureBatch
from ctr_models.interactions.presets import dcn_v2
from ctr_models.layers import MLPConfig
from ctr_models.schema import RESERVED, Categorical, Schema
from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.task import ClickTask, click_groups
from llm_rec.data.columns import KIND, ClickColumns, ClickLog, ClickWriter
from llm_rec.experiment import run_peer
from llm_rec.training.groups import OptimizerKind
from llm_rec.training.trainer import Trainer, TrainerConfig

SCRIPTS = Path(__file__).parent / "peers"
PEER_OPTIONS = ("dim", "cross_layers", "widths", "batch_size", "threads")


def drawn_log(folder: Path, size: int, args: argparse.Namespace) -> ClickLog:
    """A click log whose ids follow Zipf's law, most frequent first; labels are coins. Drawn once."""
    name = fingerprint({"size": size, **{key: getattr(args, key) for key in ("rows", "fields", "zipf", "seed")}})
    path = folder / name
    if not path.exists():
        rng = np.random.default_rng(args.seed)
        ids = zipf_ids(rng, args.rows, args.fields, size // args.fields, args.zipf)
        labels = (rng.random((args.rows, 1)) < 0.25).astype(np.float32)
        fields = tuple(Categorical(name=f"field{i}", size=size // args.fields) for i in range(args.fields))
        write_log(path, Schema(fields=fields), ids, labels, name)
    return ClickLog.load(path)


def zipf_ids(
    rng: np.random.Generator, rows: int, fields: int, size: int, exponent: float
) -> Int32[np.ndarray, "rows fields"]:
    """Ids 2..size - 1 (0 and 1 are reserved); the k-th of them has a frequency of k^-exponent."""
    below = np.cumsum(np.arange(1, size - RESERVED + 1, dtype=np.float64) ** -exponent)
    return (np.searchsorted(below / below[-1], rng.random((rows, fields)), side="right") + RESERVED).astype(np.int32)


def write_log(path: Path, schema: Schema, ids: np.ndarray, labels: np.ndarray, name: str) -> None:
    details: dict[str, Plain] = {}
    nothing = np.zeros((len(ids), 0), dtype=np.float32)
    with write_artifact(path, kind=KIND, fingerprint=name, details=details) as folder:
        with ClickWriter(folder, schema, (), {"train": len(ids)}) as writer:
            writer.append("train", ClickColumns(ids, nothing, nothing, labels))
        details.update(writer.details())


def our_method(kind: str, args: argparse.Namespace, epochs: int = 1) -> ClickMethodConfig:
    hidden = MLPConfig(widths=tuple(args.widths))
    return ClickMethodConfig(
        model=dcn_v2(dim=args.dim, num_layers=args.cross_layers, hidden=hidden),
        tables=cast(OptimizerKind, kind),
        batches=ClickBatchConfig(batch_size=args.batch_size),
        trainer=TrainerConfig(epochs=epochs, learning_rate=1e-3, optimizer="adam", device="cpu", seed=args.seed),
    )


class Steps:
    """So many steps of a source as one epoch, its epochs one after the other. A `BatchSource`.

    `wall` and `cpu` are the seconds of `steps` steps, from when the trainer asks for batch number `warmup` to when it
    asks for a last one more, so that what a run does once (and once an epoch) is not in them.
    """

    def __init__(self, source: ClickBatches, steps: int, warmup: int = 0) -> None:
        self.source, self.timed, self.warmup = source, steps, warmup
        self.wall, self.cpu = 0.0, 0.0

    def __len__(self) -> int:
        return self.warmup + self.timed + 1

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[FeatureBatch]:
        start = perf_counter(), process_time()
        for step, batch in enumerate(self._batches(epoch, first_step), first_step):
            if step == self.warmup:
                start = perf_counter(), process_time()
            if step == self.warmup + self.timed:
                self.wall, self.cpu = perf_counter() - start[0], process_time() - start[1]
            yield batch

    def _batches(self, epoch: int, first_step: int) -> Iterator[FeatureBatch]:
        passes, start = divmod(first_step, len(self.source))
        left = len(self) - first_step
        while left:
            for batch in islice(self.source.epoch(epoch + passes, start), left):
                left -= 1
                yield batch
            passes, start = passes + 1, 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A task and its trainer, to be run for a number of steps, again and again."""

    task: ClickTask
    method: ClickMethodConfig

    def run(self, source: Steps | ClickBatches) -> None:
        kind, l2 = self.method.tables, self.method.embedding_l2
        Trainer(self.method.trainer).fit(
            self.task,
            source,
            groups=lambda _: click_groups(self.task.model, embedding_l2=l2, dense_l2=0.0, tables=kind),
        )


def trained(method: ClickMethodConfig, log: ClickLog, seed: int) -> Trained:
    torch.manual_seed(seed)
    return Trained(ClickTask(build_click_model(method, log.schema), method.loss), method)


def our_speed(log: ClickLog, kind: str, args: argparse.Namespace) -> tuple[float, float]:
    """Rows a second on the wall clock, and by processor time, of the trainer on batches of `log`.

    A dense optimiser touches all of its memory in its first step, one of rows only when it meets them: it goes over
    all drawn rows once before the clock starts.
    """
    method = our_method(kind, args)
    training = trained(method, log, args.seed)
    source = ClickBatches(log, "train", ClickBatchConfig(batch_size=args.batch_size, drop_last=True), args.seed)
    warmup = args.warmup if kind == "dense" else max(args.warmup, len(source))
    pilot = Steps(source, args.warmup, warmup)
    training.run(pilot)
    run = Steps(source, max(args.warmup, round(args.seconds * args.warmup / pilot.wall)), warmup)
    training.run(run)
    rows = run.timed * args.batch_size
    return rows / run.wall, rows / run.cpu


def peer_speed(name: str, log: ClickLog, args: argparse.Namespace) -> tuple[float, float]:
    rows = write_rows(log, "train", log.path / "train.npz")
    timing = {"--seconds": args.seconds, "--warmup": args.warmup, "--seed": args.seed}
    words = ["--rows", str(rows), *(word for name, value in timing.items() for word in (name, str(value)))]
    found = call_peer(name, words, args)
    return float(str(found["per_second"])), float(str(found["per_cpu_second"]))


def call_peer(name: str, words: Sequence[str], args: argparse.Namespace) -> dict[str, Plain]:
    """Run a peer's script at the model options of `args`."""
    shared: list[str] = []
    for option in PEER_OPTIONS:
        value = getattr(args, option)
        shared += [f"--{option.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    script, pins = SCRIPTS / f"{name}_clicks.py", SCRIPTS / f"requirements-{name}.txt"
    return run_peer(name, script, pins, [*shared, *words], cache=args.peer_cache, python=args.peer_python)


def write_rows(log: ClickLog, part: str, path: Path) -> Path:
    """The same rows for the peers: `ids`, `labels`, and the `sizes` of the fields."""
    if not path.exists():
        columns = log.parts[part]
        sizes = np.array([field.size for field in log.schema.id_fields])
        np.savez(path, ids=columns.ids, labels=columns.labels[:, 0], sizes=sizes)
    return path.resolve()
