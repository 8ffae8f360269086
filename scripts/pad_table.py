"""PAD beside the SASRec it starts from, by how often training saw the target: main rows, variants and ablations.

    python scripts/pad_table.py --data DATA/amazon2018-prime-pantry --out out/pad_table

Protocol: leave-one-out (each user's last event is the test target, the one before the validation target; neither is
trained on), every target ranked against the whole catalog without the items of the user's history, early stopping on
validation NDCG@10. "SASRec (BCE)" is phase 1 of "PAD (BCE)" itself, with the same seed; given as many epochs as PAD's
three phases may take together, it shows how much of PAD's gain is longer training. "PAD (BCE)" is the published
mechanism at a size for a CPU (width 64, two blocks, learning rate 1e-3); "PAD (sampled softmax)" is our step beyond
it. The ablations change one thing of PAD (BCE) each, over fewer seeds, and are exploratory; Laplacian kernels, whose
distances are no matrix product, also compare 256 items of a batch instead of 1,024. The variants show what it
takes to reach items without train events: negatives drawn from the whole catalog push their texts to the end of every
ranking, negatives drawn among items with train events do not. `--config paper` trains at the paper's own size and
learning rates: days on a CPU, meant for a GPU.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llm_rec.frequency_gate import BucketGateConfig
from llm_rec.pad.alignment import InfoNCEConfig, LinearMMDConfig, NoAlignmentConfig
from llm_rec.pad.mmd import MultiKernelMMDConfig
from llm_rec.pad.model import PADConfig, faithful_pad, pad
from llm_rec.pad.phases import PADTraining, faithful_training
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
from llm_rec.sequential.items import IdItemsConfig, ItemsConfig, MixedItemsConfig, TextItemsConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.sequential.negatives import SharedNegativesConfig
from llm_rec.sequential.sasrec import released_sasrec
from llm_rec.sequential.task import SampledSoftmaxConfig
from llm_rec.training.trainer import TrainerConfig

BCE, SOFTMAX, TEXT = "SASRec (BCE)", "SASRec (sampled softmax)", "text only"
LONGER = "SASRec (BCE), three times the epochs"
PAD_BCE, PAD_SOFTMAX = "PAD (BCE)", "PAD (sampled softmax)"
MAIN = (BCE, SOFTMAX, TEXT, PAD_BCE, PAD_SOFTMAX)
SUM, SUM_SEEN = "id + text (catalog negatives)", "id + text (seen negatives)"
SUM_MASKED = "id + text (seen negatives, ids masked)"
PAD_MASKED = "PAD (BCE), ids masked"
NEGATIVES = SharedNegativesConfig(number=1024)
PAIRS = [
    (PAD_BCE, BCE),
    (PAD_BCE, LONGER),
    (PAD_SOFTMAX, SOFTMAX),
    (TEXT, SOFTMAX),
    (SUM_SEEN, SUM),
    (SUM_MASKED, SUM_SEEN),
    (PAD_MASKED, PAD_BCE),
]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all rows share: the size of PAD and of every SASRec, batches, and how phases are trained."""

    pad: PADConfig
    batches: BatchConfig
    training: PADTraining

    def with_pad(self, model: PADConfig) -> PADMethodConfig:
        softmax = isinstance(model.loss, SampledSoftmaxConfig)
        negatives = replace(NEGATIVES, seen_in_train_only=model.mask_unseen_ids) if softmax else None
        return PADMethodConfig(model=model, negatives=negatives, batches=self.batches, training=self.training)

    def with_items(self, items: ItemsConfig, *, seen: bool) -> SequentialMethodConfig:
        """SASRec with sampled softmax over `items`; negatives among items with train events only when `seen`."""
        model = SequentialConfig(
            items=items, backbone=self.pad.backbone, dim=self.pad.dim, max_length=self.pad.max_length
        )
        return SequentialMethodConfig(
            model=model,
            loss=SampledSoftmaxConfig(),
            negatives=replace(NEGATIVES, seen_in_train_only=seen),
            batches=self.batches,
            trainer=self.training.pretrain,
        )


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 3
    rows = list(table_rows(setup(args), args.seeds, args.ablation_seeds))
    names = args.rows or (MAIN if args.quick else [])
    results = run_table(job_of(args, rows, names))
    pairs = [*PAIRS, *((row.name, PAD_BCE) for row in rows if row.name.startswith(f"{PAD_BCE}: "))]
    print(write_results(args.out, results, pairs, title=f"PAD on {args.data.name}"))
    return exit_status(args, results)


def options() -> argparse.ArgumentParser:
    parser = table_options(__doc__.splitlines()[0], out="out/pad_table", seeds=5)
    parser.add_argument("--ablation-seeds", type=int, default=3, help="seeds of ablations and variants (default: 3)")
    parser.add_argument("--config", choices=["light", "paper"], default="light", help="size and learning rates")
    return parser


def setup(args: argparse.Namespace) -> Setup:
    """`light`: hours on two cores. `paper`: the released settings, for a GPU."""
    if args.config == "paper":
        training = faithful_training() if args.epochs is None else faithful_training(epochs=args.epochs)
        return Setup(faithful_pad(), BatchConfig(max_length=20, tokens=None, users=128), training)
    trainer = TrainerConfig(epochs=args.epochs or 60, learning_rate=1e-3, eval_every=2, patience=5)
    model = PADConfig(dim=64, max_length=20, backbone=released_sasrec(num_layers=2))
    return Setup(model, BatchConfig(max_length=20, tokens=1024), PADTraining.same(trainer))


def table_rows(shared: Setup, seeds: int, ablation_seeds: int) -> Iterator[TableRow]:
    faithful = shared.with_pad(shared.pad)
    ours = pad(dim=shared.pad.dim, max_length=shared.pad.max_length, backbone=shared.pad.backbone)
    text = TextItemsConfig(projection="mlp")
    mixed = MixedItemsConfig(text=text)
    masked = replace(mixed, id_dropout=0.1, mask_unseen_ids=True)
    yield TableRow(name=BCE, method=faithful, until="pretrain", seeds=seeds)
    yield TableRow(name=SOFTMAX, method=shared.with_items(IdItemsConfig(), seen=False), seeds=seeds)
    yield TableRow(name=TEXT, method=shared.with_items(text, seen=True), seeds=seeds)
    yield TableRow(name=PAD_BCE, method=faithful, seeds=seeds)
    yield TableRow(name=PAD_SOFTMAX, method=shared.with_pad(ours), seeds=seeds)
    yield TableRow(name=SUM, method=shared.with_items(mixed, seen=False), seeds=ablation_seeds)
    yield TableRow(name=SUM_SEEN, method=shared.with_items(mixed, seen=True), seeds=ablation_seeds)
    yield TableRow(name=SUM_MASKED, method=shared.with_items(masked, seen=True), seeds=ablation_seeds)
    pretrain = shared.training.pretrain
    longer = replace(shared.training, pretrain=replace(pretrain, epochs=3 * pretrain.epochs))
    yield TableRow(name=LONGER, method=replace(faithful, training=longer), until="pretrain", seeds=ablation_seeds)
    model = replace(shared.pad, mask_unseen_ids=True)
    yield TableRow(name=PAD_MASKED, method=shared.with_pad(model), seeds=ablation_seeds)
    for name, model in ablations(shared.pad).items():
        yield TableRow(name=f"{PAD_BCE}: {name}", method=shared.with_pad(model), seeds=ablation_seeds)


def ablations(model: PADConfig) -> dict[str, PADConfig]:
    """The paper's ablations, each one change of `model`."""
    return {
        "InfoNCE for MMD": replace(model, alignment=InfoNCEConfig()),
        "cosine for MMD": replace(model, alignment=LinearMMDConfig(cosine=True)),
        "linear for MMD": replace(model, alignment=LinearMMDConfig()),
        "Laplacian kernels, 256 rows": replace(
            model, alignment=MultiKernelMMDConfig(kernel="laplacian"), max_alignment_rows=256
        ),
        "released estimator": replace(
            model,
            alignment=MultiKernelMMDConfig(estimator="official"),
            alignment_rows="all",
            max_alignment_rows=None,
        ),
        "no alignment": replace(model, alignment=NoAlignmentConfig()),
        "no BCE anchor": replace(model, anchor=False),
        "no collaborative expert": replace(model, experts=("aligned", "text")),
        "no aligned expert": replace(model, experts=("collaborative", "text")),
        "no text expert": replace(model, experts=("collaborative", "aligned")),
        "single bucket": replace(model, gate=BucketGateConfig(num_buckets=1)),
        "no pretraining": replace(model, pretrain=False),
    }


if __name__ == "__main__":
    sys.exit(main())
