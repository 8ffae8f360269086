"""Runs of click models side by side: table, paired tests on the same rows, and calibration by bucket."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctr_models.losses import BCEConfig, ClickLossConfig, CrossEntropyConfig, ShiftedFocalConfig
from llm_rec.codec import kind_of
from llm_rec.errors import ConfigError
from llm_rec.metrics.calibration import calibration, equal_frequency_buckets, sigmoid
from llm_rec.metrics.click_intervals import compare_clicks
from llm_rec.metrics.domains import is_domain_slice
from llm_rec.recipes.click_runs import ScoredRows, load_logits, read_click_settings
from llm_rec.recipes.domain_runs import read_domain_settings
from llm_rec.recipes.runs import run_task
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.html import CalibrationCurve, Page
from llm_rec.report.report import HEADLINE, Comparison, NamedDifference

TESTED = ("auc", "log_loss")
SHOWN = ("auc", "gauc", "log_loss", "ece", "predicted_over_actual")
BUCKETS = 45  # arXiv 2403.14144


def click_differences(place: Workspace, names: Sequence[str], baseline: str) -> tuple[NamedDifference, ...]:
    """Paired tests of every run against the baseline on the headline slices, and on domains or tasks; `ConfigError` for
    other rows.
    """
    rows = _same_rows(place, names)
    base = rows[baseline]
    shown = {name: mask for name, mask in base.slices.items() if name in HEADLINE or is_domain_slice(name)}
    found = []
    for name in names:
        if name != baseline:
            pairs = compare_clicks(base.logits, rows[name].logits, base.labels, shown, base.groups, metrics=TESTED)
            found += [NamedDifference(a=baseline, b=name, difference=pair) for pair in pairs]
    return tuple(found)


def click_page(place: Workspace, names: Sequence[str], baseline: str, comparison: Comparison) -> Page:
    """The page of click runs: figures by slice, learning curves, calibration."""
    rows = _same_rows(place, names)
    first = rows[baseline]
    buckets = equal_frequency_buckets(first.logits, BUCKETS)
    ordered = [baseline, *(name for name in names if name != baseline)]
    curves = [
        CalibrationCurve(
            model=name,
            loss=_loss_of(place.run(name)),
            bias=calibration(sigmoid(rows[name].logits), rows[name].labels, buckets).bias,
        )
        for name in ordered
    ]
    many = "click models" if len(names) > 1 else "click model"
    part = "test" if "test" in comparison.reports[0].metrics else "validation"
    return Page(
        title=f"{len(names)} {many} on {len(first.labels):,} rows",
        summary="How well click probabilities rank, and whether they are true; rare and unseen values are apart.",
        comparison=comparison,
        part=part,
        metrics=SHOWN if first.groups is not None else tuple(name for name in SHOWN if name != "gauc"),
        curves="macro_auc" if any(run_task(place.run(name)) == "domains" for name in names) else "auc",
        calibration=tuple(curves),
    )


def _loss_of(folder: Path) -> str:
    """What a run was trained with, and what shifts its calibration."""
    if run_task(folder) == "domains":
        method = read_domain_settings(folder).method
        return f"bce, {'sum of tasks' if method.model.by == 'task' else method.weighting}"
    return loss_text(read_click_settings(folder).method.loss)


def loss_text(loss: ClickLossConfig) -> str:
    """A loss with what shifts its calibration.

    >>> loss_text(BCEConfig())
    'bce, pos_weight 1'
    """
    name = kind_of(type(loss))
    if isinstance(loss, BCEConfig | CrossEntropyConfig | ShiftedFocalConfig):
        return f"{name}, pos_weight {loss.pos_weight:g}"
    return f"{name}, alpha {loss.alpha:g}, pos_weight {loss.pos_weight:g}"


def _same_rows(place: Workspace, names: Sequence[str]) -> dict[str, ScoredRows]:
    rows = {name: load_logits(place.run(name)) for name in names}
    first = names[0]
    for name in names[1:]:
        if not np.array_equal(rows[first].labels, rows[name].labels):
            raise ConfigError(f"{name} and {first} were evaluated on different rows; train both on the same click log")
    return rows
