"""Losses of click models as positives get sparse: AUC, log loss, and the gradient that negatives receive.

    python scripts/ranking_loss_table.py --data DATA/frappe DATA/ml-1m DATA/census-income --out out/ranking_loss

Setting of arXiv 2403.14144: parallel DCNv2 with vectors of 10 numbers, 3 full cross layers, MLP 500 x 3, dropout .1,
no batch normalisation, embedding L2 1e-5, Adam at 1e-3, batches of 4,096 (each batch is one list), a tenth of the
learning rate after an epoch without a gain in validation AUC, stop after two. Tables start at N(0, 1e-4^2).

Sparsity has separate knobs. `weight`: positives weigh w in the loss (what each loss makes of it: `ctr_models.losses`),
as the paper's main experiment. `positives`, `negatives`: only a share of the train rows of that class is kept;
validation and test stay as they are. The paper leaves out negatives alone, which makes positives denser; leaving out
positives is our addition, the counterpart of a weight at the same effective rate (`positive_rate`).

Mixing weights (alpha; gamma of the focal loss) are chosen by validation AUC with seed 0, for every data set, knob and
level apart (``tuning.json``); the candidates are ours, fewer than the paper's. `negative_gradient` is the mean of
|dL/ds| over the negatives of 20 train batches at the trained weights, in closed form; `weighted_log_loss` and
`bucket_bias` (mean over 45 equal-frequency buckets of each model's own predictions of |sum w (p - y)| / sum w y; the
paper cuts all models by the buckets of BCE) weigh test positives by the knob's effective weight, because weights and
sampling shift probabilities by design. AUC needs no such weights.

Training is in bfloat16 (`--precision no` is float32; JRC on frappe at weight .1, two seeds: AUC .976 and .974 against
.977 and .972, gradients of negatives 1.15e-6 and 1.46e-6 against 1.13e-6 and 1.89e-6). Rows of MovieLens are the last
`--last` events of each user and one negative each.

The default grid is `reduced` (weights .1, .4, 1, positives kept .1, .4; two candidates a loss): about four hours on two
cores. `--grid full` has six weights, five shares of each class and five candidates: days.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from ctr_models.interactions.presets import dcn_v2
from ctr_models.layers import MLPConfig
from ctr_models.losses import (
    BCEConfig,
    ClickLossConfig,
    JRCConfig,
    ListwiseConfig,
    PairwiseConfig,
    RegressionCompatibleConfig,
    ShiftedFocalConfig,
    effective_positive_rate,
    negative_gradient_stats,
)
from ctr_models.model import CTRModel
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig, ClickBatches
from llm_rec.ctr.evaluation import click_logits
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.ctr.subsample import SubsampleConfig
from llm_rec.data.columns import ClickLog
from llm_rec.experiment import Record
from llm_rec.metrics.calibration import calibration, equal_frequency_buckets, sigmoid
from llm_rec.metrics.classification import log_loss
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log, subsampled
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    run_clicks,
    write_click_results,
)
from llm_rec.recipes.click_tuning import choose_rows
from llm_rec.recipes.tables import grid_options, selected
from llm_rec.training.trainer import Precision

Knob = Literal["weight", "positives", "negatives"]
METRICS = (
    *("positive_rate", "alpha", "gamma", "auc", "log_loss", "weighted_log_loss", "bucket_bias"),
    *("negative_gradient", "positive_gradient"),
)
COLUMNS = ("data", "level")
BCE = "BCE"
GRIDS: dict[str, dict[Knob, tuple[float, ...]]] = {
    "reduced": {"weight": (0.1, 0.4, 1.0), "positives": (0.1, 0.4), "negatives": ()},
    "full": {
        "weight": (0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
        "positives": (0.1, 0.2, 0.4, 0.6, 0.8),
        "negatives": (0.1, 0.3, 0.5, 0.7, 0.9),
    },
}
ALPHAS = {"reduced": (0.5, 0.9), "full": (0.1, 0.3, 0.5, 0.7, 0.9)}
GAMMAS = {"reduced": (2.0, 6.0), "full": (1.0, 2.0, 4.0, 6.0, 9.0)}
MIXED: dict[str, Callable[[float, float], ClickLossConfig]] = {
    "Combined-Pair": lambda alpha, weight: PairwiseConfig(alpha=alpha, pos_weight=weight),
    "Combined-List": lambda alpha, weight: ListwiseConfig(alpha=alpha, pos_weight=weight),
    "RCR": lambda alpha, weight: RegressionCompatibleConfig(alpha=alpha, pos_weight=weight),
    "JRC": lambda alpha, weight: JRCConfig(alpha=alpha, pos_weight=weight),
}
FOCAL = "shifted focal"
LOSSES = (BCE, FOCAL, *MIXED)


@dataclass(frozen=True, slots=True)
class Level:
    """One position of one knob."""

    knob: Knob
    value: float

    @property
    def pos_weight(self) -> float:
        """Weight of positives in the loss."""
        return self.value if self.knob == "weight" else 1.0

    @property
    def mass(self) -> float:
        """What the knob does to the odds of a positive: the weight of test positives that undoes the shift."""
        return 1 / self.value if self.knob == "negatives" else self.value

    @property
    def name(self) -> str:
        return f"{self.knob} {self.value}"


@dataclass(frozen=True, slots=True)
class NegativeGradients:
    """Mean |dL/ds| over negatives and over positives of `batches` train batches, at the model's weights."""

    loss: ClickLossConfig
    batch_size: int
    batches: int = 20

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        source = ClickBatches(log, "train", ClickBatchConfig(batch_size=self.batch_size, drop_last=False))
        sums = torch.zeros(2, dtype=torch.float64)
        number = min(self.batches, len(source))
        model.eval()
        with torch.no_grad():
            for batch in islice(source.epoch(1), number):
                found = negative_gradient_stats(model(batch), batch.labels[:, 0], self.loss)
                sums += torch.stack([found.mean, found.positive_mean]).double()
        names = ("negative_gradient", "positive_gradient")
        means = (sums / number).tolist()
        return [Record(name, mean, {"slice": "all"}) for name, mean in zip(names, means, strict=True)]


@dataclass(frozen=True, slots=True)
class WeightedFigures:
    """Log loss and bias by bucket of the test rows when positives weigh `mass`; the effective rate of positives in
    training (`rate`), and the chosen mixing weight.
    """

    loss: ClickLossConfig
    mass: float
    rate: float
    buckets: int = 45

    def __call__(self, model: CTRModel, log: ClickLog) -> list[Record]:
        columns = log.part("test")
        labels = np.asarray(columns.labels[:, 0]) >= 0.5
        logits = click_logits(model, self.loss, columns)
        weights = np.where(labels, self.mass, 1.0)
        buckets = equal_frequency_buckets(logits, self.buckets)
        bias = np.abs(calibration(sigmoid(logits), labels, buckets, weights).bias)
        figures = {"positive_rate": self.rate, "weighted_log_loss": log_loss(logits, labels, weights)}
        if isinstance(self.loss, ShiftedFocalConfig):
            figures["gamma"] = self.loss.gamma
        elif not isinstance(self.loss, BCEConfig):
            figures["alpha"] = self.loss.alpha
        if np.isfinite(bias).any():
            figures["bucket_bias"] = float(np.nanmean(bias))
        return [Record(name, value, {"slice": "all"}) for name, value in figures.items()]


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 2
    asked = selected(LOSSES, args.rows)
    names = [name for name in LOSSES if name in asked]
    groups: dict[str, dict[str, ClickRow]] = {}
    for data in args.data:
        log = click_log(data, args.out / "logs", InteractionRowsConfig(last=args.last), quick=args.quick)
        for level in levels(args):
            for name in names:
                groups[f"{name}, {data.name}, {level.name}"] = candidates(name, data.name, log, level, args)
    rows = choose_rows(args.out, groups, seeds=args.seeds, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    results = run_clicks(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    base = {place(row): row.full_name for row in rows if row.name == BCE}
    pairs = [(row.full_name, base[place(row)]) for row in rows if row.name != BCE and place(row) in base]
    text = write_click_results(
        args.out, results, title="Ranking losses by sparsity", metrics=METRICS, columns=COLUMNS, pairs=pairs
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/ranking_loss", seeds=3, data=False)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of click data sets")
    parser.add_argument("--grid", choices=sorted(GRIDS), default="reduced", help="how many levels and candidates")
    parser.add_argument(
        "--knobs", nargs="+", choices=list(GRIDS["full"]), help="only these knobs (default: the grid's)"
    )
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16", help="of training")
    parser.add_argument("--last", type=int, default=20, help="events of a user of MovieLens that are rows")
    return parser


def levels(args: argparse.Namespace) -> Iterator[Level]:
    """Knobs and their positions; the quick run takes the sparsest of each and the plain one."""
    for knob, values in GRIDS[args.grid].items():
        if args.knobs is None or knob in args.knobs:
            kept = tuple(dict.fromkeys((values[0], *(v for v in values[-1:] if v == 1.0)))) if values else ()
            yield from (Level(knob, value) for value in (kept if args.quick else values))


def candidates(name: str, data: str, log: Path, level: Level, args: argparse.Namespace) -> dict[str, ClickRow]:
    """The settings of one loss at one level."""
    used = log if level.knob == "weight" else subsampled(log, args.out / "logs", share(level))
    rate = effective_positive_rate(positive_rate(log), level.mass)
    rows = {}
    for setting, loss in settings(name, level.pos_weight, args.grid).items():
        measures = (NegativeGradients(loss, args.batch_size), WeightedFigures(loss, level.mass, rate))
        columns: dict[str, Plain] = {"data": data, "level": level.name}
        rows[setting] = ClickRow(
            name=name, method=method(loss, args), log=used, seeds=1, columns=columns, measures=measures
        )
    return rows


def share(level: Level) -> SubsampleConfig:
    if level.knob == "positives":
        return SubsampleConfig(positives=level.value)
    return SubsampleConfig(negatives=level.value)


def settings(name: str, weight: float, grid: str) -> dict[str, ClickLossConfig]:
    """What to choose among, by its name in the table."""
    if name == BCE:
        return {"plain": BCEConfig(pos_weight=weight)}
    if name == FOCAL:
        return {f"gamma {gamma}": ShiftedFocalConfig(gamma=gamma, pos_weight=weight) for gamma in GAMMAS[grid]}
    return {f"alpha {alpha}": MIXED[name](alpha, weight) for alpha in ALPHAS[grid]}


def method(loss: ClickLossConfig, args: argparse.Namespace) -> ClickMethodConfig:
    """The paper's setting."""
    hidden = MLPConfig(widths=(500, 500, 500), dropout=0.1)
    found = ClickMethodConfig(
        model=dcn_v2(dim=10, num_layers=3, hidden=hidden),
        loss=loss,
        embedding_l2=1e-5,
        batches=ClickBatchConfig(batch_size=args.batch_size),
    )
    trainer = replace(found.trainer, precision=args.precision)
    return replace(found, trainer=trainer if args.epochs is None else replace(trainer, epochs=args.epochs))


def positive_rate(log: Path) -> float:
    return float(np.mean(ClickLog.load(log).part("train").labels[:, 0]))


def place(row: ClickRow) -> tuple[str, ...]:
    """Data set and level."""
    return tuple(str(row.columns[name]) for name in COLUMNS)


if __name__ == "__main__":
    sys.exit(main())
