"""Patterns of behaviour (DPN) over three encoders, and what each of its parts is worth: AUC, GAUC, log loss, denoising.

    python scripts/pattern_table.py --data DATA/ml-1m --seeds 3 --out out/patterns

DPN is a reconstruction from the published description (arXiv 2404.11456); the paper's hyper-parameters are unknown to
us, and no figure of the paper stands here. Encoders are DARE's attention with its two kinds of tables, DIN over all
events and BST, under one head without a second one. Every row is trained alike (`method`), after the pre-training of
the refiner where the row has a refiner to pre-train; the epoch of the best validation AUC is tested.

Data are the planted log, where a click depends on three items in a row among noise (`llm_rec.ctr.planted_patterns`; the
best AUC that a model could have is in the notes), and `--data`: leave-one-out, the last 22 events of each user, two
negatives each, histories of 50 events. Rows with a refiner say how well it denoises in the trained model: `recovered`
of what a corruption took away beside `popular`, the most frequent item, and `restored` beside `unchanged`, events left
as they are; on the planted log, whose noise is known, `precision` and `recall` of P(noise) > 1/2, and `r_precision`,
precision among as many of the most suspicious events as there is noise, beside `noise_share`, that of chance.

The default grid is `reduced`: all ablations over DARE's attention (that with all patterns, the slowest by far, on the
planted log alone), over the other encoders the model with patterns, without pre-training, and without patterns, on both
logs: about an hour and a half on two cores. `--grid full` has every ablation over every encoder, and over
DARE's attention on the planted log other lengths of patterns, numbers of them and ratios of noise.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Int64

from ctr_models.embeddings import NormalInit
from ctr_models.model import CTRModel
from ctr_models.sequences import presets
from ctr_models.sequences.bst import BSTConfig
from ctr_models.sequences.din import DINConfig
from ctr_models.sequences.encoder import EncoderConfig
from ctr_models.sequences.events import EventsConfig
from ctr_models.sequences.pattern_ablations import pattern_ablations
from ctr_models.sequences.pattern_corruption import CorruptionConfig, NoiseItems
from ctr_models.sequences.pattern_refiner import TransformerRefiner, TransformerRefinerConfig
from ctr_models.sequences.patterns import DPN, PatternConfig
from ctr_models.sequences.target_attention import TargetAttentionConfig
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.event_windows import EventSequences
from llm_rec.ctr.histories import event_numbers
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.ctr.pattern_metrics import noise_report, recovery_report
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig
from llm_rec.ctr.planted_patterns import PlantedPatterns, PlantedPatternsConfig, planted_patterns
from llm_rec.data.columns import ClickColumns, ClickLog
from llm_rec.errors import DataError
from llm_rec.experiment import Record
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    full_name,
    run_clicks,
    select_clicks,
    write_click_results,
)
from llm_rec.recipes.tables import grid_options
from llm_rec.training.trainer import TrainerConfig

LENGTH, DIM = 50, 16
ROWS = InteractionRowsConfig(last=12, negatives=2, histories=True)
METRICS = ("auc", "gauc", "log_loss", "recovered", "popular", "restored", "unchanged", "parameters")
NOISE_METRICS = ("precision", "recall", "r_precision", "noise_share", "detection_auc")
COLUMNS = ("data", "encoder")
WITHOUT, FULL, UNTRAINED, FROZEN = "no patterns", "DPN", "DPN, no pre-training", "DPN, frozen refiner"
MAIN = "dare"
QUICK = (WITHOUT, FULL, "DPN, mean pool")
PATTERNS = PatternConfig(refiner=TransformerRefinerConfig(hidden=32))
ENCODERS: dict[str, tuple[EncoderConfig, EventsConfig]] = {
    MAIN: (TargetAttentionConfig(auxiliary=False), EventsConfig(decouple="dare")),
    "din": (DINConfig(), EventsConfig(decouple="shared", position="none")),
    "bst": (BSTConfig(), EventsConfig(decouple="shared")),
}
PLANTED, PLANTED_ROWS, QUICK_ROWS = "planted", 40_000, 2_000
EPOCHS = {PLANTED: 6}  # of clicks; 2 on rows of data
BATCH_SIZE, LEARNING_RATE, TABLE_STD = 256, 3e-3, 0.1
MAX_WINDOWS = 300_000  # of the pre-training
MEASURED = 4096  # windows of test histories whose denoising is measured


@dataclass(frozen=True, slots=True)
class Denoising:
    """What the refiner of a trained model makes of windows of test histories; nothing for a model without one.

    `planted_rows`: of a planted log of so many rows, whose noise is known. `seed` draws windows and corruption.
    """

    corruption: CorruptionConfig
    planted_rows: int | None = None
    seed: int = 0

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        encoder = None if model.sequence is None else model.sequence.encoder
        if (
            model.sequence is None
            or not isinstance(encoder, DPN)
            or not isinstance(encoder.refiner, TransformerRefiner)
        ):
            return []
        refiner, vectors = encoder.refiner.eval(), model.sequence.events.representation.events.content
        numbers = window_numbers(log.part("test"), refiner.num_slots, self.seed)
        windows = torch.from_numpy(event_ids(log, numbers))
        found = recovery_report(refiner, vectors, noise_items(log), windows, self.corruption, seed=self.seed)
        values = {
            "recovered": found.recovered,
            "popular": found.popular,
            "restored": found.restored,
            "unchanged": found.unchanged,
        }
        if self.planted_rows is not None:
            noise = planted(self.planted_rows).noise[numbers]
            known = noise_report(refiner, vectors, windows, torch.from_numpy(noise))
            values |= {"precision": known.precision, "recall": known.recall, "r_precision": known.r_precision}
            values |= {"noise_share": known.noise / known.events, "detection_auc": known.detection_auc}
        return [Record(name, value, {"slice": "all"}) for name, value in values.items()]


def window_numbers(rows: ClickColumns, slots: int, seed: int) -> Int64[np.ndarray, "windows {slots}"]:
    """Events (numbers of the store, 0 before the first) of windows that end at events drawn from the rows' pasts."""
    if rows.windows is None:
        raise DataError("the rows have no histories; encode the log with history fields")
    past = np.pad(event_numbers(np.asarray(rows.windows), LENGTH), ((0, 0), (slots - 1, 0)))
    row, column = np.nonzero(past)
    chosen = np.random.default_rng(seed).permutation(len(row))[:MEASURED]
    numbers: np.ndarray = past[row[chosen, None], column[chosen, None] + np.arange(1 - slots, 1)]
    return numbers


def event_ids(log: ClickLog, numbers: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape fields"]:
    if log.events is None:
        raise DataError(f"{log.path} has no histories; encode the log with history fields")
    ids: np.ndarray = log.events.ids[numbers].astype(np.int64)
    return ids


def noise_items(log: ClickLog) -> NoiseItems:
    """Those of the pre-training: items of the events that train rows look back on."""
    rows = log.part("train")
    if rows.events is None or rows.windows is None:
        raise DataError(f"{log.path} has no histories; encode the log with history fields")
    return NoiseItems.seen(torch.from_numpy(EventSequences.before(rows.events.ids, np.asarray(rows.windows)).ids))


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 1
    rows = select_clicks(list(table_rows(args)), args.rows or (QUICK if args.quick else ()))
    results = run_clicks(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    names = {row.full_name for row in rows}
    pairs = [(row.full_name, full_name(other, row.columns)) for row in rows for other in against(row.name)]
    text = write_click_results(
        args.out,
        results,
        title="Patterns of behaviour: a reconstruction of DPN",
        metrics=(*METRICS, *NOISE_METRICS),
        columns=COLUMNS,
        pairs=[pair for pair in pairs if pair[1] in names],
        notes=[f"Best AUC on the planted log: {planted(planted_rows(args)).best_auc:.4f}."],
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/patterns", seeds=3)
    parser.add_argument("--grid", choices=["reduced", "full"], default="reduced", help="what is left out: see above")
    return parser


def against(name: str) -> tuple[str, ...]:
    """What a row is tested against: the model against its encoder alone, all others against the model."""
    return () if name == WITHOUT else (WITHOUT,) if name == FULL else (FULL,)


def table_rows(args: argparse.Namespace) -> Iterator[ClickRow]:
    yield from log_rows(args, planted_log(args), PLANTED)
    yield from log_rows(args, click_log(args.data, args.out / "logs", ROWS, quick=args.quick), args.data.name)


def log_rows(args: argparse.Namespace, log: Path, data: str) -> Iterator[ClickRow]:
    for encoder in ENCODERS if not args.quick else (MAIN,):
        for name, patterns, pretraining in variants(args, data, encoder):
            corruption = pretraining.corruption if pretraining is not None else CorruptionConfig()
            yield ClickRow(
                name=name,
                method=method(encoder, patterns, pretraining, epochs=args.epochs or EPOCHS.get(data, 2)),
                log=log,
                seeds=args.seeds,
                columns={"data": data, "encoder": encoder},
                measures=(Denoising(corruption, planted_rows(args) if data == PLANTED else None),),
            )


Variant: TypeAlias = tuple[str, PatternConfig | None, PatternPretrainingConfig | None]


def variants(args: argparse.Namespace, data: str, encoder: str) -> Iterator[Variant]:
    """Names, patterns and pre-trainings of the rows over one encoder."""
    pretraining = PatternPretrainingConfig(
        max_windows=QUICK_ROWS if args.quick else MAX_WINDOWS,
        trainer=TrainerConfig(epochs=1, learning_rate=LEARNING_RATE, optimizer="adam"),
    )
    yield WITHOUT, None, None
    yield FULL, PATTERNS, pretraining
    yield UNTRAINED, PATTERNS, None
    if encoder == MAIN or args.grid == "full":
        yield FROZEN, PATTERNS, replace(pretraining, finetuning="frozen")
        for name, patterns in pattern_ablations(PATTERNS).items():
            refined = isinstance(patterns.refiner, TransformerRefinerConfig) and patterns.attention == "patterns"
            if patterns != PATTERNS and (patterns.retrieval != "all" or data == PLANTED or args.grid == "full"):
                yield f"DPN, {name}", patterns, pretraining if refined else None
    if args.grid == "full" and encoder == MAIN and data == PLANTED:
        yield from sizes(pretraining)


def sizes(pretraining: PatternPretrainingConfig) -> Iterator[Variant]:
    """Other lengths of patterns, numbers of them, and ratios of noise."""
    for length in (2, 3, 6, 8):
        yield f"DPN, length {length}", replace(PATTERNS, pattern_length=length), pretraining
    for top_k in (5, 20):
        yield f"DPN, K {top_k}", replace(PATTERNS, top_k=top_k), pretraining
    for ratio in (0.1, 0.3):
        yield f"DPN, noise {ratio}", PATTERNS, replace(pretraining, corruption=CorruptionConfig(ratio=ratio))


def method(
    encoder: str, patterns: PatternConfig | None, pretraining: PatternPretrainingConfig | None, *, epochs: int
) -> ClickMethodConfig:
    reads, events = ENCODERS[encoder]
    model = presets.with_encoder(reads, events, DIM, LENGTH)
    if model.sequence is None:
        raise TypeError(f"encoder {encoder} reads no history")
    return ClickMethodConfig(
        model=replace(model, sequence=replace(model.sequence, patterns=patterns)),
        pattern_pretraining=pretraining,
        init=NormalInit(std=TABLE_STD),
        batches=ClickBatchConfig(batch_size=BATCH_SIZE),
        trainer=TrainerConfig(epochs=epochs, learning_rate=LEARNING_RATE, optimizer="adam", monitor="auc"),
    )


def planted_log(args: argparse.Namespace) -> Path:
    """Drawn once."""
    world = planted(planted_rows(args))
    path: Path = args.out / "logs" / f"planted-{fingerprint({'config': to_plain(world.config)})}"
    if not path.exists():
        world.write(path)
    return path


@cache
def planted(num_rows: int) -> PlantedPatterns:
    """Drawn once a process."""
    return planted_patterns(PlantedPatternsConfig(num_rows=num_rows))


def planted_rows(args: argparse.Namespace) -> int:
    return QUICK_ROWS if args.quick else PLANTED_ROWS


if __name__ == "__main__":
    sys.exit(main())
