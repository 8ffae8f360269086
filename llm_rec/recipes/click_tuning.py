"""Choosing among settings of a row by validation: one seed each, then all seeds of the best."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from llm_rec.artifacts import write_json
from llm_rec.codec import Plain
from llm_rec.errors import ConfigError
from llm_rec.experiment import CellResult
from llm_rec.recipes.click_tables import ClickRow, run_clicks

Candidates = Mapping[str, ClickRow]  # settings of one row, by what tells them apart ("dropout 0.4")


def choose_rows(
    out: Path,
    groups: Mapping[str, Candidates],
    *,
    seeds: int,
    jobs: int = 1,
    quick: bool = False,
    ledger: Path | None = None,
) -> list[ClickRow]:
    """The best candidate of every group by the validation figure of seed 0 (the first of equals), with `seeds` seeds.

    The choice and all that was tried are written to ``tuning.json``. Cells of the tuning are cells of the table: seed 0
    of the chosen is not trained again. A group of one is not tuned. `ConfigError` when no candidate could be trained.
    """
    tried = [(group, label, row) for group, rows in groups.items() if len(rows) > 1 for label, row in rows.items()]
    results = run_clicks(out, [replace(row, seeds=1) for _, _, row in tried], jobs=jobs, quick=quick, ledger=ledger)
    chosen = {group: next(iter(rows)) for group, rows in groups.items() if len(rows) == 1}
    best: dict[str, float] = {}
    report: list[Plain] = []
    for (group, label, _), result in zip(tried, results, strict=True):
        value = validation_of(result)
        report.append({"row": group, "candidate": label, "validation": value})
        if value is not None and value > best.get(group, float("-inf")):
            best[group], chosen[group] = value, label
    summary: dict[str, Plain] = {group: chosen[group] for group in groups if group in chosen}
    write_json(out / "tuning.json", {"seed": 0, "chosen": summary, "tried": report})
    missing = [group for group in groups if group not in chosen]
    if missing:
        raise ConfigError(f"no setting of {missing[0]!r} could be trained; its cells in {out / 'cells'} say why")
    return [replace(rows[chosen[group]], seeds=seeds) for group, rows in groups.items()]


def validation_of(result: CellResult) -> float | None:
    """The best validation figure of a cell, if it was trained."""
    return next((record.value for record in result.records if record.metric == "validation"), None)
