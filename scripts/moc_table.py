"""Semantic codes as features of click models: Mixture-of-Codes (arXiv 2410.09560) beside what one would try first.

    python scripts/moc_table.py --data DATA/amazon2014-beauty --scales 1 2 3 7 --seeds 3

A reconstruction from the published description: the authors' code is not public, and codebook size, widths, fields,
optimiser and the fourth backbone are not established, so all numbers here are our choice. Rows at scale N have N
semantic fields of width `--dim` and N * K * dim downstream parameters (K = `--codebook-size`; tables of codes have a
row of padding more, fusions and the gate their own few):

    no semantic      user and item ids alone
    dense-N          N linear maps of the K principal components of the text vectors
    ME-N             N tables for the one code of a one-book quantiser; with the fusion of MoC too
    RQ-N             N residual levels (RQ-VAE) on the same autoencoder and fit as MoC
    PQ-N             N blocks, k-means each
    MoC-N            N parallel books; also with its bottleneck gate as fusion, and with PAD's frequency gate between
                     the item's id and the codes (arXiv 2412.04107), a combination that no paper tests
    random-N         N hashes: capacity without meaning

At scale 1, ME, RQ and MoC are one model, bit for bit, and one row.

Protocol: strict leave-one-out; every event is a positive with one negative drawn uniformly from the items that its user
never touched; an id for every catalog item; early stopping on validation AUC. Such a log asks which item a user takes
among random ones, not what is clicked when shown. Slices are by the item's train positives; "lt5" are the cold items.
Each seed fits its own quantisers. The paper shows steps of about 0.1 % AUC on one seed: read standard deviations and
tests. DCNv2 runs at all scales, the other backbones at 1 and 3 (xDeepFM is our fourth): 82 rows, an estimated three
hours for three seeds on two free cores.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ctr_models.embeddings import NormalInit
from ctr_models.interactions.attention import AutoIntConfig
from ctr_models.interactions.module_presets import autoint_plus
from ctr_models.interactions.presets import dcn_v2, deepfm, xdeepfm
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModelConfig
from llm_rec.artifacts import write_bytes
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.item_fields import ItemFieldsConfig
from llm_rec.ctr.log_rows import ITEM, LABEL, LogRowsConfig
from llm_rec.ctr.method import ClickMethodConfig
from llm_rec.experiment import (
    TEST_COLUMNS,
    CellResult,
    Comparison,
    compare,
    comparison_cells,
    markdown,
    markdown_lines,
    table,
    write_table,
)
from llm_rec.frequency_gate import BucketGateConfig
from llm_rec.recipes.click_tables import (
    ClickRow,
    ItemSource,
    click_exit_status,
    run_clicks,
    select_clicks,
)
from llm_rec.recipes.semantic_tables import (
    SPECTRUM,
    SemanticData,
    codes_path,
    prepare_semantics,
    relative_rows,
    run_codes,
    spectrum_records,
)
from llm_rec.recipes.tables import ENCODERS, grid_options
from llm_rec.training.trainer import TrainerConfig
from semantic_ids.fusion import GateFusionConfig, NoFusionConfig
from semantic_ids.quantizers import (
    FitConfig,
    MixtureOfCodesConfig,
    PQConfig,
    QuantizerConfig,
    RandomConfig,
    RQVAEConfig,
)

HIDDEN = MLPConfig(widths=(128, 64), dropout=0.1)
ALL_SCALES, OTHERS_AT = "DCNv2", (1, 3)
NONE, ONE = "no semantic", "ME-1 = RQ-1 = MoC-1"
FIRST = {"ME": "VQ", "RQ": "VQ", "MoC": "VQ", "ME, gate": "MoC, gate"}  # what scales of a method begin from
SLICES = ("all", "unseen", "lt5", "lt10", "warm")
INFORMATION = ("plug_in", "corrected", "low", "high", "held_out", "control", "novelty", "novelty_held_out")
BOUNDS = ("label_entropy", "item_plug_in", "item_corrected", "item_held_out")
HEALTH = ("collision_rate", "neighbour_overlap", "nmi_mean", "nmi_largest", "nmi_chance")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What all rows share. `embedding_l2` was chosen for MoC-3 (DCNv2) on Beauty by validation AUC of one seed: .747 at
    1e-4, .769 at 1e-3, .780 at 3e-3, .789 at 1e-2; without semantic fields .710, .720 and .724 (1e-4, 1e-3, 1e-2).
    """

    dim: int = 16
    codebook_size: int = 256
    epochs: int = 30
    embedding_l2: float = 1e-2
    fit: FitConfig | None = None

    def quantizers(self, scales: Sequence[int]) -> dict[str, QuantizerConfig]:
        """By name; at one book RQ-VAE is MoC, whose encoder and fit it has at every scale."""
        found: dict[str, QuantizerConfig] = {}
        for scale in scales:
            moc = MixtureOfCodesConfig(num_codebooks=scale, codebook_size=self.codebook_size)
            moc = moc if self.fit is None else replace(moc, fit=self.fit)
            residual = RQVAEConfig(
                num_codebooks=scale, codebook_size=self.codebook_size, autoencoder=moc.autoencoder, fit=moc.fit
            )
            found[f"moc-{scale}"] = moc
            if scale > 1:
                found[f"rq-{scale}"] = residual
            found[f"pq-{scale}"] = PQConfig(num_codebooks=scale, codebook_size=self.codebook_size)
            found[f"random-{scale}"] = RandomConfig(num_codebooks=scale, codebook_size=self.codebook_size)
        return found

    def backbones(self) -> dict[str, CTRModelConfig]:
        attention = AutoIntConfig(num_layers=2, attention_dim=32)
        return {
            ALL_SCALES: dcn_v2(dim=self.dim, num_layers=3, hidden=HIDDEN),
            "DeepFM": deepfm(dim=self.dim, hidden=HIDDEN),
            "AutoInt+": autoint_plus(dim=self.dim, attention=attention, hidden=HIDDEN),
            "xDeepFM": xdeepfm(dim=self.dim, hidden=HIDDEN),
        }

    def method(self, model: CTRModelConfig, fields: ItemFieldsConfig | None) -> ClickMethodConfig:
        return ClickMethodConfig(
            model=model,
            item_fields=fields,
            init=NormalInit(std=0.01),
            embedding_l2=self.embedding_l2,
            batches=ClickBatchConfig(batch_size=1024),
            trainer=TrainerConfig(
                epochs=self.epochs, learning_rate=1e-3, optimizer="adam", monitor="auc", patience=2, schedule="plateau"
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Semantics:
    """One semantic representation at one scale: its name, its family, its fields, and the codes they read."""

    name: str
    method: str
    fields: ItemFieldsConfig | None = None
    codes: str | None = None


def main() -> int:
    args = options().parse_args()
    setup = Setup(dim=args.dim, codebook_size=args.codebook_size, epochs=args.epochs or 30)
    if args.quick:
        args.seeds, args.scales, args.backbones = 1, args.scales[:2], args.backbones[:1]
        setup = replace(setup, epochs=args.epochs or 2, fit=FitConfig(steps=100, warmup_steps=20, learning_rate=1e-3))
    encoder = ENCODERS[args.encoder]
    data = prepare_semantics(
        args.data, args.out, encoder, LogRowsConfig(item_ids="catalog"), adapter_dim=setup.codebook_size
    )
    quantizers = setup.quantizers(sorted({1, *args.scales}))
    codes = run_codes(args.out, data.log, quantizers, seeds=args.seeds, jobs=args.jobs, quick=args.quick)
    if click_exit_status(codes):
        return 1
    grid = table_rows(setup, data, args)
    rows = select_clicks(list(grid), args.rows)
    results = run_clicks(
        args.out, rows, measures=[spectrum_records], jobs=args.jobs, quick=args.quick, ledger=args.ledger
    )
    print(write_results(args.out, results, codes, title=f"Semantic codes as click features on {args.data.name}"))
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/moc_table", seeds=3)
    names = list(Setup().backbones())
    parser.add_argument("--scales", nargs="+", type=int, default=[1, 2, 3, 7], help="numbers of fields N")
    parser.add_argument("--backbones", nargs="+", choices=names, default=names, help="only these (default: all)")
    parser.add_argument("--encoder", choices=sorted(ENCODERS), default="sentence", help="what embeds the item texts")
    parser.add_argument("--dim", type=int, default=16, help="width of a field (default: 16)")
    parser.add_argument("--codebook-size", type=int, default=256, help="codes a book (default: 256)")
    return parser


def table_rows(setup: Setup, data: SemanticData, args: argparse.Namespace) -> Iterator[ClickRow]:
    quantizers = setup.quantizers(sorted({1, *args.scales}))
    seeds = range(args.seeds)
    for backbone, model in setup.backbones().items():
        if backbone not in args.backbones:
            continue
        kept = [scale for scale in args.scales if backbone == ALL_SCALES or scale in OTHERS_AT]
        grid = [(0, Semantics(name=NONE, method=NONE)), *((scale, found) for scale in kept for found in at(scale))]
        for scale, semantics in grid:
            paths = None
            if semantics.codes is not None:
                quantizer = quantizers[semantics.codes]
                paths = tuple(codes_path(args.out, semantics.codes, quantizer, seed) for seed in seeds)
            yield ClickRow(
                name=f"{backbone}: {semantics.name}",
                method=setup.method(model, semantics.fields),
                log=data.log,
                seeds=args.seeds,
                columns={"backbone": backbone, "method": semantics.method, "scale": scale},
                items=None if semantics.fields is None else ItemSource(codes=paths, embeddings=data.adapter),
                slice_label=LABEL,
                slice_field=ITEM,
            )


def at(scale: int) -> Iterator[Semantics]:
    """All representations of `scale` fields."""
    off, gated = ItemFieldsConfig(fusion=NoFusionConfig()), ItemFieldsConfig(fusion=GateFusionConfig())
    moc = f"MoC-{scale}"
    yield Semantics(
        name=f"dense-{scale}", method="dense", fields=ItemFieldsConfig(texts=True, text_fields=scale), codes=None
    )
    if scale == 1:
        yield Semantics(name=ONE, method="VQ", fields=off, codes="moc-1")
    else:
        for name, fusion in (("ME", off), ("ME, gate", gated)):
            shown = name.replace("ME", f"ME-{scale}")
            fields = replace(fusion, code_copies=scale)
            yield Semantics(name=shown, method=name, fields=fields, codes="moc-1")
        yield Semantics(name=f"RQ-{scale}", method="RQ", fields=off, codes=f"rq-{scale}")
        yield Semantics(name=moc, method="MoC", fields=off, codes=f"moc-{scale}")
    yield Semantics(name=f"{moc}, gate", method="MoC, gate", fields=gated, codes=f"moc-{scale}")
    frequency = replace(off, gate=BucketGateConfig())
    yield Semantics(name=f"{moc}, frequency gate", method="MoC, frequency gate", fields=frequency, codes=f"moc-{scale}")
    yield Semantics(name=f"PQ-{scale}", method="PQ", fields=off, codes=f"pq-{scale}")
    yield Semantics(name=f"random-{scale}", method="random", fields=off, codes=f"random-{scale}")


def write_results(out: Path, results: Sequence[CellResult], codes: Sequence[CellResult], *, title: str) -> str:
    """Write ``table.json`` (all figures), ``codes.json``, ``tests.json`` and ``table.md``; returns the last."""
    rows, code_rows = table(results), table(codes)
    spectra = [*rows, *relative_rows(rows, FIRST)]
    tests = compare(overall(results), pairs(results), ("auc",))
    write_table(out / "table.json", spectra, tests)
    write_table(out / "codes.json", code_rows)
    shown = [row for row in rows if row.columns.get("slice") in SLICES]
    relative = [f"{metric} / 1x" for metric in SPECTRUM]
    parts = [
        f"# {title}",
        markdown(shown, ["auc", "log_loss", "rows"], ["slice"]),
        "## Tests on AUC, all rows",
        markdown_tests(tests),
        "## Discriminability of the first n books, in nats (ME: that of its one book)",
        markdown(code_rows, INFORMATION, ["books"]),
        "## Bounds, collisions, and what pairs of books share",
        markdown([row for row in code_rows if row.metric in BOUNDS], BOUNDS, ["books"]),
        markdown([row for row in code_rows if row.metric in HEALTH], HEALTH, ["books"]),
        "## Dimension robustness of the trained representation",
        markdown([row for row in spectra if row.columns.get("slice") == "all"], ["width", *SPECTRUM, *relative]),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_bytes(out / "table.md", text.encode())
    return text


def overall(results: Sequence[CellResult]) -> list[CellResult]:
    """Only the figures of all rows, so that Holm's correction counts no test that nobody asked for."""
    return [replace(result, records=[r for r in result.records if r.columns == {"slice": "all"}]) for result in results]


def pairs(results: Sequence[CellResult]) -> list[tuple[str, str]]:
    """MoC against everything else at its backbone and scale, and what gates add to it."""
    known = {result.cell.model for result in results}
    found = []
    for backbone, scale in dict.fromkeys((r.cell.setting["backbone"], r.cell.setting["scale"]) for r in results):
        moc = ONE if scale == 1 else f"MoC-{scale}"
        others = [NONE, *(f"{name}-{scale}" for name in ("ME", "RQ", "PQ", "dense", "random"))]
        wanted = [(moc, other) for other in others]
        wanted += [(f"MoC-{scale}, {gate}", moc) for gate in ("gate", "frequency gate")]
        found += [(f"{backbone}: {model}", f"{backbone}: {other}") for model, other in wanted]
    return [pair for pair in found if known.issuperset(pair)]


def markdown_tests(tests: Sequence[Comparison]) -> str:
    """Paired over seeds; `*`: fewer than five."""
    head = ["model", "against", *TEST_COLUMNS]
    body = [[test.model, test.baseline, *comparison_cells(test, digits=5)] for test in tests]
    return markdown_lines(head, body) if tests else ""


if __name__ == "__main__":
    sys.exit(main())
