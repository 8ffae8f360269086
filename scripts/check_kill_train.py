"""Kill a training run at random moments, start it again each time, and compare its end with a run left alone.

    python scripts/check_kill_train.py --kills 20 --out out/check_kill_train

Trains a small SASRec (dropout, sampled softmax, early stopping on a validation metric) on a planted world in a process
of its own, and ends it with SIGKILL wherever it is: resuming, in a step, validating, writing a checkpoint. After each
kill the same run starts again in the same folder. When it finishes before all kills are spent, another round starts in
a new folder. Every round must end with the weights of the run left alone, bit for bit, and with its log, times aside.
Writes ``table.json`` (flat records) and ``kills.json`` (when each kill hit and what was on disk then). Exits with 1
when anything differs.
"""

import argparse
import json
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from llm_rec.artifacts import write_json
from llm_rec.codec import Plain
from llm_rec.data.splits import Split, leave_one_out
from llm_rec.data.synthetic import planted_world
from llm_rec.sequential.batches import BatchConfig, SequenceBatch, SequenceBatches
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.sequential.task import NextItemTask, SampledSoftmaxConfig, usual_negatives
from llm_rec.training.checkpoint import load_tensors, save_weights
from llm_rec.training.trainer import Trainer, TrainerConfig

TIMES = ("seconds", "examples_per_second")
WEIGHTS = "model.safetensors"
START_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """The run that is killed."""

    users: int
    items: int
    dim: int
    epochs: int
    checkpoint_every: int = 7


class Announced:
    """A source that tells when it is first read from."""

    def __init__(self, source: SequenceBatches, ready: Connection) -> None:
        self.source, self.ready = source, ready

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[SequenceBatch]:
        self.ready.send(True)
        return self.source.epoch(epoch, first_step)


def train(folder: Path, job: Job, ready: Connection) -> None:
    """The whole run, as a user would start it; resumes what it finds in `folder`. Says when the first batch is read."""
    torch.set_num_threads(1)
    split = leave_one_out(planted_world(job.users, job.items, seed=1).log)
    torch.manual_seed(1)
    model = SequentialModel(
        SequentialConfig(backbone=SASRecConfig(dropout=0.2), dim=job.dim, max_length=20),
        ItemSources(num_items=split.num_items, train_counts=torch.from_numpy(split.train_counts)),
    )
    loss = SampledSoftmaxConfig()
    batches = SequenceBatches(split, BatchConfig(max_length=20, tokens=512), usual_negatives(loss), seed=1)
    config = TrainerConfig(
        epochs=job.epochs, monitor="mrr", patience=job.epochs, clip_norm=1.0, checkpoint_every=job.checkpoint_every
    )
    Trainer(config, folder).fit(
        NextItemTask(model, loss), Announced(batches, ready), validate=lambda: {"mrr": validation_mrr(model, split)}
    )
    save_weights(folder / WEIGHTS, model)


def validation_mrr(model: SequentialModel, split: Split, users: int = 256) -> float:
    """Mean reciprocal rank of the first `users` validation targets among all items."""
    events = split.validation[:users]
    starts = split.log.offsets[split.log.users_of(events)]
    places = starts[:, None] + np.arange(model.max_length)
    history = np.where(places < events[:, None], split.log.items[np.minimum(places, split.log.num_events - 1)], 0)
    device = next(model.parameters()).device
    scores = model.user_vectors(torch.from_numpy(history).to(device)) @ model.item_vectors()[1:].T
    target = scores.gather(1, torch.from_numpy(split.log.items[events]).to(device)[:, None] - 1)
    return (1.0 / (1 + (scores > target).sum(dim=1))).mean().item()


def run_with_kills(folder: Path, job: Job, kills: int, longest: float, rng: random.Random) -> list[dict[str, Plain]]:
    """Start and kill the run until it finishes or `kills` are spent, then let it finish. Returns the kills that hit."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["llm_rec.training.loop", "llm_rec.sequential.task", "llm_rec.data.synthetic"])
    hits: list[dict[str, Plain]] = []
    while True:
        ready, tell = context.Pipe(duplex=False)
        process = context.Process(target=train, args=(folder, job, tell))
        process.start()
        tell.close()
        if len(hits) % 5 != 4:  # every fifth kill comes anywhere from the start of the process, the others in training
            ready.poll(START_SECONDS)
        delay = rng.uniform(0.0, longest)
        process.join(timeout=delay if len(hits) < kills else None)
        process.kill()
        process.join()
        if process.exitcode == 0:
            return hits
        if process.exitcode != -9:
            raise SystemExit(f"the training process ended with {process.exitcode} instead of being killed")
        hits.append({"round": folder.name, "after_seconds": round(delay, 3), **on_disk(folder / "checkpoints")})


def on_disk(checkpoints: Path) -> dict[str, Plain]:
    """What a kill left: updates of the newest checkpoint, and whether it hit while something was being written."""
    newest = max((item.name for item in checkpoints.glob("update-*")), default="update-0")
    return {"updates": int(newest.removeprefix("update-")), "while_writing": any(checkpoints.glob(".*"))}


def same_weights(one: Path, other: Path) -> bool:
    left, right = load_tensors(one / WEIGHTS), load_tensors(other / WEIGHTS)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def read_log(folder: Path) -> list[dict[str, Plain]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def without_times(lines: list[dict[str, Plain]]) -> list[dict[str, Plain]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill training at random moments, resume it, compare the results.")
    parser.add_argument("--kills", type=int, default=20, help="how many kills must hit a running process (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("out/check_kill_train"), help="folder of the results")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    parser.add_argument("--quick", action="store_true", help="a smaller model and log")
    args = parser.parse_args()
    job = Job(users=1000, items=400, dim=32, epochs=8) if args.quick else Job(users=5000, items=2000, dim=64, epochs=5)
    runs = args.out / "runs"
    shutil.rmtree(runs, ignore_errors=True)
    rng = random.Random(args.seed)
    run_with_kills(runs / "alone", job, 0, 0.0, rng)
    alone = sum(float(str(line["seconds"])) for line in read_log(runs / "alone"))
    hits: list[dict[str, Plain]] = []
    identical = {"weights": True, "log": True}
    rounds = 0
    while len(hits) < args.kills:
        rounds += 1
        folder = runs / f"round-{rounds}"
        hits += run_with_kills(folder, job, args.kills - len(hits), alone / 3, rng)
        identical["weights"] &= same_weights(folder, runs / "alone")
        identical["log"] &= without_times(read_log(folder)) == without_times(read_log(runs / "alone"))
        print(f"{folder.name}: {len(hits)} kills so far, identical so far: {identical}", flush=True)
    figures = {
        "kills": float(len(hits)),
        "kills_while_writing": float(sum(bool(hit["while_writing"]) for hit in hits)),
        "rounds": float(rounds),
        "identical_weights": float(identical["weights"]),
        "identical_log": float(identical["log"]),
        "seconds_alone": alone,
    }
    rows: list[Plain] = [
        {"model": "sasrec", "metric": name, "mean": value, "std": 0.0, "seeds": 1} for name, value in figures.items()
    ]
    write_json(args.out / "table.json", rows)
    write_json(args.out / "kills.json", hits)
    print(json.dumps(figures, indent=2))
    sys.exit(0 if all(identical.values()) else 1)


if __name__ == "__main__":
    main()
