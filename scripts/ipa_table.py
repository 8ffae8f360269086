"""Models of feature interaction on one click log, tuned alike: AUC, log loss, parameters, rows per second.

    python scripts/ipa_table.py --data DATA/frappe --seeds 3 --out out/ipa_table

Protocol, the same for all rows: vectors of 10 numbers, an MLP of 400 x 3 with batch normalisation where the model has
one, 4 cross layers, Adam at 1e-3, batches of 4,096, a tenth of the learning rate after each epoch without a gain in
validation AUC, stop after two; tables start at N(0, .01^2), because products of vectors that start at 1e-4 are dead.
Settings of each model are trained with seed 0: embedding L2 and dropout {(.05, 0), (.05, .4), (0, .4)} where it has
dropout; where it has none, embedding L2 {1e-4, .05} from N(0, .01^2) and {0, 1e-4} from N(0, .1^2): the rate is often
gone before products of small vectors have grown, and .05 is too much for FM and its kin. The setting of the highest
validation AUC is trained with the other seeds (``tuning.json`` has all). Matrix products of tuned rows are in bfloat16
(weights, sums and normalisations are not): twice the speed of float32 on a CPU with AMX, and within seed noise of it
for DCNv2; `--precision no` is float32. Grid, initialisation, stopping and precision are our choice, not a paper's. PFL
is a reconstruction: see `ctr_models.interactions.presets.pfl`; FFM has slices of 4 numbers for each partner field,
GwPFM groups the first field, the second, and all others.

"DCNv2 (BARS setting)" is the setting of the public benchmark for Frappe_x1 (tables from N(0, 1e-4^2), L2 .05, dropout
.4), beside the figures it published for its own draw of negatives. The rows "(equal setting)" have vectors of 16
numbers, 3 cross layers, MLP 256-128, no regularisation, gradients cut at norm 10, batches of 2,048, 20 epochs at a
constant rate, and the weights of the best epoch: with `--peers`, FuxiCTR's models of the same names run on the same
encoded rows in an environment of their own. Seeds of a peer are its own; a pair differs by more than its draw of
numbers only if the difference is far from 0 by its standard deviation over seeds.

All of Frappe with three seeds: about three hours on two cores with AMX.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from ctr_models.embeddings import NormalInit
from ctr_models.interactions import module_presets, presets
from ctr_models.interactions.finalnet import FinalBlockConfig, FinalNetConfig
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from llm_rec.artifacts import read_manifest, replacing
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.data.columns import ClickLog
from llm_rec.data.log_spec import PARTS
from llm_rec.experiment import Cell, CellResult, Record, Row, run_grid, run_peer
from llm_rec.recipes.click_logs import click_log
from llm_rec.recipes.click_tables import (
    ClickRow,
    click_exit_status,
    full_name,
    run_clicks,
    write_click_results,
)
from llm_rec.recipes.click_tuning import choose_rows
from llm_rec.recipes.console import say
from llm_rec.recipes.tables import grid_options, selected
from llm_rec.training.trainer import Precision, TrainerConfig

PEERS = Path(__file__).parent / "peers"
PFL = "PFL"
BARS, EQUAL = "DCNv2 (BARS setting)", "equal setting"
QUICK = ("FM", "DNN", "DCNv2", PFL, BARS)
METRICS = ("auc", "log_loss", "parameters", "rows_per_second", "validation")
PUBLISHED = Row(
    model="DCNv2 (BARS, published)",
    columns={"slice": "all"},
    metric="auc",
    mean=0.98382,
    std=0.00043,
    seeds=5,
    exploratory=False,
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What presets are built from: fields of the log, width of a vector, MLP."""

    fields: int
    hidden: MLPConfig
    dim: int = 10

    @property
    def groups(self) -> tuple[int, ...]:
        """The first field (a user), the second (an item), all others (the context)."""
        return tuple(min(field, 2) for field in range(self.fields))


PRESETS: dict[str, Callable[[Shape], CTRModelConfig]] = {
    "LR": lambda s: presets.lr(),
    "FM": lambda s: presets.fm(dim=s.dim),
    "FwFM": lambda s: presets.fwfm(dim=s.dim),
    "FvFM": lambda s: presets.fvfm(dim=s.dim),
    "FmFM": lambda s: presets.fmfm(dim=s.dim),
    "FFM": lambda s: presets.ffm(num_fields=s.fields),
    "HOFM": lambda s: presets.hofm(dim=s.dim),
    "GwPFM": lambda s: presets.gwpfm(s.groups, hidden=s.hidden),
    "DeepIM": lambda s: presets.deepim(dim=s.dim, hidden=s.hidden),
    "AFM": lambda s: module_presets.afm(dim=s.dim),
    "NFM": lambda s: presets.nfm(dim=s.dim, hidden=s.hidden),
    "IPNN": lambda s: presets.ipnn(dim=s.dim, hidden=s.hidden),
    "OPNN": lambda s: presets.opnn(dim=s.dim, hidden=s.hidden),
    "FiBiNET": lambda s: presets.fibinet(dim=s.dim, hidden=s.hidden),
    "CIN": lambda s: presets.cin(dim=s.dim),
    "xDeepFM": lambda s: presets.xdeepfm(dim=s.dim, hidden=s.hidden),
    "CrossNet": lambda s: presets.crossnet(dim=s.dim),
    "DCN": lambda s: presets.dcn(dim=s.dim, hidden=s.hidden),
    "CrossNetV2": lambda s: presets.crossnet_v2(dim=s.dim),
    "DCNv2": lambda s: presets.dcn_v2(dim=s.dim, hidden=s.hidden),
    "CrossNetMix": lambda s: module_presets.crossnet_mix(dim=s.dim),
    "DCN-Mix": lambda s: module_presets.dcn_mix(dim=s.dim, hidden=s.hidden),
    "GDCN": lambda s: presets.gdcn(dim=s.dim, hidden=s.hidden),
    "EDCN": lambda s: module_presets.edcn(dim=s.dim, layers=replace(module_presets.EDCN, dropout=s.hidden.dropout)),
    "xDeepInt": lambda s: module_presets.xdeepint(dim=s.dim),
    "AutoInt": lambda s: module_presets.autoint(dim=s.dim),
    "AutoInt+": lambda s: module_presets.autoint_plus(dim=s.dim, hidden=s.hidden),
    "EulerNet": lambda s: module_presets.eulernet(dim=s.dim),
    "MaskNet": lambda s: module_presets.masknet(
        dim=s.dim, blocks=replace(module_presets.SERIAL_MASKS, dropout=s.hidden.dropout)
    ),
    "MaskNet (parallel)": lambda s: module_presets.masknet_parallel(
        dim=s.dim, blocks=replace(module_presets.PARALLEL_MASKS, dropout=s.hidden.dropout), hidden=s.hidden
    ),
    "FinalMLP": lambda s: module_presets.finalmlp(dim=s.dim, first=s.hidden, second=s.hidden),
    "FinalNet": lambda s: module_presets.finalnet(
        dim=s.dim,
        blocks=FinalNetConfig(
            first=FinalBlockConfig(hidden=s.hidden.widths, batch_norm=s.hidden.batch_norm, dropout=s.hidden.dropout)
        ),
    ),
    "FinalNet (product layer)": lambda s: presets.finalnet_product(dim=s.dim, hidden=s.hidden),
    "DNN": lambda s: presets.dnn(dim=s.dim, hidden=s.hidden),
    "Wide&Deep": lambda s: presets.wide_deep(dim=s.dim, hidden=s.hidden),
    "DeepFM": lambda s: presets.deepfm(dim=s.dim, hidden=s.hidden),
    PFL: lambda s: presets.pfl(dim=s.dim, hidden=s.hidden),
}
EQUAL_MODELS: dict[str, Callable[[Shape], CTRModelConfig]] = {
    "DCNv2": lambda s: presets.dcn_v2(dim=s.dim, num_layers=3, hidden=s.hidden),
    "DeepFM": lambda s: presets.deepfm(dim=s.dim, hidden=s.hidden),
    "FM": lambda s: presets.fm(dim=s.dim),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One setting of the tuning grid."""

    embedding_l2: float
    dropout: float
    start: float = 0.01  # standard deviation of the tables

    @property
    def label(self) -> str:
        return f"embedding_l2 {self.embedding_l2}, dropout {self.dropout}, start {self.start}"


WITH_MLP = tuple(Point(embedding_l2=l2, dropout=dropout) for l2, dropout in ((0.05, 0.0), (0.05, 0.4), (0.0, 0.4)))
WITHOUT_MLP = tuple(
    Point(embedding_l2=l2, dropout=0.0, start=start)
    for l2, start in ((1e-4, 0.01), (0.05, 0.01), (0.0, 0.1), (1e-4, 0.1))
)


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 2
    log = click_log(args.data, args.out / "logs", quick=args.quick)
    fields = len(ClickLog.load(log).schema.fields)
    fixed = list(fixed_rows(log, fields, args))
    names = selected([*PRESETS, *(row.name for row in fixed)], args.rows or (QUICK if args.quick else ()))
    tuned = tuned_rows([name for name in PRESETS if name in names], log, fields, args)
    rows = [*tuned, *(row for row in fixed if row.name in names)]
    results = run_clicks(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    if args.peers:
        results += run_peers(log, [name for name in EQUAL_MODELS if equal(name) in names], args)
    pairs = [(PFL, name) for name in PRESETS if name != PFL]
    pairs += [(equal(name), f"FuxiCTR {equal(name)}") for name in EQUAL_MODELS]
    text = write_click_results(
        args.out,
        results,
        title=f"Feature interaction on {args.data.name}",
        metrics=METRICS,
        pairs=pairs,
        references=published(results),
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/ipa_table", seeds=3)
    parser.add_argument("--precision", choices=get_args(Precision), default="bf16", help="of tuned rows")
    parser.add_argument("--peers", action="store_true", help="run FuxiCTR's models at the equal setting as well")
    parser.add_argument("--peer-cache", type=Path, help="where peers' environments live")
    parser.add_argument("--peer-python", default="python3.11", help="a Python 3.11 or 3.12 for the peers")
    return parser


def method(model: CTRModelConfig, point: Point, args: argparse.Namespace) -> ClickMethodConfig:
    """The protocol of all tuned rows."""
    found = ClickMethodConfig(model=model, embedding_l2=point.embedding_l2, init=NormalInit(std=point.start))
    epochs = found.trainer.epochs if args.epochs is None else args.epochs
    return replace(found, trainer=replace(found.trainer, epochs=epochs, precision=args.precision))


def preset(name: str, fields: int, dropout: float) -> CTRModelConfig:
    return PRESETS[name](Shape(fields, MLPConfig(widths=(400, 400, 400), batch_norm=True, dropout=dropout)))


def grid(name: str, fields: int) -> tuple[Point, ...]:
    """The settings to choose among: dropout is one of them where it changes the model."""
    return WITH_MLP if preset(name, fields, 0.0) != preset(name, fields, 0.4) else WITHOUT_MLP


def tuned_rows(names: Sequence[str], log: Path, fields: int, args: argparse.Namespace) -> list[ClickRow]:
    """The rows of the chosen settings, after the grid was trained with seed 0."""
    groups = {}
    for name in names:
        groups[name] = {
            point.label: ClickRow(
                name=name,
                method=method(preset(name, fields, point.dropout), point, args),
                log=log,
                seeds=1,
            )
            for point in grid(name, fields)
        }
    return choose_rows(args.out, groups, seeds=args.seeds, jobs=args.jobs, quick=args.quick, ledger=args.ledger)


def fixed_rows(log: Path, fields: int, args: argparse.Namespace) -> Iterator[ClickRow]:
    """Rows of one given setting."""
    point = Point(embedding_l2=0.05, dropout=0.4)
    bars = method(preset("DCNv2", fields, point.dropout), point, args)
    bars = replace(bars, init=NormalInit(std=1e-4), trainer=replace(bars.trainer, precision="no"))
    yield ClickRow(name=BARS, method=bars, log=log, seeds=args.seeds)
    shape = Shape(fields, MLPConfig(widths=(256, 128)), dim=16)
    trainer = TrainerConfig(
        epochs=args.epochs or 20, learning_rate=1e-3, optimizer="adam", monitor="auc", clip_norm=10.0
    )
    for name, build in EQUAL_MODELS.items():
        plain = ClickMethodConfig(
            model=build(shape), init=NormalInit(), batches=ClickBatchConfig(batch_size=2048), trainer=trainer
        )
        yield ClickRow(name=equal(name), method=plain, log=log, seeds=args.seeds)


def equal(name: str) -> str:
    return f"{name} ({EQUAL})"


def published(results: Sequence[CellResult]) -> list[Row]:
    """The published figure, where the row that it belongs to is there."""
    return [PUBLISHED] if BARS in {full_name(r.cell.model, {}) for r in results} else []


def run_peers(log: Path, names: Sequence[str], args: argparse.Namespace) -> list[CellResult]:
    """FuxiCTR's models on the same encoded rows, one after another, on one thread as ours."""
    rows = write_rows(log, args.out / "peers" / "rows.npz")
    words = ["--rows", str(rows.resolve()), "--epochs", str(args.epochs or 20)]

    def run(cell: Cell) -> list[Record]:
        model = cell.model.removeprefix("FuxiCTR ").split(" ")[0].lower()
        found = run_peer(
            "fuxictr",
            PEERS / "fuxictr_quality.py",
            PEERS / "requirements-fuxictr.txt",
            [*words, "--model", model, "--seed", str(cell.seed)],
            cache=args.peer_cache,
            python=args.peer_python,
        )
        wanted = ("auc", "log_loss", "validation", "parameters", "rows_per_second")
        return [Record(name, float(str(found[name])), {"slice": "all"}) for name in wanted]

    cells = [Cell(f"FuxiCTR {equal(name)}", {}, seed) for name in names for seed in range(args.seeds)]
    context: dict[str, Plain] = {"log": read_manifest(log).fingerprint, "epochs": args.epochs or 20}
    return run_grid(cells, run, args.out, context=context, report=say_peer)


def write_rows(log: Path, path: Path) -> Path:
    """Ids and labels of every part, and the number of ids of every field, for peers."""
    found = ClickLog.load(log)
    arrays: dict[str, np.ndarray] = {"sizes": np.array([field.size for field in found.schema.id_fields])}
    for part in PARTS:
        columns = found.part(part)
        arrays |= {f"{part}_ids": np.asarray(columns.ids), f"{part}_labels": np.asarray(columns.labels[:, 0])}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def say_peer(result: CellResult) -> None:
    figures = ", ".join(f"{record.metric} {record.value:.5f}" for record in result.records[:2])
    say(f"{result.cell.model}, seed {result.cell.seed}, {result.seconds:.0f} s: {figures or result.error}")


if __name__ == "__main__":
    sys.exit(main())
