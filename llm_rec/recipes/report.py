"""``llm-rec report``: several runs in one table and one self-contained page, with paired tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llm_rec.errors import ConfigError
from llm_rec.metrics.significance import compare
from llm_rec.recipes.click_report import click_differences, click_page
from llm_rec.recipes.console import say
from llm_rec.recipes.page import page_of
from llm_rec.recipes.recipe import Recipe
from llm_rec.recipes.runs import load_targets
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.html import write_page
from llm_rec.report.report import HEADLINE, UNORDERED, Comparison, NamedDifference, Report, slice_title

TESTED = ("recall@10", "ndcg@10")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportJob:
    """Put runs of a workspace side by side."""

    workspace: Path = Path("workspace")
    """Folder that all verbs share."""
    names: tuple[str, ...] = ()
    """Which runs, in the order of the table; all by default."""
    baseline: str | None = None
    """The run that the others are tested against; by default sasrec where it is there, else the first."""
    out: Path | None = None
    """Folder for report.json and report.html; workspace/report by default."""


def run(job: ReportJob) -> Comparison:
    """Write ``report.json`` and ``report.html`` and print the table and the paired tests."""
    place = Workspace(job.workspace)
    names = job.names or tuple(sorted(path.parent.name for path in (place.root / "runs").glob("*/report.json")))
    if not names:
        raise ConfigError(f"{place.root / 'runs'} holds no evaluated run; train one with `llm-rec train`")
    baseline = job.baseline or ("sasrec" if "sasrec" in names else names[0])
    return compare_runs(place, names, baseline, job.out or place.root / "report")


def compare_runs(place: Workspace, names: Sequence[str], baseline: str, out: Path) -> Comparison:
    """The comparison of runs, written to `out` and printed."""
    if baseline not in names:
        raise ConfigError(f"the baseline {baseline!r} is not among the runs {', '.join(names)}")
    comparison = Comparison(reports=tuple(Report.load(place.run(name)) for name in names))
    clicks = comparison.task == "clicks"
    tests = click_differences(place, names, baseline) if clicks else _differences(place, names, baseline)
    comparison = replace(comparison, differences=tests)
    comparison.save(out)
    shown = click_page(place, names, baseline, comparison) if clicks else page_of(place, names, comparison)
    page = write_page(out / "report.html", shown)
    metrics = tuple(name for name in shown.metrics if name not in UNORDERED)
    say(comparison.table(metrics, part=shown.part, intervals=False))
    for named in comparison.differences:
        found = named.difference
        if found.metric == ("auc" if clicks else TESTED[-1]):
            say(
                f"{named.b} - {named.a}, {slice_title(found.slice)}, {found.metric}: {found.difference:+.4f} "
                f"[{found.low:+.4f}, {found.high:+.4f}], p = {found.p_value:.4f} (Holm {found.p_holm:.4f})"
            )
    say(f"page: {page}")
    return comparison


def _differences(place: Workspace, names: Sequence[str], baseline: str) -> tuple[NamedDifference, ...]:
    """Paired tests of every run against the baseline on the headline slices."""
    base, slices = load_targets(place.run(baseline))
    shown = {name: slices[name] for name in HEADLINE if name in slices}
    tested = {name: base[name] for name in TESTED if name in base}
    found = []
    for name in names:
        if name != baseline:
            other, _ = load_targets(place.run(name))
            pairs = compare(tested, {metric: other[metric] for metric in tested}, shown)
            found += [NamedDifference(a=baseline, b=name, difference=pair) for pair in pairs]
    return tuple(found)


RECIPE = Recipe(
    verb="report",
    description="Compare runs of a workspace in one table and one self-contained page, with paired tests.",
    job=ReportJob,
    presets={"default": ReportJob()},
    run=run,
)
