"""Models of past behaviour: AUC, GAUC, log loss, training and search time, and what search finds.

    python scripts/long_sequence_table.py --data DATA/ml-1m --seeds 3 --out out/long_sequences

All are trained as DARE's released code trains its models (Adam at 1e-2, batches of 2,048, two epochs, weights from
N(0, 0.01^2)), on the small planted logs for up to 20 epochs; the epoch of the best validation AUC is tested. Rows of
`--data` are leave-one-out, the last 22 events of each user and two negatives each, drawn uniformly from what the user
never touched; histories hold everything before.
On planted histories of 200 and 1,000 events the worth of every event is known: `ndcg@20` asks whether the scores of
attention rank events by it (models that rank events), and the best AUC that a model could have is in the notes.

`rows_per_second` is the training's, `search_us` the processor time a row of tables and encoder in evaluation. The
default grid is `reduced`: at length 200 and on planted histories DARE with attention vectors 16, 8 and 4 wide, TWIN
with its variants, DIN and TIN, others at length 50 alone. `--grid full` has every model everywhere.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ctr_models.model import CTRModel, CTRModelConfig
from ctr_models.sequences import presets
from ctr_models.sequences.hstu import HSTUConfig
from llm_rec.analysis.search_quality import search_curves, summarise_search
from llm_rec.analysis.sequence_view import ModelView
from llm_rec.artifacts import fingerprint
from llm_rec.codec import to_plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.pattern_pretraining import PatternPretrainingConfig
from llm_rec.ctr.planted_sequences import PlantedSequences, PlantedSequencesConfig, planted_sequences
from llm_rec.ctr.sequence_method import dare_protocol
from llm_rec.data.columns import ClickLog
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

LENGTHS, PLANTED_LENGTHS = (50, 200), (200, 1000)
ROWS = InteractionRowsConfig(last=22, negatives=2, histories=True)
METRICS = ("auc", "gauc", "log_loss", "rows_per_second", "search_us", "ndcg@20", "parameters")
COLUMNS = ("data", "length")
DARE = "dare"
SEARCHED = (DARE, "dare, attention 8", "dare, attention 4", "twin", "twin_4e", "twin_projection", "din", "tin")
QUICK = (DARE, "twin", "sim_soft")
PLANTED_EPOCHS = 20
PLANTED_ROWS = {200: 20_000, 1000: 8_000}


@dataclass(frozen=True, slots=True)
class SearchTime:
    """Microseconds of processor time a test row for the fields of a sequence: look-ups, search, attention."""

    rows: int = 4096
    batch_size: int = 512

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        if model.sequence is None:
            raise TypeError("the model reads no history")
        config = ClickBatchConfig(batch_size=self.batch_size, shuffle="none")
        source = ClickBatches(log, "test", config, history_length=model.config.history_length)
        batches = [batch for batch, _ in zip(source.epoch(1), range(self.rows // self.batch_size), strict=False)]
        model.eval()
        with torch.no_grad():
            model.sequence(batches[0])
            start = time.process_time()
            for batch in batches:
                model.sequence(batch)
            seconds = time.process_time() - start
        value = 1e6 * seconds / sum(len(batch) for batch in batches)
        return [Record("search_us", value, {"slice": "all"})]


@dataclass(frozen=True, slots=True)
class PlantedSearch:
    """NDCG@20 of the model's own scores of events against their planted worth; nothing for a model without scores."""

    length: int
    num_rows: int
    batch_size: int = 1024

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        world = planted(self.length, self.num_rows)
        view, part = ModelView(model, log.schema, log.schema.history[1]), log.part("test")
        config = ClickBatchConfig(batch_size=self.batch_size, shuffle="none")
        source = ClickBatches(log, "test", config, history_length=self.length)
        curves = []
        for number, batch in enumerate(source.epoch(1)):
            with torch.no_grad():
                scores = view.scores(batch)
            if scores is None or batch.history is None:
                return []
            rows = part.select(slice(number * self.batch_size, (number + 1) * self.batch_size))
            mask = batch.history.mask.numpy()
            curves.append(search_curves(scores.numpy(), world.relevance(rows, self.length), mask, k=20))
        return [Record("ndcg@20", float(summarise_search(curves).ndcg[-1]), {"slice": "all"})]


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 1
    rows = select_clicks(list(table_rows(args)), args.rows or (QUICK if args.quick else ()))
    results = run_clicks(args.out, rows, measures=[SearchTime()], jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    names = [row.full_name for row in rows]
    pairs = [(row.full_name, full_name(DARE, row.columns)) for row in rows if row.name != DARE]
    text = write_click_results(
        args.out,
        results,
        title="Models of past behaviour",
        metrics=METRICS,
        columns=COLUMNS,
        pairs=[pair for pair in pairs if pair[1] in names],
        notes=[planted_note(args)],
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/long_sequences", seeds=3)
    parser.add_argument("--grid", choices=["reduced", "full"], default="reduced", help="what is left out: see above")
    return parser


def models(length: int) -> Iterator[tuple[str, CTRModelConfig]]:
    """Every preset for histories of `length`, and DARE with narrow attention."""
    for name, make in presets.PRESETS.items():
        config = make()
        if config.sequence is None:
            raise TypeError(f"preset {name} reads no history")
        events = replace(config.sequence.events, max_positions=max(length + 1, config.sequence.events.max_positions))
        sequence = replace(config.sequence, max_length=length, events=events)
        if name == "hstu":
            sequence = replace(sequence, encoder=HSTUConfig(max_length=length))
        yield name, replace(config, sequence=sequence)
    for dim in (8, 4):
        yield f"dare, attention {dim}", presets.dare(attention_dims=(dim,), max_length=length)


def table_rows(args: argparse.Namespace) -> Iterator[ClickRow]:
    log = click_log(args.data, args.out / "logs", ROWS, quick=args.quick)
    for length in LENGTHS[:1] if args.quick else LENGTHS:
        yield from rows_of(args, log, args.data.name, length, everything=length == LENGTHS[0])
    for length in PLANTED_LENGTHS[:1] if args.quick else PLANTED_LENGTHS:
        number = planted_rows(args, length)
        world = planted(length, number)
        path = args.out / "logs" / f"planted-{fingerprint({'config': to_plain(world.config)})}"
        if not path.exists():
            world.write(path)
        yield from rows_of(args, path, "planted", length, search=PlantedSearch(length, number))


def rows_of(
    args: argparse.Namespace,
    log: Path,
    data: str,
    length: int,
    *,
    everything: bool = False,
    search: PlantedSearch | None = None,
) -> Iterator[ClickRow]:
    for name, model in models(length):
        if name not in SEARCHED and not everything and not (args.grid == "full" or args.quick):
            continue
        method = dare_protocol(model, epochs=args.epochs or (2 if search is None else PLANTED_EPOCHS))
        if name == "dpn":
            method = replace(method, pattern_pretraining=PatternPretrainingConfig(max_windows=300_000))
        yield ClickRow(
            name=name,
            method=method,
            log=log,
            seeds=args.seeds,
            columns={"data": data, "length": length},
            measures=() if search is None else (search,),
        )


@cache
def planted(length: int, num_rows: int) -> PlantedSequences:
    """Drawn once a process: seconds, and memory for every event."""
    return planted_sequences(PlantedSequencesConfig(length=length, num_rows=num_rows))


def planted_rows(args: argparse.Namespace, length: int) -> int:
    return 2_000 if args.quick else PLANTED_ROWS[length]


def planted_note(args: argparse.Namespace) -> str:
    """The AUC of the law that the clicks were drawn from."""
    best = []
    for length in PLANTED_LENGTHS[:1] if args.quick else PLANTED_LENGTHS:
        best.append(f"{np.round(planted(length, planted_rows(args, length)).best_auc, 4)} at length {length}")
    return f"Best AUC on planted histories: {', '.join(best)}."


if __name__ == "__main__":
    sys.exit(main())
