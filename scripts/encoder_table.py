"""What tuning a text encoder on a data set does: to the neighbours of items, and to recommenders that read texts.

    python scripts/encoder_table.py --data DATA/amazon2014-beauty --out out/encoder_table

Encoders: as it is, tuned on co-interactions of the train part, on views of one text, on both. Each is tuned once (seed
0), in `--out/adapters`; a killed tuning goes on. "neighbours" ranks the whole catalog by cosine to the last item before
the target, with nothing learned on top; the slice "unseen" holds targets whose item has no train event. The other rows
are SASRec over texts, SASRec over ids and texts, and PAD, in the setting and protocol of `sequential_table.py`, over
the vectors of each encoder. Rows are tested against those of the untuned encoder.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import sequential_table

from llm_rec.artifacts import canonical_json, fingerprint
from llm_rec.codec import Plain, identity
from llm_rec.data import LeaveOneOutConfig, make_split
from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.encoders import CausalEncoderConfig, SentenceEncoderConfig
from llm_rec.experiment import Cell, CellResult, Ledger, Record, run_grid
from llm_rec.processes import one_thread
from llm_rec.recipes.evaluation import EvaluationConfig, evaluate
from llm_rec.recipes.tables import (
    TableJob,
    TableRow,
    exit_status,
    grid_options,
    job_of,
    material_of,
    prepare,
    run_table,
    slice_records,
    write_results,
)
from llm_rec.sequential.items import MixedItemsConfig, TextItemsConfig
from llm_rec.tuning import NeighbourRetriever, PairsConfig, TuningConfig, ViewsConfig, tune_encoder

Encoder = SentenceEncoderConfig | CausalEncoderConfig
UNTUNED = "untuned"
NEIGHBOURS, TEXT, ID_TEXT, PAD = "neighbours", "text only", "id + text", "PAD"
PAIRS = {
    "co-interaction": PairsConfig(),
    "views": PairsConfig(co_interaction=None, views=ViewsConfig()),
    "both": PairsConfig(views=ViewsConfig()),
}
ENCODERS = (UNTUNED, *PAIRS)
QUICK = (UNTUNED, "both")


@dataclass(frozen=True, slots=True)
class NeighbourRunner:
    """Neighbour quality of the vectors in each encoder's folder. Picklable."""

    folders: dict[str, Path]

    def __call__(self, cell: Cell) -> list[Record]:
        with one_thread():
            material = material_of(self.folders[cell.model], None)
            if material.embeddings is None:
                raise TypeError("the table was prepared without embeddings")
            retriever = NeighbourRetriever(material.embeddings)
            return slice_records(evaluate(retriever, material, "test", EvaluationConfig(ks=(5, 10))))


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs, args.steps = 1, args.epochs or 1, args.steps or 2
        args.max_length = args.max_length or 16
    encoder = encoder_of(args)
    results: list[CellResult] = []
    for name in args.encoders or (QUICK if args.quick else ENCODERS):
        tuned = encoder if name == UNTUNED else replace(encoder, adapter=tuned_adapter(args, encoder, name))
        job = encoder_job(args, tuned, name)
        results += [*neighbours(args, job, name), *(run_table(job) if job.rows else [])]
        if exit_status(argparse.Namespace(out=job.out, rows=args.rows), results):
            print(f"a row over the encoder {name!r} failed; run the same command again to repeat it", file=sys.stderr)
    models = {result.cell.model for result in results}
    pairs = [(model, f"{model.split(', ')[0]}, {UNTUNED}") for model in sorted(models) if not model.endswith(UNTUNED)]
    print(write_results(args.out, results, pairs, title=f"Tuned encoders on {args.data.name}"))
    return int(any(result.status == "failed" for result in results))


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/encoder_table", seeds=3)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, help="only these encoders (default: all)")
    parser.add_argument("--model", help="folder or hub name of the model (default: MiniLM)")
    parser.add_argument("--causal", action="store_true", help="the model is a decoder")
    parser.add_argument("--max-length", type=int, help="tokens of a text (default: the model's own)")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs of a tuning batch (default: 256)")
    parser.add_argument("--steps", type=int, help="batches of a tuning epoch (default: 100)")
    parser.add_argument("--tuning-epochs", type=int, help="at most so many epochs of tuning (default: 10)")
    parser.set_defaults(encoder="sentence")
    return parser


def encoder_of(args: argparse.Namespace) -> Encoder:
    """The encoder that the options name, untuned."""
    if args.causal:
        base = CausalEncoderConfig(model=args.model or "Qwen/Qwen3-Embedding-0.6B", pooling="last", append_eos=True)
        return replace(base, max_length=args.max_length or base.max_length)
    base_model = SentenceEncoderConfig(max_length=args.max_length)
    return base_model if args.model is None else replace(base_model, model=args.model)


def tuning_of(args: argparse.Namespace, name: str) -> TuningConfig:
    """How the encoder called `name` is tuned."""
    config = TuningConfig()
    pairs = replace(PAIRS[name], batch_size=args.batch_size, steps=args.steps or PAIRS[name].steps)
    epochs = args.tuning_epochs or (1 if args.quick else config.trainer.epochs)
    targets = 100 if args.quick else config.validation_targets
    return replace(config, pairs=pairs, validation_targets=targets, trainer=replace(config.trainer, epochs=epochs))


def tuned_adapter(args: argparse.Namespace, encoder: Encoder, name: str) -> Path:
    """The folder of the adapter `name`, tuned unless it is there already."""
    catalog, log = load_folder(FolderConfig(path=args.data))
    config = tuning_of(args, name)
    mark = fingerprint(canonical_json({"encoder": identity(encoder), "tuning": identity(config)}))
    folder: Path = args.out / "adapters" / f"{name}-{mark}"
    tune_encoder(encoder, catalog, make_split(log, LeaveOneOutConfig()), folder, config)
    return folder


def encoder_job(args: argparse.Namespace, encoder: Encoder, name: str) -> TableJob:
    """Downstream rows over one encoder, in a folder of their own; the names say whose vectors they read."""
    rows = [replace(row, name=f"{row.name}, {name}") for row in downstream_rows(args)]
    names = [f"{wanted}, {name}" for wanted in args.rows or ([TEXT] if args.quick else []) if wanted != NEIGHBOURS]
    job = job_of(args, rows, names)
    only_neighbours = bool(args.rows) and set(args.rows) == {NEIGHBOURS}
    mark = fingerprint(canonical_json(identity(encoder)))
    return replace(
        job, out=args.out / "encoders" / f"{name}-{mark}", encoder=encoder, rows=() if only_neighbours else job.rows
    )


def downstream_rows(args: argparse.Namespace) -> list[TableRow]:
    """Recommenders that read texts, in the tuned setting of `sequential_table.py`."""
    tuned = sequential_table.Setup(epochs=args.epochs or 200)
    text = TextItemsConfig(projection="mlp")
    mixed = MixedItemsConfig(text=text, id_dropout=0.1, mask_unseen_ids=True)
    return [
        TableRow(name=TEXT, method=tuned.method(text, seen=True), seeds=args.seeds),
        TableRow(name=ID_TEXT, method=tuned.method(mixed, seen=True), seeds=args.seeds),
        TableRow(name=PAD, method=sequential_table.tuned_pad(tuned), seeds=args.seeds),
    ]


def neighbours(args: argparse.Namespace, job: TableJob, name: str) -> Sequence[CellResult]:
    """The neighbour quality of one encoder, unless only other rows are asked for."""
    if args.rows and NEIGHBOURS not in args.rows:
        return []
    material = prepare(job)
    context: dict[str, Plain] = {**material.inputs, "quick": args.quick}
    cell = Cell(f"{NEIGHBOURS}, {name}", {"method": "cosine to the last item"}, 0)
    ledger = None if args.ledger is None else Ledger(args.ledger)
    return run_grid([cell], NeighbourRunner({cell.model: job.out}), job.out, context=context, ledger=ledger)


if __name__ == "__main__":
    sys.exit(main())
