"""Single against multi-embedding by embedding budget: AUC and information abundance, with ablations and figures.

    python scripts/collapse_table.py --data DATA/frappe DATA/ml-1m DATA/census-income --seeds 3 --out out/collapse

Setting of arXiv 2310.04400: Adam at 1e-3, batches of 2,048, weight decay 1e-6 on all weights, dropout .2, batch
normalisation, layers of 400, 4 cross layers, Xavier over one table of all fields, early stopping on validation AUC with
patience 3. A factor of s means vectors s times as wide (`single`) or s sets (`multi`); both have the same tables.
The paper splits 8/1/1 at random; frappe comes with its split, census-income with its test file and a tenth of the train
rows for validation, MovieLens is parted leave-one-out, one negative for each of the last 50 events of a user. MLP sizes
are the paper's, data sets are not: with a small vocabulary the same initialisation starts far larger than on Criteo.

Abundance is the mean over fields (and sets) of values seen in training; `abundance_frequent` counts values with at
least 10 rows, `.._over_initial` divides by a random table of the same shape. Abundance grows with width: compare
`multi` and `single` of one factor by `abundance_over_dim`, not by abundance. Spectra and heat maps of sub-embeddings of
DCNv2, seed 0, are pages in ``figures``, of cells that are trained here (a ledger has figures alone).

Training is in bfloat16, tables and sums in float32 (`--precision no` is float32; DCNv2 on frappe, seed 0: AUC .9808 and
abundance 4.33 against .9808 and 4.24 at 1x, .9829 and 4.28 against .9826 and 4.30 for three sets).

The first data set has all backbones at 1x, 2x, 3x, 4x, 10x and the ablations (`me-si`: one interaction for all sets;
weight alignment; two regularisers; orthogonal cross blocks); the others DNN and DCNv2 at 1x, 3x, 10x. The default grid
is `reduced`, an estimated four hours for the three sets on two cores: backbones but DNN and DCNv2 at 1x, 3x, 10x,
xDeepFM without 10x, ablations at 3x, DCNv2 single at 10x only up to 20 fields (with 40 its cross layers hold 64M
weights: hours an epoch on a CPU). `--grid full` has all: about as long for frappe alone.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np

from ctr_models.embeddings import XavierJointInit
from ctr_models.interactions.multi_embedding import Backbone, scaled
from ctr_models.model import CTRModel, CTRModelConfig
from llm_rec.analysis.click_collapse import analyse_collapse
from llm_rec.artifacts import write_bytes
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.ctr.penalties import (
    OrthogonalityConfig,
    PenaltyConfig,
    SingularVarianceConfig,
    SubspaceSimilarityConfig,
    WeightAlignmentConfig,
)
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Cell, CellResult, Record, cell_name, markdown_lines
from llm_rec.recipes.click_logs import click_log
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    full_name,
    run_clicks,
    select_clicks,
    write_click_results,
)
from llm_rec.recipes.tables import grid_options
from llm_rec.report.collapse import collapse_page
from llm_rec.training.trainer import Precision, TrainerConfig

NAMES: dict[str, Backbone] = {
    "DNN": "dnn",
    "DCNv2": "dcn_v2",
    "IPNN": "ipnn",
    "NFwFM": "nfwfm",
    "xDeepFM": "xdeepfm",
    "FinalMLP": "finalmlp",
}
FACTORS, FEW_FACTORS, QUICK_FACTORS = (1, 2, 3, 4, 10), (1, 3, 10), (1, 3)
FEW = ("DNN", "DCNv2")
WIDE = 20  # fields above which the reduced grid leaves out DCNv2 single at 10x
PENALTIES: dict[str, PenaltyConfig] = {
    "weight alignment": WeightAlignmentConfig(),
    "subspace similarity": SubspaceSimilarityConfig(),
    "singular variance": SingularVarianceConfig(),
    "orthogonal blocks": OrthogonalityConfig(),
}
METRICS = (
    *("auc", "log_loss", "parameters", "abundance", "abundance_over_dim", "abundance_over_initial"),
    *("abundance_frequent", "abundance_projected"),
)
COLUMNS = ("data", "factor")
SINGLE, MULTI = "single", "multi"
QUICK = ("DNN single", "DNN multi", "DCNv2 single", "DCNv2 multi", "DCNv2 multi: me-si")
DRAWN = ("DCNv2 single", "DCNv2 multi")  # rows whose figures are drawn: single, multi and its ablations


@dataclass(frozen=True, slots=True)
class Abundance:
    """Figures of `analyse_collapse`; with a page, its figures as well."""

    min_count: int = 10
    page: Path | None = field(default=None, repr=False)  # not part of what is measured: see `measure_name`
    title: str = field(default="", repr=False)

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        found = analyse_collapse(model, log, min_count=self.min_count)
        if self.page is not None:
            self.page.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.page, collapse_page("Embedding collapse", [(self.title, found)]).encode())
        return [Record(name, value, {"slice": "all"}) for name, value in found.means().items()]


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 2
    rows = [row for place, data in enumerate(args.data) for row in data_rows(data, args, first=place == 0)]
    rows = select_clicks(rows, args.rows or (QUICK if args.quick else ()))
    drawn = [replace(row, seeds=1, measures=(figures_of(row, args.out),)) for row in rows if row.name.startswith(DRAWN)]
    run_clicks(args.out, drawn, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    results = run_clicks(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    text = write_click_results(
        args.out,
        results,
        title="Single and multi-embedding",
        metrics=METRICS,
        columns=COLUMNS,
        pairs=list(pairs(rows)),
        notes=[claims(results)],
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/collapse", seeds=3, data=False)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders; the first has the full table")
    parser.add_argument("--grid", choices=["reduced", "full"], default="reduced", help="what is left out: see above")
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16", help="of training")
    return parser


def data_rows(data: Path, args: argparse.Namespace, *, first: bool) -> Iterator[ClickRow]:
    """All rows on one data set."""
    log = click_log(data, args.out / "logs", quick=args.quick)
    fields = len(ClickLog.load(log).schema.fields)

    def row(name: str, factor: int, found: ClickMethodConfig) -> ClickRow:
        columns: dict[str, Plain] = {"data": data.name, "factor": factor}
        return ClickRow(name=name, method=found, log=log, seeds=args.seeds, columns=columns, measures=(Abundance(),))

    for name, backbone in NAMES.items():
        if not first and name not in FEW:
            continue
        for factor in factors(name, args, first=first):
            slow = name == "DCNv2" and factor == FACTORS[-1] and fields > WIDE and args.grid == "reduced"
            if not slow:
                yield row(f"{name} {SINGLE}", factor, method(scaled(backbone, factor, "single"), args))
            if factor > 1 or name == "IPNN":  # one set is the single model, but for IPNN
                yield row(f"{name} {MULTI}", factor, method(scaled(backbone, factor, "multi"), args))
    if first:
        for factor in (3,) if args.grid == "reduced" or args.quick else FACTORS[1:]:
            multi = method(scaled("dcn_v2", factor, "multi"), args)
            shared = method(scaled("dcn_v2", factor, "multi", shared_interaction=True), args)
            yield row(f"DCNv2 {MULTI}: me-si", factor, shared)
            for name, penalty in PENALTIES.items():
                yield row(f"DCNv2 {MULTI}: {name}", factor, replace(multi, penalty=penalty))


def factors(name: str, args: argparse.Namespace, *, first: bool) -> tuple[int, ...]:
    """The embedding budgets of a backbone."""
    if args.quick:
        return QUICK_FACTORS
    if first and (name in FEW or args.grid == "full"):
        return FACTORS
    return FEW_FACTORS[:-1] if name == "xDeepFM" else FEW_FACTORS


def method(model: CTRModelConfig, args: argparse.Namespace) -> ClickMethodConfig:
    """The paper's setting; its weight decay is on tables too, every row in every step."""
    trainer = TrainerConfig(
        epochs=args.epochs or 100,
        precision=args.precision,
        learning_rate=1e-3,
        optimizer="adam",
        weight_decay=1e-6,
        monitor="auc",
        patience=3,
    )
    return ClickMethodConfig(
        model=model,
        init=XavierJointInit(),
        embedding_l2=1e-6,
        batches=ClickBatchConfig(batch_size=2048),
        trainer=trainer,
    )


def figures_of(row: ClickRow, out: Path) -> Abundance:
    name = row.full_name
    return Abundance(page=out / "figures" / f"{cell_name(Cell(name, row.setting, 0), {})}.html", title=name)


def pairs(rows: Sequence[ClickRow]) -> Iterator[tuple[str, str]]:
    """Multi against single at the same factor and against 1x; ablations against multi at the same factor."""
    known = {row.full_name for row in rows}
    for row in rows:
        backbone, _, rest = row.name.partition(f" {MULTI}")
        if rest:
            yield row.full_name, full_name(f"{backbone} {MULTI}", row.columns)
        elif row.name.endswith(MULTI):
            base = full_name(f"{backbone} {SINGLE}", {**row.columns, "factor": 1})
            same = full_name(f"{backbone} {SINGLE}", row.columns)
            yield from ((row.full_name, other) for other in dict.fromkeys((same, base)) if other in known)


def claims(results: Sequence[CellResult]) -> str:
    """Where the paper's claim holds: AUC grows with sets and not with width. Differences are paired by seed; one that
    is not beyond twice its standard error is said to be within noise.
    """
    found: dict[tuple[str, str, int], dict[int, float]] = defaultdict(dict)
    for result in results:
        for record in result.records:
            if record.metric == "auc" and record.columns == {"slice": "all"}:
                columns = result.cell.setting
                found[str(columns["data"]), result.cell.model, int(str(columns["factor"]))][result.cell.seed] = (
                    record.value
                )
    head = ["data", "backbone", "largest multi - 1x", "largest single - 1x", "multi - single, same factor"]
    body = []
    for data, model, factor in found:
        backbone = model.removesuffix(f" {SINGLE}")
        if factor != 1 or backbone == model:
            continue
        single, multi = (
            {f: values for (d, m, f), values in found.items() if (d, m) == (data, f"{backbone} {kind}") and f > 1}
            for kind in (SINGLE, MULTI)
        )
        base, shared = found[data, model, 1], sorted(single.keys() & multi.keys())
        cells = [
            difference(multi[max(multi)], base, max(multi)) if multi else "",
            difference(single[max(single)], base, max(single)) if single else "",
            difference(multi[shared[-1]], single[shared[-1]], shared[-1]) if shared else "",
        ]
        body.append([data, backbone, *cells])
    return f"AUC, paired by seed (two standard errors):\n\n{markdown_lines(head, body)}"


def difference(ours: dict[int, float], theirs: dict[int, float], factor: int) -> str:
    """Mean difference over shared seeds, and what it says."""
    values = np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if len(values) < 2:
        return f"{factor}x: {values.mean():+.5f} (one seed)" if len(values) else ""
    error = 2 * values.std(ddof=1) / len(values) ** 0.5
    verdict = "within noise" if abs(values.mean()) <= error else "higher" if values.mean() > 0 else "lower"
    return f"{factor}x: {values.mean():+.5f} ± {error:.5f}, {verdict}"


if __name__ == "__main__":
    sys.exit(main())
