"""Generative retrieval beside a tuned SASRec: TIGER's recipe, a modern one, a hybrid, and codes as item vectors.

    python scripts/generative_table.py --data DATA/amazon2014-beauty --out out/generative_table

Protocol of `sequential_table.py`: strict leave-one-out, all users' targets, the whole catalog without the items of the
history. Items are texts by MiniLM (TIGER took Sentence-T5) through an RQ-VAE of 3 x 256 codes and a digit. Generative
rows are ranked by the lists of constrained beam search, 20 wide; what is not in a list is a miss. Beside the metrics:
validation against the number of steps, the share of invalid ids that beam search writes without the constraint, and the
share of lists that are proven to be the true best ones.

`--config light` (the default) is for two cores and three hours: a T5 of 2 + 2 layers, width 64, some 12,000 steps, with
TIGER's schedule shrunk in proportion. It shows where the curves go; its figures do not speak for the published sizes.
`--config paper` trains TIGER's own (4 + 4 layers, 200,000 steps) and the modern recipe at the same size: for a GPU.
"SASRec (tuned, sampled softmax)" and "id + text" are the rows of `sequential_table.py`. The hybrid unites the modern
recipe with "id + text", which knows items without train events by their texts. Rows of codes are SASRec over vectors
made from the codes alone, without the digit.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from sequential_table import MASKED, TUNED, Setup

from llm_rec.artifacts import write_bytes
from llm_rec.generative.t5 import T5ShapeConfig
from llm_rec.recipes.generative import GenerativeMethodConfig
from llm_rec.recipes.generative_tables import HybridRow, details_markdown, run_generative_table
from llm_rec.recipes.hybrid import HybridMethodConfig
from llm_rec.recipes.presets import generative, tiger
from llm_rec.recipes.tables import TableRow, exit_status, job_of, selected, table_options, write_results
from llm_rec.sequential.code_ngrams import NgramItemsConfig
from llm_rec.sequential.items import CodeItemsConfig, ItemsConfig, MixedItemsConfig, TextItemsConfig
from semantic_ids.fusion import GateFusionConfig
from semantic_ids.quantizers import QuantizerConfig, RQVAEConfig

TIGER, MODERN, HYBRID = "TIGER", "generative (modern)", "hybrid (modern, id + text)"
CODES = "rqvae"
QUANTIZERS: dict[str, QuantizerConfig] = {CODES: RQVAEConfig()}
ITEMS: dict[str, ItemsConfig] = {
    "codes (sum)": CodeItemsConfig(),
    "codes (concatenated)": CodeItemsConfig(pooling="concat"),
    "codes (gate fusion)": CodeItemsConfig(fusion=GateFusionConfig(), pooling="concat"),
    "codes (prefixes)": NgramItemsConfig(),
    "codes (bigrams)": NgramItemsConfig(pieces="ngram", n=2),
}
QUICK = (TUNED, MASKED, TIGER, MODERN, HYBRID, "codes (prefixes)")
PAIRS = [(TIGER, TUNED), (MODERN, TUNED), (MODERN, TIGER), (HYBRID, MODERN), (HYBRID, MASKED), (MASKED, TUNED)]
LIGHT = T5ShapeConfig(dim=64, num_layers=2, num_decoder_layers=2, num_heads=4, head_dim=16, feed_forward_dim=256)
TINY = T5ShapeConfig(dim=32, num_layers=1, num_decoder_layers=1, num_heads=2, head_dim=16, feed_forward_dim=64)
LIGHT_EPOCHS = 24


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 1
    rows = list(table_rows(args))
    method = HybridMethodConfig(dense=MASKED, generative=MODERN, validation_targets=4096)
    hybrid = HybridRow(name=HYBRID, method=method, seeds=args.seeds)
    known = [*(row.name for row in rows), HYBRID]
    names = selected(known, args.rows or (QUICK if args.quick else []))
    job = job_of(args, rows, sorted(names - {HYBRID}), QUANTIZERS)
    results = run_generative_table(job, [hybrid] if HYBRID in names else [])
    pairs = [*PAIRS, *((name, TUNED) for name in ITEMS)]
    text = write_results(args.out, results, pairs, title=f"Generative retrieval on {args.data.name}")
    text = "\n".join(part for part in (text, details_markdown(results)) if part) + "\n"
    write_bytes(args.out / "table.md", text.encode())
    print(text)
    return exit_status(args, results)


def options() -> argparse.ArgumentParser:
    parser = table_options(__doc__.splitlines()[0], out="out/generative_table", seeds=1)
    parser.add_argument("--config", choices=["light", "paper"], default="light", help="sizes and lengths of training")
    return parser


def table_rows(args: argparse.Namespace) -> Iterator[TableRow]:
    tuned = Setup(epochs=args.epochs or 200)
    mixed = MixedItemsConfig(text=TextItemsConfig(projection="mlp"), id_dropout=0.1, mask_unseen_ids=True)
    yield TableRow(name=TUNED, method=tuned.method(), seeds=args.seeds)
    yield TableRow(name=MASKED, method=tuned.method(mixed, seen=True), seeds=args.seeds)
    yield TableRow(name=TIGER, method=sized(tiger(), args), seeds=args.seeds, codes=CODES)
    yield TableRow(name=MODERN, method=sized(generative(), args), seeds=args.seeds, codes=CODES)
    for name, items in ITEMS.items():
        yield TableRow(name=name, method=tuned.method(items, seen=True), seeds=args.seeds, codes=CODES)


def sized(method: GenerativeMethodConfig, args: argparse.Namespace) -> GenerativeMethodConfig:
    """The recipe as `--config` and `--epochs` ask for it; the warm-up keeps its share of all epochs."""
    model, trainer = method.model, method.trainer
    if args.config == "light":
        shape = replace(TINY if args.quick else LIGHT, feed_forward=model.shape.feed_forward)
        model = replace(model, shape=shape)
        warmup = round(trainer.warmup_steps * LIGHT_EPOCHS / trainer.epochs)
        trainer = replace(trainer, epochs=LIGHT_EPOCHS, warmup_steps=warmup, eval_every=2)
        method = replace(method, validation_targets=2048)
    if args.epochs is not None:
        trainer = replace(trainer, epochs=min(args.epochs, trainer.epochs))
    if args.quick:
        method = replace(method, validation_targets=256)
    return replace(method, model=model, trainer=trainer)


if __name__ == "__main__":
    sys.exit(main())
