"""Quantisers at equal budget: health of their codes, and what SASRec makes of them beside ids, texts and random codes.

    python scripts/quantizer_table.py --data DATA/amazon2014-beauty --seeds 3 --out out/quantizer_table

Every kind gets the same vectors, `--books` books and `--codes` codes a book; what a kind cannot have is left out and
said. Downstream is the tuned SASRec of `scripts/sequential_table.py` on ids and codes, in its protocol: negatives among
items with train events, and no id for the others. Slices: all targets, targets with fewer than five train events (lt5),
and without any (unseen). Controls: ids alone, texts alone, and ids with random codes.

One seed for every kind, then `--seeds` for the controls and for the `--best` kinds by validation NDCG@10 of that seed:
the test part chooses nothing. Codes are fitted with seed 0 in all rows. LETTER's collaborative vectors are the item
vectors of one SASRec on ids (seed 0), as wide as LETTER's latent vectors and trained on train events alone.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sequential_table import Setup

from llm_rec.artifacts import write_bytes
from llm_rec.recipes.codes import IndexJob
from llm_rec.recipes.compare_codes import KINDS, ComparedCodes, chosen, compare_kinds
from llm_rec.recipes.quantizer_tables import best_rows, collaborative_vectors, combined, with_seeds
from llm_rec.recipes.tables import (
    TableJob,
    TableRow,
    exit_status,
    job_of,
    prepare,
    run_table,
    table_options,
    write_results,
)
from llm_rec.sequential.items import CodeItemsConfig, MixedItemsConfig, TextItemsConfig
from semantic_ids.quantizers import FitConfig, LETTERConfig, RQVAEConfig

IDS, TEXT, RANDOM = "ids alone", "text alone", "ids + random"
CONTROLS = (IDS, TEXT, RANDOM)


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.best, args.epochs = min(args.seeds, 2), 1, args.epochs or 2
    setup = Setup(epochs=args.epochs or 200)
    compared = codes_of(args, setup)
    rows = list(table_rows(setup, compared))
    job = job_of(args, rows, args.rows, {codes.name: codes.quantizer for codes in compared})
    wanted = best_rows(run_table(job), args.best, CONTROLS)
    job = replace(job, rows=with_seeds(job.rows, wanted, args.seeds))
    results = run_table(job)
    pairs = [(row.name, other) for row in job.rows for other in (IDS, RANDOM) if row.name != other]
    write_results(args.out, results, pairs, title=f"Quantisers on {args.data.name}")
    text = combined(job.rows, compared, results)
    write_bytes(args.out / "quantizers.md", f"{text}\n".encode())
    print(text)
    return exit_status(args, results)


def options() -> argparse.ArgumentParser:
    parser = table_options(__doc__.splitlines()[0], out="out/quantizer_table", seeds=3)
    parser.add_argument("--books", type=int, default=4, help="books of every kind (default: 4)")
    parser.add_argument("--codes", type=int, default=256, help="codes of every book (default: 256)")
    parser.add_argument("--kinds", nargs="+", default=[], choices=list(KINDS), help="only these kinds (default: all)")
    parser.add_argument("--best", type=int, default=5, help="kinds with all seeds, beside the controls (default: 5)")
    return parser


def codes_of(args: argparse.Namespace, setup: Setup) -> list[ComparedCodes]:
    """Codes of every kind below `--out`, measured; what is there already is kept."""
    job = TableJob(data=args.data, out=args.out, rows=(), encoder=job_of(args, [], []).encoder, quantizers={})
    material = prepare(job)
    if "letter" in chosen(args.kinds):
        width = LETTERConfig().autoencoder.latent_dim
        collaborative_vectors(args.out, material, replace(setup, dim=width).method())
    budget = RQVAEConfig(num_codebooks=args.books, codebook_size=args.codes)
    index = IndexJob(workspace=args.out, quantizer=budget, compare=True, kinds=tuple(args.kinds))
    return compare_kinds(index, fit=FitConfig(steps=60, warmup_steps=20) if args.quick else None)


def table_rows(setup: Setup, compared: Sequence[ComparedCodes]) -> Iterator[TableRow]:
    """The controls without codes, then a row a kind; a seed each."""
    mixed = MixedItemsConfig(text=None, codes=CodeItemsConfig(), id_dropout=0.1, mask_unseen_ids=True)
    yield TableRow(name=IDS, method=setup.method(), seeds=1)
    yield TableRow(name=TEXT, method=setup.method(TextItemsConfig(projection="mlp"), seen=True), seeds=1)
    for codes in compared:
        method = setup.method(mixed, seen=True)
        yield TableRow(name=f"ids + {codes.kind}", method=method, seeds=1, codes=codes.name)


if __name__ == "__main__":
    sys.exit(main())
