"""One-pass training on planted logs: one that turns, and one whose ads wear out; a part of exploration_table.py."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.interactions.presets import deepfm
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig, build_click_model
from llm_rec.ctr.online_task import OnlineClickTask
from llm_rec.ctr.planted_drift import planted_drift, write_drift
from llm_rec.ctr.repeated_exposure import RepeatedExposureConfig, exposure_weights
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Cell, CellResult, Record, Row, markdown, run_grid, table
from llm_rec.metrics.classification import ClickMetrics, click_metrics
from llm_rec.metrics.click_intervals import figures as metric_values
from llm_rec.metrics.recalibration import Affine, Recalibration, recalibrate, unweighted_negatives
from llm_rec.processes import one_thread
from llm_rec.training.online import OnlineConfig, OnlineResult, train_online

SHOWN = ("auc", "log_loss", "ece", "predicted_over_actual")
BATCH, WINDOWS, FROZEN_AFTER = 200, 8, 2
WEAR = 0.8  # what an exposure leaves of the next click's probability, and the decay of the weights


@dataclass(frozen=True, slots=True)
class FirstBatches:
    """The first batches of a source."""

    source: ClickBatches
    number: int

    def __len__(self) -> int:
        return min(self.number, len(self.source))

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[FeatureBatch]:
        return islice(self.source.epoch(epoch, first_step), max(0, len(self) - first_step))


@dataclass(frozen=True, slots=True)
class DriftCell:
    """One pass over a planted log, beside the same model frozen after the first windows, by window; and calibration."""

    out: Path
    rows: int

    def __call__(self, cell: Cell) -> list[Record]:
        world = planted_drift(self.rows, seed=cell.seed)
        with one_thread(), TemporaryDirectory(dir=self.out) as folder:
            log = write_drift(world, Path(folder))
            batches = ClickBatches(log, "train", ClickBatchConfig(batch_size=BATCH, shuffle="none"))
            config = online_config(batches, cell.seed)
            passed = train_online(config, drift_task(log, cell.seed), batches)
            frozen = drift_task(log, cell.seed)
            train_online(config, frozen, FirstBatches(batches, FROZEN_AFTER * config.window))
            still = click_logits(frozen.model, frozen.config, log.part("train"))
        ends = [window.first_row + window.metrics.rows for window in passed.windows]
        truth = np.log(world.probabilities / (1 - world.probabilities))
        records = []
        for name, logits in (("one pass", passed.logits), ("frozen", still), ("truth", truth)):
            for number, (window, end) in enumerate(zip(passed.windows, ends, strict=True), start=1):
                if name == "frozen" and number <= FROZEN_AFTER:
                    continue  # it learned these rows
                rows = slice(window.first_row, end)
                found = click_metrics(logits[rows], world.labels[rows], num_buckets=20)
                records += metric_records(found, {"what": name, "window": number})
        half = ends[len(ends) // 2 - 1]
        for name, found in recalibrated(passed.logits, world.labels, half).items():
            records += metric_records(found, {"what": "calibration", "map": name})
        return records


def drift_task(log: ClickLog, seed: int) -> OnlineClickTask:
    torch.manual_seed(seed)
    method = ClickMethodConfig(model=deepfm(dim=8))
    return OnlineClickTask(build_click_model(method, log.schema), method.loss)


def recalibrated(logits: np.ndarray, labels: np.ndarray, half: int) -> dict[str, ClickMetrics]:
    """Figures of the rows from `half` on, before and after maps that were fitted on the rows before."""
    maps: dict[str, Recalibration] = {"none": Affine(scale=1.0)}
    for method in ("temperature", "platt", "isotonic"):
        maps[method] = recalibrate(method, logits[:half], labels[:half])
    return {name: click_metrics(given(logits[half:]), labels[half:], num_buckets=20) for name, given in maps.items()}


def metric_records(found: ClickMetrics, columns: dict[str, Plain]) -> Iterator[Record]:
    for name, value in metric_values(found).items():
        if name != "gauc":
            yield Record(name, value, columns)


@dataclass(frozen=True, slots=True)
class WearCell:
    """Two passes over a planted log whose ads wear out, with and without weights of repeated exposures.

    What is asked of both is the second half: its rows as they are, and its first exposures, which no wear has touched.
    Two corrections: by the mean weight of the negatives of the first half, and by each row's own weight.
    """

    out: Path
    rows: int

    def __call__(self, cell: Cell) -> list[Record]:
        world = planted_drift(self.rows, num_users=self.rows // 200, turns=0, wear=WEAR, seed=cell.seed)
        config = RepeatedExposureConfig(decay=WEAR)
        weights = exposure_weights(world.exposures, world.labels, config)
        own = exposure_weights(world.exposures, np.zeros(len(world)), config)  # as if nobody had clicked
        half = len(world) // 2
        with one_thread(), TemporaryDirectory(dir=self.out) as folder:
            log = write_drift(world, Path(folder))
            plain = one_pass(log, cell.seed).logits
            weighted = one_pass(log, cell.seed, weights).logits
        by_mean = unweighted_negatives(float(weights[:half][world.labels[:half] < 0.5].mean()))(weighted)
        found = {"without weights": plain, "with weights": weighted, "corrected by the mean": by_mean}
        found["corrected by row"] = weighted + np.log(own)  # `debiased`, in logits
        later = np.arange(len(world)) >= half
        records = []
        for name, logits in found.items():
            for rows, mask in (("all", later), ("first exposures", later & (world.exposures == 1))):
                metrics = click_metrics(logits[mask], world.labels[mask], num_buckets=20)
                records += metric_records(metrics, {"what": name, "rows": rows})
        return records


def one_pass(log: ClickLog, seed: int, weights: np.ndarray | None = None) -> OnlineResult:
    batches = ClickBatches(log, "train", ClickBatchConfig(batch_size=BATCH, shuffle="none"))
    return train_online(online_config(batches, seed), drift_task(log, seed), batches, weights=weights)


def online_config(batches: ClickBatches, seed: int) -> OnlineConfig:
    window = -(-len(batches) // WINDOWS)
    return OnlineConfig(learning_rate=0.02, window=window, num_buckets=20, seed=seed, device="cpu")


def one_pass_results(args: argparse.Namespace, tell: Callable[[CellResult], None]) -> list[CellResult]:
    """Cells of both parts."""
    rows = 12_000 if args.quick else 60_000
    args.out.mkdir(parents=True, exist_ok=True)
    parts = (("one pass", "planted drift", DriftCell), ("repeated exposures", "planted wear", WearCell))
    return [
        result
        for model, data, kind in parts
        for result in run_grid(
            [Cell(model, {"data": data}, seed) for seed in range(args.seeds)],
            kind(args.out, rows),
            args.out,
            context={"rows": rows},
            report=tell,
        )
    ]


def one_pass_text(results: Sequence[CellResult]) -> list[str]:
    rows = [row for row in table(results) if row.metric in SHOWN]
    windows = [row for row in rows if "window" in row.columns]
    maps = [row for row in rows if "map" in row.columns]
    worn = [row for row in rows if "rows" in row.columns]
    return [
        f"## One pass over a log that turns, by window; `frozen` learned the first {FROZEN_AFTER} windows alone",
        markdown([replace_model(row, "what") for row in windows], SHOWN, ["window"]),
        "## One-pass predictions of the second half, recalibrated on the first",
        markdown([replace_model(row, "map") for row in maps], SHOWN),
        f"## One pass over a log whose ads wear out, {WEAR} an exposure: weights of repeated exposures, second half",
        markdown([replace_model(row, "what") for row in worn], SHOWN, ["rows"]),
    ]


def replace_model(row: Row, column: str) -> Row:
    return replace(row, model=str(row.columns[column]))
