"""The released DARE code beside our DARE on the same rows: test AUC, GAUC and log loss over seeds.

    git clone https://github.com/thuml/DARE
    python scripts/dare_parity.py --data DATA/ml-1m --dare DARE --out out/dare_parity

Rows are those of `long_sequence_table.py` that look back on at least K = 20 events (with fewer, the released code
attends to padding), with the fields that it knows: item and category, of the candidate and of the past. They are
exported in its layout. Its training loop runs unchanged, with the options of its paper, validation once an epoch, and
its best checkpoint scores the test rows; ours is `dare_protocol(dare())`. Both sides' scores go through one function,
for the AUC that the code prints leaves ties and half a step out.

`released` is scored with the running statistics of batch normalisation, as ours; `released, batch statistics` are the
same weights scored as its own test does. What else differs: its order of rows is that of the files in every epoch, ours
is drawn anew; it chooses its checkpoint by batch statistics; `dare_protocol` says the rest. Figures of independent
starts are compared, so a difference within about two standard errors is noise.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from bench_ctr import difference_of_means
from dare_released import add_dare_options, call_dare, exported

from ctr_models.schema import Schema
from ctr_models.sequences.presets import dare
from llm_rec.artifacts import fingerprint, write_artifact, write_bytes
from llm_rec.codec import Plain
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import train_clicks
from llm_rec.ctr.sequence_method import dare_protocol
from llm_rec.data.columns import KIND, ClickLog, ClickWriter
from llm_rec.errors import DataError
from llm_rec.experiment import (
    Cell,
    CellResult,
    Measured,
    Record,
    markdown,
    run_grid,
    script_options,
    table,
    write_bench,
    write_table,
)
from llm_rec.metrics.classification import click_metrics
from llm_rec.processes import one_thread
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log

OURS, RELEASED, AS_TESTED = "ours", "released", "released, batch statistics"
METRICS = ("auc", "gauc", "log_loss")
TOP_K = 20


def main() -> None:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, 1
    logs = args.out / "logs"
    config = InteractionRowsConfig(last=args.last, negatives=2, histories=True)
    log = comparable(ClickLog.load(click_log(args.data, logs, config, quick=args.quick)), logs)
    rows = exported(log, args.out / "rows", args.length)

    def run(cell: Cell) -> list[Record]:
        if cell.model == OURS:
            with one_thread():
                return figures(OURS, our_logits(log, cell.seed, args), log)
        scores = args.out.resolve() / "scores" / f"seed_{cell.seed}.npy"
        scores.parent.mkdir(exist_ok=True)
        words = ("--scores", scores, "--epochs", args.epochs, "--top-k", TOP_K, "--seed", cell.seed)
        call_dare("quality", rows, words, args, length=args.length)
        found = {RELEASED: "running", AS_TESTED: "batch"}
        return [
            record
            for name, kind in found.items()
            for record in figures(name, read(scores.with_suffix(f".{kind}.npy")), log)
        ]

    context: dict[str, Plain] = {"log": log.fingerprint, "epochs": args.epochs, "quick": args.quick}
    cells = [Cell(model, {}, seed) for seed in range(args.seeds) for model in (OURS, RELEASED)]
    results = run_grid(cells, run, args.out, context=context, report=say)
    print(write_parity(args.out, results, context))


def options() -> argparse.ArgumentParser:
    parser = script_options(__doc__.splitlines()[0], out="out/dare_parity", seeds=3)
    parser.add_argument("--length", type=int, default=50, help="newest events of a history that count (default: 50)")
    parser.add_argument("--last", type=int, default=22, help="newest events of a user that become rows (default: 22)")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of both sides (default: 2)")
    add_dare_options(parser, required=True)
    return parser


def comparable(log: ClickLog, logs: Path) -> ClickLog:
    """The rows of `log` with at least K past events, and of their fields those of the past; written once."""
    name = fingerprint(log.fingerprint, {"least": TOP_K})
    path = logs / f"comparable-{name}"
    if path.exists():
        return ClickLog.load(path)
    schema, columns = log.schema, log.schema.history_columns
    fields = {field.name: field for field in schema.id_fields}
    kept = {part: np.flatnonzero(np.diff(there(log.part(part).windows))[:, 0] >= TOP_K) for part in log.rows}
    short = Schema(fields=tuple(fields[name] for name in schema.history), group=schema.group, history=schema.history)
    details: dict[str, Plain] = {}
    with write_artifact(path, kind=KIND, fingerprint=name, inputs={"log": log.fingerprint}, details=details) as folder:
        with ClickWriter(
            folder, short, (), {part: len(rows) for part, rows in kept.items()}, events=log.events
        ) as writer:
            for part, rows in kept.items():
                found = log.part(part).select(rows)
                writer.append(part, replace(found, ids=np.ascontiguousarray(found.ids[:, columns])))
        details.update(writer.details())
    return ClickLog.load(path)


def there(windows: np.ndarray | None) -> np.ndarray:
    if windows is None:
        raise DataError("the rows have no histories; encode the log with history fields")
    return np.asarray(windows)


def our_logits(log: ClickLog, seed: int, args: argparse.Namespace) -> np.ndarray:
    method = dare_protocol(dare(max_length=args.length, top_k=TOP_K), epochs=args.epochs)
    return click_logits(train_clicks(method, log, seed=seed).model, method.loss, log.part("test"))


def read(path: Path) -> np.ndarray:
    """Log odds of the probabilities in a file, whose 1e-8 too much is harmless."""
    scores = np.clip(np.load(path, allow_pickle=False).astype(np.float64), 1e-7, 1 - 1e-7)
    logits: np.ndarray = np.log(scores) - np.log1p(-scores)
    return logits


def figures(name: str, logits: np.ndarray, log: ClickLog) -> list[Record]:
    """Of all test rows."""
    part = log.part("test")
    found = click_metrics(logits, part.labels[:, 0], groups=part.groups)
    values = {"auc": found.auc, "gauc": None if found.gauc is None else found.gauc.value, "log_loss": found.log_loss}
    return [Record(metric, value, {"of": name}) for metric, value in values.items() if value is not None]


def write_parity(out: Path, results: Sequence[CellResult], context: dict[str, Plain]) -> str:
    """Write `table.json`, `bench.json` and `table.md`; returns the text of the last."""
    rows = table(results)
    write_table(out / "table.json", rows)
    lines = list(differences(results))
    write_bench(out / "bench.json", [line for line, _ in lines], context)
    text = "\n\n".join(["# DARE, released and ours", markdown(rows, METRICS, ["of"]), *(said for _, said in lines)])
    write_bytes(out / "table.md", f"{text}\n".encode())
    return text


def differences(results: Sequence[CellResult]) -> Iterator[tuple[Measured, str]]:
    """Ours beside each scoring of the released code, where both have figures."""
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        for record in result.records:
            found.setdefault((str(record.columns["of"]), record.metric), []).append(record.value)
    for peer in (RELEASED, AS_TESTED):
        for metric in METRICS:
            if (OURS, metric) not in found or (peer, metric) not in found:
                continue
            ours, theirs = found[OURS, metric], found[peer, metric]
            difference, error = difference_of_means(ours, theirs)
            line = Measured(
                what=f"test {metric}",
                against=peer,
                ours=statistics.mean(ours),
                peer=statistics.mean(theirs),
                unit=metric,
                higher_is_better=metric != "log_loss",
            )
            said = f"{metric} of ours less {peer}: {difference:+.5f}, standard error {error:.5f}"
            yield line, f"{said}, {len(ours)} and {len(theirs)} seeds."


def say(result: CellResult) -> None:
    shown = ", ".join(f"{record.value:.5f} {record.metric} ({record.columns['of']})" for record in result.records)
    print(f"{result.cell.model}, seed {result.cell.seed}, {result.seconds:.0f} s: {shown or result.error}", flush=True)


if __name__ == "__main__":
    main()
