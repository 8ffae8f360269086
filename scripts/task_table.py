"""Models of two tasks on census-income (income above 50k, never married) beside a model for each task alone.

    python scripts/task_table.py --data DATA/census-income --seeds 3 --out out/task_table

Protocol, the same for all rows and our choice: vectors of 8 numbers from N(0, .01^2), numbers in 20 bins, experts (64,)
and towers (32,), as many experts as the preset says, Adam at 1e-3, batches of 1,024, no regularisation, stop after
three epochs without a gain in the mean validation AUC over tasks, weights of the best epoch; a tenth of the train rows
validates. The loss is the sum of the tasks' means. "single task" trains the same Shared-Bottom on a log with that label
alone: its mean and worst are of that task, so they are not tested against others'. ``--published-widths`` adds STEM and
STEM-AL as their authors have them, with experts (512, 512, 512), which takes longer than all else. Public tables
(torch-rechub) use other fields and splits, so their figures are not set beside these.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ctr_models.domains.model import DomainModelConfig
from ctr_models.domains.presets import PRESETS
from ctr_models.embeddings import NormalInit
from llm_rec.ctr.batches import ClickBatchConfig
from llm_rec.ctr.domain_method import DomainMethodConfig
from llm_rec.recipes.click_logs import TASKS, task_log
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
    "shared_bottom": "Shared-Bottom", "omoe": "OMoE", "mmoe": "MMoE", "ple": "PLE", "stem": "STEM",
    "stem_al": "STEM-AL", "ame": "AME", "me_mmoe": "ME-MMoE", "me_ple": "ME-PLE", "hetero_moe": "HeteroMoE",
}  # fmt: skip
WIDE = ("stem", "stem_al")
QUICK = ("single task: income", "Shared-Bottom", "MMoE")
METRICS = (
    *("macro_auc", "worst_auc", "macro_log_loss", "parameters", "updates", "rows_per_second"),
    *("expert_correlation", "effective_experts"),
)
SINGLE, BASELINE = "single task", "Shared-Bottom"


def main() -> int:
    args = options().parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, args.epochs or 1
    rows = select_domains(list(table_rows(args)), args.rows or (QUICK if args.quick else ()))
    results = run_domains(args.out, rows, jobs=args.jobs, quick=args.quick, ledger=args.ledger)
    text = write_click_results(
        args.out,
        results,
        title="Two tasks of census-income",
        metrics=METRICS,
        columns=(),
        pairs=[(row.name, BASELINE) for row in rows if row.name != BASELINE and not row.name.startswith(SINGLE)],
        tested=TESTED,
        notes=[by_domain(results)],
    )
    print(text)
    return click_exit_status(results)


def options() -> argparse.ArgumentParser:
    parser = grid_options(__doc__.splitlines()[0], out="out/task_table", seeds=3)
    parser.add_argument("--published-widths", action="store_true", help="STEM at its authors' widths as well")
    return parser


def table_rows(args: argparse.Namespace) -> Iterator[DomainRow]:
    """A model for each task, then all models of both."""
    logs = args.out / "logs"
    for task in TASKS:
        log = task_log(args.data, logs, (task,), quick=args.quick)
        yield row(f"{SINGLE}: {task}", method(by_task(PRESETS["shared_bottom"]()), args.epochs), log, args.seeds)
    log = task_log(args.data, logs, quick=args.quick)
    for name, title in TITLES.items():
        yield row(title, method(by_task(at_equal_widths(PRESETS[name]())), args.epochs), log, args.seeds)
    for name in WIDE if args.published_widths else ():
        yield row(f"{TITLES[name]}, wide", method(by_task(PRESETS[name]()), args.epochs), log, args.seeds)


def row(name: str, found: DomainMethodConfig, log: Path, seeds: int) -> DomainRow:
    return DomainRow(name=name, method=found, log=log, seeds=seeds, measures=(ExpertFigures(),))


def by_task(model: DomainModelConfig) -> DomainModelConfig:
    return replace(model, by="task", heads="own")


def method(model: DomainModelConfig, epochs: int | None) -> DomainMethodConfig:
    """The protocol of all rows."""
    trainer = TrainerConfig(
        epochs=epochs or 30, learning_rate=1e-3, optimizer="adam", monitor="macro_auc", patience=3, device="cpu"
    )
    return DomainMethodConfig(
        model=replace(model, dim=8),
        init=NormalInit(std=0.01),
        batches=ClickBatchConfig(batch_size=1024),
        trainer=trainer,
    )


if __name__ == "__main__":
    sys.exit(main())
