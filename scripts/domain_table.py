"""Models of several domains: AUC and GAUC by domain, their mean, the worst; D-Train's phases; Crocodile's parts.

    python scripts/domain_table.py --seeds 3 --out out/domain_table
    python scripts/domain_table.py --domains DATA/amazon2014-beauty DATA/amazon2014-sports --ages DATA/ml-1m --out ...

Every model of `ctr_models.domains.presets` meets a planted world of three domains, whose tail has a fiftieth of the
head's rows and its signs turned; validation and test have as many rows of every domain. Six models meet data: several
folders of items and interactions as domains (`--domains`: users are shared, the last events of a user in a folder are
test and validation, a negative is of its positive's folder), and MovieLens by age of the user (`--ages`).

Protocol, the same for all rows and our choice: vectors of 16 numbers from N(0, .01^2), experts (64,), towers (32,),
SDEM's too (its authors take 512 x 3), Adam at 1e-3, batches of 1,024, no regularisation, stop after three epochs
without a gain in the mean validation AUC over domains, weights of the best epoch. The loss is the mean over the batch,
for Crocodile the sum of means by domain, as its paper has it, and also the mean over the batch ("sample"). Crocodile is
a reconstruction; so is D-Train's schedule.

The rows of phases ("MMoE: 1+2+3") are over four backbones. "joint + all weights" trains a copy of the joint model for
each domain, "separate" starts each from nothing. Phases stop early on their own, so updates differ: they are in the
table, and no claim is at equal updates unless they agree. Means hide the worst domain: both are always shown. Pooled
AUC mixes base rates.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ctr_models.domains.crocodile import CrocodileConfig
from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.presets import PRESETS
from ctr_models.embeddings import NormalInit
from llm_rec.codec import Plain
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.d_train import PHASE_GRID
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.ctr.domain_task import Weighting
from llm_rec.ctr.planted_domains import PlantedDomainsConfig, planted_domains, write_domains
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log, folders_log
from llm_rec.recipes.click_tables import click_exit_status, write_click_results
from llm_rec.recipes.domain_tables import (
    TESTED,
    DomainRow,
    ExpertFigures,
    at_equal_widths,
    by_domain,
    run_domains,
    select_domains,
)
from llm_rec.recipes.tables import grid_options
from llm_rec.training.trainer import TrainerConfig

TITLES = {
    "shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE", "ple": "PLE", "star": "STAR", "pepnet": "PEPNet",
    "adasparse": "AdaSparse", "hinet": "HiNet", "scenario_hmoe": "ScenarioHMoE", "sdem": "SDEM", "me_mmoe": "ME-MMoE",
    "me_ple": "ME-PLE",
    "crocodile": "Crocodile", "hetero_moe": "HeteroMoE",
}  # fmt: skip
CORE = ("shared_bottom", "mmoe", "ple", "star", "pepnet", "crocodile")
BACKBONES = ("shared_bottom", "mmoe", "star", "pepnet")
SHARED = "one shared tower"
QUICK = (SHARED, "Shared-Bottom", "Crocodile", "Crocodile: without covariance", "Shared-Bottom: 1+2+3")
METRICS = (
    *("macro_auc", "worst_auc", "weighted_auc", "macro_gauc", "worst_gauc", "macro_log_loss", "pooled_auc"),
    *("parameters", "updates", "rows_per_second", "expert_correlation", "expert_deviation", "effective_experts"),
    *("abundance_tail", "abundance_tail_over_initial"),
)
COLUMNS = ("data",)


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 1
    rows = [*planted_rows(args), *data_rows(args)]
    rows = select_domains(rows, args.rows or (QUICK if args.quick else ()))
    results = run_domains(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    text = write_click_results(
        args.out,
        results,
        title="Models of several domains",
        metrics=METRICS,
        columns=COLUMNS,
        pairs=list(pairs(rows)),
        tested=TESTED,
        notes=[by_domain(results, COLUMNS)],
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/domain_table", seeds=3, data=False)
    parser.add_argument("--domains", type=Path, nargs="+", default=[], help="folders of items and interactions")
    parser.add_argument("--pieces", nargs="*", default=["brand_and_categories"], help="list columns of all their items")
    parser.add_argument("--ages", type=Path, help="folder of MovieLens with users.parquet")
    return parser


def planted_rows(args: argparse.Namespace) -> Iterator[DomainRow]:
    """All models, ablations and phases on the planted world."""
    world = PlantedDomainsConfig(rows=2_000, evaluation_rows=200) if args.quick else PlantedDomainsConfig(rows=60_000)
    place = args.out / "logs" / f"planted-{world.rows}"
    log = place / "log"
    if not log.exists():
        write_domains(planted_domains(world), place)

    def row(name: str, model: DomainModelConfig, weighting: Weighting = "sample", plan: str | None = None) -> DomainRow:
        found = method(model, args.epochs, weighting)
        found = found if plan is None else replace(found, d_train=PHASE_GRID[plan])
        return named(name, found, log, args.seeds, "planted")

    yield row(SHARED, replace(PRESETS["shared_bottom"](), heads="root"))
    for name, title in TITLES.items():
        yield row(title, at_equal_widths(PRESETS[name]()), "domain_sum" if name == "crocodile" else "sample")
    yield row("Crocodile: sample", PRESETS["crocodile"]())
    for title, body in crocodile_parts().items():
        yield row(f"Crocodile: {title}", replace(PRESETS["crocodile"](), body=body), "domain_sum")
    for name in BACKBONES:
        for plan in PHASE_GRID:
            yield row(f"{TITLES[name]}: {plan}", PRESETS[name](), plan=plan)


def crocodile_parts() -> dict[str, CrocodileConfig]:
    """Crocodile with each of its parts off."""
    return {
        "without tables": CrocodileConfig(use_me=False),
        "without covariance": CrocodileConfig(decorrelation=None),
        "without prior gate": CrocodileConfig(use_peg=False),
        "one weight an expert": CrocodileConfig(elementwise=False),
        "nothing": CrocodileConfig(use_me=False, decorrelation=None, use_peg=False),
    }


def data_rows(args: argparse.Namespace) -> Iterator[DomainRow]:
    """The core models on data."""
    logs = {}
    if args.domains:
        name = "+".join(folder.name for folder in args.domains)
        logs[name] = folders_log(args.domains, args.out / "logs", args.pieces, quick=args.quick)
    if args.ages is not None:
        config = InteractionRowsConfig(domain="age")
        logs[f"{args.ages.name} by age"] = click_log(args.ages, args.out / "logs", config, quick=args.quick)
    for data, log in logs.items():
        yield named(
            SHARED, method(replace(PRESETS["shared_bottom"](), heads="root"), args.epochs), log, args.seeds, data
        )
        for name in CORE:
            weighting: Weighting = "domain_sum" if name == "crocodile" else "sample"
            yield named(TITLES[name], method(PRESETS[name](), args.epochs, weighting), log, args.seeds, data)


def named(name: str, found: DomainMethodConfig, log: Path, seeds: int, data: str) -> DomainRow:
    columns: dict[str, Plain] = {"data": data}
    return DomainRow(name=name, method=found, log=log, seeds=seeds, columns=columns, measures=(ExpertFigures(),))


def method(model: DomainModelConfig, epochs: int | None, weighting: Weighting = "sample") -> DomainMethodConfig:
    """The protocol of all rows."""
    trainer = TrainerConfig(
        epochs=epochs or 30, learning_rate=1e-3, optimizer="adam", monitor="macro_auc", patience=3, device="cpu"
    )
    return DomainMethodConfig(
        model=model,
        weighting=weighting,
        init=NormalInit(std=0.01),
        batches=ClickBatchConfig(batch_size=1024),
        trainer=trainer,
    )


def pairs(rows: Sequence[DomainRow]) -> Iterator[tuple[str, str]]:
    """Models against one shared tower, parts of Crocodile against the whole, phases against joint training."""
    known = {(row.name, row.columns["data"]): row.full_name for row in rows}
    for row in rows:
        model, _, rest = row.name.partition(": ")
        base = SHARED if not rest else f"{model}: joint" if rest in PHASE_GRID else model
        found = known.get((base, row.columns["data"]))
        if found is not None and found != row.full_name:
            yield row.full_name, found


if __name__ == "__main__":
    sys.exit(main())
