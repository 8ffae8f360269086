"""What a run found: one JSON file that other programs read, and tables for people.

``report.json`` of one run (`Report`, format version 1):

| key | value |
|---|---|
| ``kind``, ``format_version``, ``library_version``, ``created`` | ``"report"``, 1, text, ISO 8601 time in UTC |
| ``name`` | the model's name in tables |
| ``task`` | ``"ranking"`` (targets are held-out events) or ``"clicks"`` (targets are rows of a click log) |
| ``metrics.<part>.<slice>.<metric>`` | number; part is ``validation`` or ``test``, slice as in `metrics.slices` |
| ``intervals.<part>.<slice>.<metric>`` | ``[low, high]``: 95 % percentile bootstrap over the slice's targets |
| ``counts.<part>.<slice>`` | targets in the slice; a slice with 0 targets has no metrics |
| ``config`` | the effective settings |
| ``fingerprints`` | artefact name -> fingerprint (catalog, interactions, embeddings, codes, ...) |
| ``seeds``, ``timings`` | name -> integer; name -> seconds |
| ``history`` | one record per epoch: ``epoch`` and whatever was logged, numbers only |

``report.json`` of several runs on the same targets (`Comparison`) has ``kind`` ``"comparison"``, ``reports`` (a list of
the above) and ``differences`` (paired tests: ``a``, ``b``, ``difference`` with the fields of
`metrics.significance.Difference`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.table import Table

import llm_rec
from llm_rec.artifacts import read_json, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.metrics.significance import Difference
from llm_rec.metrics.summary import SliceSummary

REPORT = "report.json"
FORMAT_VERSION = 1
SLICE_TITLES = {
    "all": "overall",
    "unseen": "unseen in train",
    "among_unseen": "unseen among unseen",
    "1-4": "1-4 train events",
    "lt5": "under 5",
    "lt10": "cold (under 10)",
    "warm": "warm (10 and more)",
    "pooled": "all domains pooled",
    "macro": "mean of domains or tasks",
    "weighted": "mean of domains or tasks by rows",
    "worst": "worst domain or task",
}
METRIC_TITLES = {
    "recall": "Recall",
    "ndcg": "NDCG",
    "hit": "Hit rate",
    "mrr": "MRR",
    "auc": "AUC",
    "gauc": "GAUC",
    "log_loss": "log loss",
    "ece": "ECE",
    "predicted_over_actual": "predicted / actual",
}
LOWER_IS_BETTER = ("log_loss", "ece")
UNORDERED = ("predicted_over_actual",)  # best at 1: no cell of it is highlighted
RunTask = Literal["ranking", "clicks"]
TARGETS: dict[RunTask, str] = {"ranking": "targets", "clicks": "rows"}
HEADLINE = ("all", "unseen", "lt10", "warm", "macro", "worst", "pooled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One model on one split. See the module's table for the file it becomes."""

    name: str
    metrics: dict[str, dict[str, dict[str, float]]]
    intervals: dict[str, dict[str, dict[str, tuple[float, float]]]]
    counts: dict[str, dict[str, int]]
    config: dict[str, Plain] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    history: tuple[dict[str, float], ...] = ()
    task: RunTask = "ranking"
    format_version: int = FORMAT_VERSION
    library_version: str = llm_rec.__version__
    created: str = ""

    @classmethod
    def of(
        cls,
        name: str,
        summaries: Mapping[str, Mapping[str, SliceSummary]],
        *,
        config: Mapping[str, Plain] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        seeds: Mapping[str, int] | None = None,
        timings: Mapping[str, float] | None = None,
        history: Sequence[Mapping[str, float]] = (),
        task: RunTask = "ranking",
    ) -> "Report":
        """A report from the slice summaries of each part (``{"test": summarise(...)}``)."""
        return cls(
            name=name,
            metrics={part: {s: dict(v.mean) for s, v in found.items()} for part, found in summaries.items()},
            intervals={
                part: {s: {m: (v.low[m], v.high[m]) for m in v.mean if m in v.low} for s, v in found.items()}
                for part, found in summaries.items()
            },
            counts={part: {s: v.count for s, v in found.items()} for part, found in summaries.items()},
            config=dict(config or {}),
            fingerprints=dict(fingerprints or {}),
            seeds=dict(seeds or {}),
            timings=dict(timings or {}),
            history=tuple({key: float(value) for key, value in record.items()} for record in history),
            task=task,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def save(self, folder: Path) -> Path:
        """Write ``report.json`` into the folder, atomically; an older one is replaced."""
        return _write(Path(folder), _report_plain(self))

    @classmethod
    def load(cls, path: Path) -> "Report":
        """Read a report from its folder or file; `ArtifactError` when it is something else."""
        return _report_from(*_read(Path(path), "report"))

    def table(self, metrics: Sequence[str] = ("recall@10", "ndcg@10"), *, part: str = "test") -> Table:
        """Rows are slices with their number of targets; cells are the mean and its interval."""
        found = _part(self, part)
        table = Table(title=f"{self.name}, {part}", title_justify="left")
        table.add_column("slice")
        table.add_column(TARGETS[self.task], justify="right")
        for metric in metrics:
            table.add_column(metric, justify="right")
        for name in found:
            cells = [cell(self, part, name, metric) for metric in metrics]
            table.add_row(slice_title(name), f"{self.counts[part][name]:,}", *cells)
        return table


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedDifference:
    """A paired test between two of a comparison's models."""

    a: str
    b: str
    difference: Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Several models on the same targets.

    Raises `ConfigError` unless names are different and all have the same targets per slice: a table over different
    targets would compare nothing.
    """

    reports: tuple[Report, ...]
    differences: tuple[NamedDifference, ...] = ()

    def __post_init__(self) -> None:
        names = [report.name for report in self.reports]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a comparison needs reports with different names, got {names}")
        first = self.reports[0]
        for report in self.reports[1:]:
            if report.task != first.task:
                raise ConfigError(
                    f"{first.name} is a {first.task} run and {report.name} a {report.task} run: their figures do not "
                    "compare; report runs of one kind"
                )
            if report.counts != first.counts:
                raise ConfigError(
                    f"{report.name} and {first.name} were evaluated on different targets "
                    f"({_first_unequal(report, first)}); evaluate both on the same split and slices"
                )

    def save(self, folder: Path) -> Path:
        """Write ``report.json`` into the folder, atomically; an older one is replaced."""
        reports: list[Plain] = [_report_plain(report) for report in self.reports]
        plain: dict[str, Plain] = {"kind": "comparison", "format_version": FORMAT_VERSION, "reports": reports}
        return _write(Path(folder), {**plain, "differences": to_plain(self.differences)})

    @classmethod
    def load(cls, path: Path) -> "Comparison":
        """Read a comparison from its folder or file; `ArtifactError` when it is something else."""
        plain, where = _read(Path(path), "comparison")
        reports, differences = plain.get("reports"), plain.get("differences", [])
        if not isinstance(reports, list) or not isinstance(differences, list):
            raise ArtifactError(f"{where}: reports and differences must be lists; the file is damaged")
        try:
            return cls(
                reports=tuple(_report_from(report, where) for report in reports if isinstance(report, dict)),
                differences=tuple(from_plain(NamedDifference, item, "differences") for item in differences),
            )
        except ConfigError as error:
            raise ArtifactError(f"{where}: {error}") from error

    def table(
        self,
        metrics: Sequence[str] = ("recall@10", "ndcg@10"),
        *,
        slices: Sequence[str] = HEADLINE,
        part: str = "test",
        intervals: bool = True,
    ) -> Table:
        """Rows are models; one column per slice and metric, with targets in its head; the best of a column is bold."""
        table = Table(title=self._title(part), title_justify="left")
        table.add_column("model")
        shown = [name for name in slices if name in _part(self.reports[0], part)]
        columns = [(name, metric) for name in shown for metric in metrics]
        for name, metric in columns:
            table.add_column(
                f"{slice_title(name)}\n{metric}\nn={self.reports[0].counts[part][name]:,}", justify="right"
            )
        for report in self.reports:
            cells = []
            for name, metric in columns:
                text = cell(report, part, name, metric, interval=intervals)
                cells.append(f"[bold]{text}[/bold]" if self.is_best(report, part, name, metric) else text)
            table.add_row(report.name, *cells)
        return table

    def is_best(self, report: Report, part: str, name: str, metric: str) -> bool:
        """Whether no other model has a better mean here (several may share the place); never among zeros."""
        found = [r.metrics.get(part, {}).get(name, {}).get(metric) for r in self.reports]
        values = [value for value in found if value is not None]
        own = report.metrics.get(part, {}).get(name, {}).get(metric, 0.0)
        if len(self.reports) < 2 or own <= 0 or metric in UNORDERED:
            return False
        return own == (min(values) if metric in LOWER_IS_BETTER else max(values))

    @property
    def task(self) -> RunTask:
        """What all runs were trained for."""
        return self.reports[0].task

    def _title(self, part: str) -> str:
        return f"{part} targets, full ranking" if self.task == "ranking" else f"{part} rows of one click log"


def _first_unequal(a: Report, b: Report) -> str:
    """Where the targets of two reports begin to differ."""
    ours, theirs = ({(p, s): n for p, found in r.counts.items() for s, n in found.items()} for r in (a, b))
    for part, name in {**theirs, **ours}:
        counts = [counted[part, name] for counted in (ours, theirs) if (part, name) in counted]
        if len(counts) == 1:
            return f"only {(a if (part, name) in ours else b).name} has the slice {name!r} of {part}"
        if counts[0] != counts[1]:
            return f"slice {name!r} of {part}: {counts[0]:,} and {counts[1]:,}"
    return "one has a part without slices"


def slice_title(name: str) -> str:
    """The name of a slice as people say it.

    >>> slice_title("bucket_3"), slice_title("lt5")
    ('bucket 3', 'under 5')
    """
    return SLICE_TITLES.get(name, name.replace("_", " "))


def metric_title(name: str) -> str:
    """The name of a metric as papers write it.

    >>> metric_title("ndcg@10"), metric_title("hit@5"), metric_title("loss")
    ('NDCG@10', 'Hit rate@5', 'loss')
    """
    base, at, k = name.partition("@")
    return METRIC_TITLES.get(base, base) + at + k


def number(value: float) -> str:
    """Four decimals without the leading zero.

    >>> number(0.09214), number(1.0)
    ('.0921', '1.0000')
    """
    return f"{value:.4f}".removeprefix("0") if value >= 0 else "-" + number(-value)


def cell(report: Report, part: str, name: str, metric: str, *, interval: bool = True) -> str:
    """Mean and interval of one metric on one slice as text; a dash where the slice is empty."""
    value = report.metrics.get(part, {}).get(name, {}).get(metric)
    if value is None:
        return "-"
    ends = report.intervals.get(part, {}).get(name, {}).get(metric)
    return number(value) if ends is None or not interval else f"{number(value)} ({number(ends[0])}-{number(ends[1])})"


def _part(report: Report, part: str) -> dict[str, dict[str, float]]:
    if part not in report.metrics:
        raise ConfigError(f"{report.name} has no part {part!r}; it has {', '.join(report.metrics) or 'none'}")
    return report.metrics[part]


def _report_plain(report: Report) -> dict[str, Plain]:
    plain = to_plain(report)
    if not isinstance(plain, dict):
        raise ConfigError(f"a report must become a JSON object, got {plain!r}")
    return {"kind": "report", **plain}


def _report_from(plain: dict[str, Plain], where: Path) -> Report:
    try:
        return from_plain(Report, {key: value for key, value in plain.items() if key != "kind"})
    except ConfigError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _write(folder: Path, plain: Plain) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / REPORT, plain)
    return folder / REPORT


def _read(path: Path, kind: str) -> tuple[dict[str, Plain], Path]:
    path = path / REPORT if path.is_dir() else path
    if not path.is_file():
        raise ArtifactError(f"{path}: no {kind} here; evaluate a run first, or name the folder that holds {REPORT}")
    plain = read_json(path)
    if not isinstance(plain, dict) or plain.get("kind") != kind:
        found = plain.get("kind") if isinstance(plain, dict) else type(plain).__name__
        raise ArtifactError(f"{path} holds a {found}, not a {kind}")
    version = plain.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, this library reads up to {FORMAT_VERSION}; upgrade llm-rec"
        )
    return plain, path
