"""A tuned SASRec, and what texts, semantic IDs and PAD add to it, overall and by how often training saw the target.

    python scripts/sequential_table.py --data DATA/amazon2014-beauty --out out/sequential_table

Protocol, the same for every row: strict leave-one-out (each user's last event is the test target, the one before the
validation target; the validation item is never trained on, but is part of the history at test), all users' targets
counted, also those whose item has no train event, every target ranked against the whole catalog without the items of
the user's history, histories cut to the last 50 events, early stopping on validation NDCG@10.

"SASRec (tuned, sampled softmax)" has the block of SASRec's released code, 2,048 negatives that a batch shares, and
dropout on the item table (one mask for inputs and candidates);
"SASRec (BCE)" and "SASRec (pre-norm, sampled softmax)" differ from it in the loss or the block alone. All other rows
build on it and are tested against it. `--tune` prints the grid the tuned setting was chosen from, by validation, on one
seed, in `--out/tune`.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from llm_rec.artifacts import write_bytes
from llm_rec.experiment import CellResult, markdown, table, write_table
from llm_rec.pad.model import pad
from llm_rec.pad.phases import PADTraining
from llm_rec.recipes.methods import PADMethodConfig, SequentialMethodConfig
from llm_rec.recipes.tables import (
    TableRow,
    exit_status,
    job_of,
    run_table,
    table_options,
    write_results,
)
from llm_rec.sequential.batches import BatchConfig
from llm_rec.sequential.items import CodeItemsConfig, IdItemsConfig, ItemsConfig, MixedItemsConfig, TextItemsConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.sequential.negatives import SharedNegativesConfig
from llm_rec.sequential.sasrec import SASRecConfig, released_sasrec
from llm_rec.sequential.task import BCEConfig, SampledSoftmaxConfig
from llm_rec.training.trainer import TrainerConfig
from semantic_ids.quantizers import MixtureOfCodesConfig, QuantizerConfig, RQVAEConfig

BCE, PRE, TUNED = "SASRec (BCE)", "SASRec (pre-norm, sampled softmax)", "SASRec (tuned, sampled softmax)"
TEXT, SUM, MASKED = "text only", "id + text (catalog negatives)", "id + text (seen negatives, ids masked)"
MOC, RQVAE, PAD = "id + codes (MoC)", "id + codes (RQ-VAE)", "PAD (tuned, sampled softmax)"
QUICK = (TUNED, MASKED, MOC)
QUANTIZERS: dict[str, QuantizerConfig] = {"moc": MixtureOfCodesConfig(), "rqvae": RQVAEConfig()}
Block = Literal["released", "pre-norm"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One setting of SASRec and its training. The defaults are the tuned ones."""

    dim: int = 64
    dropout: float = 0.2
    item_dropout: float = 0.2
    negatives: int = 2048
    block: Block = "released"
    epochs: int = 200

    @property
    def name(self) -> str:
        drops = f"dropout {self.dropout}, item dropout {self.item_dropout}"
        return f"dim {self.dim}, {drops}, {self.negatives} negatives, {self.block}"

    @property
    def backbone(self) -> SASRecConfig:
        return released_sasrec(dropout=self.dropout) if self.block == "released" else SASRecConfig(dropout=self.dropout)

    @property
    def batches(self) -> BatchConfig:
        return BatchConfig(max_length=50, tokens=768)

    @property
    def trainer(self) -> TrainerConfig:
        return TrainerConfig(
            epochs=self.epochs, learning_rate=1e-3, optimizer="adam", betas=(0.9, 0.98), eval_every=5, patience=3
        )

    def method(self, items: ItemsConfig | None = None, *, seen: bool = False) -> SequentialMethodConfig:
        """Sampled softmax over `items` (ids by default); `seen`: negatives among items with train events only."""
        return SequentialMethodConfig(
            model=SequentialConfig(
                items=items or IdItemsConfig(),
                backbone=self.backbone,
                dim=self.dim,
                max_length=50,
                item_dropout=self.item_dropout,
            ),
            loss=SampledSoftmaxConfig(),
            negatives=SharedNegativesConfig(number=self.negatives, seen_in_train_only=seen),
            batches=self.batches,
            trainer=self.trainer,
        )


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 5
    setup = Setup(dim=args.dim, dropout=args.dropout, epochs=args.epochs or 200)
    rows = list(tuning_rows(setup) if args.tune else table_rows(setup, args.seeds))
    names = args.rows or (QUICK if args.quick and not args.tune else [])
    results = run_table(job_of(args, rows, names, QUANTIZERS))
    if args.tune:
        print(write_tuning(args, results))
    else:
        pairs = [(TUNED, BCE), (TUNED, PRE), *((row.name, TUNED) for row in rows[3:])]
        print(write_results(args.out, results, pairs, title=f"Sequential recommenders on {args.data.name}"))
    return exit_status(args, results)


def options() -> argparse.ArgumentParser:
    parser = table_options(__doc__.splitlines()[0], out="out/sequential_table", seeds=3)
    parser.add_argument("--dim", type=int, default=64, help="width of all rows (default: 64)")
    parser.add_argument("--dropout", type=float, default=0.2, help="dropout of all rows (default: 0.2)")
    parser.add_argument("--tune", action="store_true", help="the grid of settings on one seed instead of the table")
    return parser


def table_rows(tuned: Setup, seeds: int) -> Iterator[TableRow]:
    text = TextItemsConfig(projection="mlp")
    summed = MixedItemsConfig(text=text)
    masked = replace(summed, id_dropout=0.1, mask_unseen_ids=True)
    codes = replace(masked, text=None, codes=CodeItemsConfig())
    bce = replace(tuned.method(), loss=BCEConfig(), negatives=None)
    yield TableRow(name=BCE, method=bce, seeds=seeds)
    yield TableRow(name=PRE, method=replace(tuned, block="pre-norm").method(), seeds=seeds)
    yield TableRow(name=TUNED, method=tuned.method(), seeds=seeds)
    yield TableRow(name=TEXT, method=tuned.method(text, seen=True), seeds=seeds)
    yield TableRow(name=SUM, method=tuned.method(summed), seeds=seeds)
    yield TableRow(name=MASKED, method=tuned.method(masked, seen=True), seeds=seeds)
    yield TableRow(name=MOC, method=tuned.method(codes, seen=True), seeds=seeds, codes="moc")
    yield TableRow(name=RQVAE, method=tuned.method(codes, seen=True), seeds=seeds, codes="rqvae")
    yield TableRow(name=PAD, method=tuned_pad(tuned), seeds=seeds)


def tuned_pad(tuned: Setup) -> PADMethodConfig:
    """PAD of the tuned backbone, negatives among items with train events: unseen items have no id in it."""
    return PADMethodConfig(
        model=pad(dim=tuned.dim, max_length=50, backbone=tuned.backbone),
        negatives=SharedNegativesConfig(number=tuned.negatives, seen_in_train_only=True),
        batches=tuned.batches,
        training=PADTraining.same(tuned.trainer),
    )


def tuning_rows(base: Setup) -> Iterator[TableRow]:
    """Widths, dropouts, numbers of negatives and blocks, on seed 0."""
    blocks: tuple[Block, ...] = ("released", "pre-norm")
    drops = ((0.2, 0.2), (0.2, 0.0), (0.5, 0.0))
    for block, negatives, dim, (dropout, item_dropout) in product(blocks, (2048, 256), (64, 128), drops):
        setup = replace(base, dim=dim, dropout=dropout, item_dropout=item_dropout, negatives=negatives, block=block)
        yield TableRow(name=setup.name, method=setup.method(), seeds=1)


def write_tuning(args: argparse.Namespace, results: Sequence[CellResult]) -> str:
    """`table.json` and `table.md` in `--out/tune`, the best validation figure first."""
    rows = [row for row in table(results) if row.columns["slice"] == "all"]
    best = {row.model: row.mean for row in rows if row.metric == "validation"}
    rows.sort(key=lambda row: -best.get(row.model, 0.0))
    write_table(args.out / "tune" / "table.json", rows)
    text = markdown(rows, ["validation", "recall@10", "ndcg@10", "epochs"]) + "\n"
    write_bytes(args.out / "tune" / "table.md", text.encode())
    return text


if __name__ == "__main__":
    sys.exit(main())
