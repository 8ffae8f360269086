"""``report.html``: one self-contained page about one or several models. No script, no font, no request to anywhere.

Everything that comes from data (model names, item titles, settings) is escaped, and a content security policy forbids
the page to load or run anything, so a hostile catalog stays text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from llm_rec.analysis.codes import perplexity
from llm_rec.artifacts import write_bytes
from llm_rec.codec import to_plain
from llm_rec.report import svg
from llm_rec.report.report import HEADLINE, TARGETS, Comparison, Report, cell, metric_title, number, slice_title
from llm_rec.report.theme import STYLE

_MAP_POINTS = 3000  # more dots only hide each other


@dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddingMap:
    """Items on a plane (`analysis.spectrum.principal_plane`), their first code, and their titles for hovering."""

    points: Float[np.ndarray, "items 2"]
    codes: Int64[np.ndarray, "items"]
    titles: Sequence[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class GateWeights:
    """Mean weight of every expert per frequency bucket in one model (`analysis.gates.gate_by_bucket`)."""

    model: str
    experts: Sequence[str]
    weights: Float[np.ndarray, "number experts"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeUsage:
    """Items per code of every book of one quantizer (`analysis.codes.code_usage`)."""

    quantizer: str
    books: Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationCurve:
    """Bias of one click model by bucket of the prediction (`metrics.calibration`), and what its loss was."""

    model: str
    loss: str
    bias: Float[np.ndarray, "buckets"]  # NaN where a bucket has no click


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """What the page shows; figures without data are left out."""

    title: str
    summary: str
    comparison: Comparison
    part: str = "test"
    metrics: tuple[str, ...] = ("recall@10", "ndcg@10")
    curves: str = "ndcg@10"  # the key of the history records that the learning curves show
    embedding_map: EmbeddingMap | None = None
    gates: tuple[GateWeights, ...] = ()
    code_usage: tuple[CodeUsage, ...] = ()
    calibration: tuple[CalibrationCurve, ...] = ()


def write_page(path: Path, page: Page) -> Path:
    """Write the page atomically and return its path."""
    write_bytes(Path(path), render(page).encode())
    return Path(path)


def render(page: Page) -> str:
    """The page as text."""
    first = page.comparison.reports[0]
    figures = [
        *(bucket_figure(page, metric) for metric in page.metrics),
        learning_figure(page),
        calibration_figure(page.calibration),
        *(gate_figure(gate) for gate in page.gates),
        map_figure(page.embedding_map) if page.embedding_map else "",
        *(usage_figure(usage) for usage in page.code_usage),
    ]
    body = [
        "<header><p class=kicker>llm-rec report</p>",
        f"<h1>{escape(page.title)}</h1><p class=lead>{escape(page.summary)}</p></header>",
        _headline(page),
        f"<h2>Figures</h2><div class=figures>{''.join(figures)}</div>",
        _differences(page),
        _every_slice(page),
        _provenance(page),
        f"<footer>Made by llm-rec {escape(first.library_version)}"
        f"{', ' + escape(first.created) if first.created else ''}. "
        "This page loads nothing and runs no script.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(page.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def bucket_figure(page: Page, metric: str) -> str:
    """The metric of every model by the frequency bucket of the target item."""
    reports = page.comparison.reports
    counts = reports[0].counts.get(page.part, {})
    buckets = [name for name in counts if name.startswith("bucket_")]
    if not buckets:
        return ""
    series = [svg.Series(r.name, _bucket_marks(r, page.part, buckets, metric)) for r in reports]
    top = max((mark.high or mark.y for one in series for mark in one.marks), default=0.0)
    frame = svg.Frame(x=(0.5, len(buckets) + 0.5), y=(0.0, (top or 1.0) * 1.04))
    labels = [(float(index), str(index)) for index in range(1, len(buckets) + 1)]
    parts = svg.axes(
        frame, x_labels=labels, x_title="frequent items  ←  bucket  →  rare items", y_title=metric_title(metric)
    )
    spread = min(5.0, 26.0 / len(series))
    for index, one in enumerate(series):
        parts.append(svg.line_series(frame, one, index, offset=(index - (len(series) - 1) / 2) * spread))
    text = (
        f"{metric_title(metric)} by how often the target item occurs in training; bucket 1 holds the most frequent "
        f"items, bucket {len(buckets)} the rarest and unseen ones. Bars are 95 % bootstrap intervals."
    )
    picture = svg.chart(parts, label=f"{metric_title(metric)} of {len(series)} models by frequency bucket")
    return _figure(f"{metric_title(metric)} by item frequency", text, svg.legend([r.name for r in reports]) + picture)


def learning_figure(page: Page) -> str:
    """Validation metric per epoch of every model that logged it."""
    runs = [(i, r, _curve(r, page.curves)) for i, r in enumerate(page.comparison.reports)]
    runs = [(i, r, marks) for i, r, marks in runs if marks]
    if not runs:
        return ""
    values = [mark.y for _, _, marks in runs for mark in marks]
    epochs = [mark.x for _, _, marks in runs for mark in marks]
    low, high = min(values), max(values)
    room = (high - low or abs(high) or 1.0) * 0.06
    frame = svg.Frame(
        x=(min(epochs), max(max(epochs), min(epochs) + 1)), y=(max(low - room, min(0.0, low)), high + room)
    )
    labels = [(value, svg.short(value)) for value in svg.ticks(*frame.x, about=6) if value == int(value)]
    parts = svg.axes(frame, x_labels=labels, x_title="epoch", y_title=metric_title(page.curves))
    for index, report, marks in runs:
        best = max(range(len(marks)), key=lambda i, found=marks: found[i].y)  # type: ignore[misc]
        parts.append(svg.line_series(frame, svg.Series(report.name, marks, emphasis=best), index))
    text = (
        f"{metric_title(page.curves)} on validation {TARGETS[page.comparison.task]} after each epoch; the large mark "
        "is each model's best epoch, whose weights were kept."
    )
    picture = svg.chart(parts, label=f"learning curves of {len(runs)} models")
    return _figure("Learning curves", text, svg.legend([r.name for r in page.comparison.reports]) + picture)


def calibration_figure(curves: Sequence[CalibrationCurve]) -> str:
    """Bias by bucket of every click model: 0 is a true probability, above it clicks are promised that do not come."""
    shown = [curve for curve in curves if np.isfinite(curve.bias).any()]
    if not shown:
        return ""
    values = np.concatenate([curve.bias[np.isfinite(curve.bias)] for curve in shown])
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    room = (high - low or 1.0) * 0.06
    buckets = max(len(curve.bias) for curve in shown)
    frame = svg.Frame(x=(0.5, buckets + 0.5), y=(low - room, high + room))
    labels = [(tick, svg.short(tick)) for tick in svg.ticks(1.0, float(buckets), about=8) if tick == int(tick) and tick]
    parts = svg.axes(frame, x_labels=labels, x_title="bucket of the prediction, low to high", y_title="bias")
    parts.append(svg.rule(frame, frame.at_y(0.0)))
    for index, curve in enumerate(shown):
        marks = tuple(
            svg.Mark(float(i), float(bias), title=f"{curve.model}, bucket {i}: bias {_signed(float(bias))}")
            for i, bias in enumerate(curve.bias, start=1)
            if np.isfinite(bias)
        )
        parts.append(svg.line_series(frame, svg.Series(curve.model, marks), index))
    losses = "; ".join(f"{curve.model}: {curve.loss}" for curve in shown)
    text = (
        "(predicted - actual) / actual clicks in buckets of equally many rows, cut by the first model's predictions; "
        f"0 is true on average. A pos_weight other than 1 shifts predictions by design. Losses: {losses}."
    )
    picture = svg.chart(parts, label=f"calibration of {len(shown)} models by bucket of the prediction")
    return _figure("Calibration", text, svg.legend([curve.model for curve in shown]) + picture)


def gate_figure(gate: GateWeights) -> str:
    """Stacked gate weights per bucket."""
    rows = [[0.0 if np.isnan(share) else float(share) for share in row] for row in gate.weights]
    titles = [
        [f"bucket {bucket}, {expert}: {share:.1%}" for expert, share in zip(gate.experts, row, strict=True)]
        for bucket, row in enumerate(rows, start=1)
    ]
    frame = svg.Frame(x=(0.5, len(rows) + 0.5), y=(0.0, 1.0), left=60.0)
    labels = [(float(index), str(index)) for index in range(1, len(rows) + 1)]
    parts = svg.axes(
        frame, x_labels=labels, x_title="frequent items  ←  bucket  →  rare items", y_title="mean weight", percent=True
    )
    parts.append(svg.stacked_columns(frame, rows, titles))
    text = "How much the gate trusts each expert, by the frequency bucket of the item that is scored."
    names = ", ".join(gate.experts)
    picture = svg.chart(parts, label=f"gate weights of {gate.model}'s experts {names} by frequency bucket")
    return _figure(f"Gate weights, {gate.model}", text, svg.legend(list(gate.experts)) + picture)


def map_figure(items: EmbeddingMap) -> str:
    """Items on their two principal directions, coloured by the eight most used first codes."""
    shown = np.unique(np.linspace(0, len(items.points) - 1, min(len(items.points), _MAP_POINTS)).astype(np.int64))
    codes, counts = np.unique(items.codes, return_counts=True)
    common = codes[np.argsort(-counts, kind="stable")][: svg.COLOURS].tolist()
    colour = {code: index for index, code in enumerate(common)}
    points = [
        (
            float(items.points[i, 0]),
            float(items.points[i, 1]),
            colour.get(int(items.codes[i])),
            f"{items.titles[i]} (code {items.codes[i]})",
        )
        for i in shown
    ]
    low, high = np.quantile(items.points, [0.002, 0.998], axis=0)
    inside = [p for p in points if low[0] <= p[0] <= high[0] and low[1] <= p[1] <= high[1]]
    (west, south), (east, north) = low.tolist(), high.tolist()
    frame = svg.Frame(x=(west, east), y=(south, north), height=330.0, left=22.0, bottom=24.0)
    middle = 'text-anchor="middle"'
    axis_titles = [
        f'<text class="axis" x="{svg.WIDTH / 2:g}" y="326" {middle}>first principal direction</text>',
        f'<text class="axis" transform="translate(11 165) rotate(-90)" {middle}>second principal direction</text>',
    ]
    text = (
        f"{len(inside):,} of {len(items.points):,} item embeddings on their two principal directions; colours are the "
        f"{len(common)} most used of {len(codes)} first codes, grey dots have another code. Hover for the item."
    )
    picture = svg.chart([*axis_titles, svg.dots(frame, inside)], label="map of item embeddings", height=330.0)
    return _figure("Embedding map", text, _dot_legend(common) + picture)


def usage_figure(usage: CodeUsage) -> str:
    """Items per code, most used first, one small panel per book."""
    panel, parts = 92.0, []
    height = panel * len(usage.books) + 24
    for book, counts in enumerate(usage.books):
        ordered, top = np.sort(counts)[::-1], panel * book + 20
        peak = float(max(ordered.max(initial=0), 1))
        frame = svg.Frame(x=(0.0, float(len(ordered))), y=(0.0, peak), height=top + panel - 32, top=top, bottom=0.0)
        base, edge, words = frame.at_y(0.0), frame.left - 6, _usage_text(book, counts)
        parts += [
            f'<text class="tick" x="{frame.left:g}" y="{top - 6:.1f}">{escape(words)}</text>',
            svg.rule(frame, base),
            f"<g>{svg.hover(words)}{svg.histogram(frame, ordered.astype(float).tolist(), 0)}</g>",
            f'<text class="tick" x="{edge:g}" y="{top + 9:.1f}" text-anchor="end">{svg.short(peak)}</text>',
            f'<text class="tick" x="{edge:g}" y="{base + 1:.1f}" text-anchor="end">0</text>',
        ]
    middle = svg.WIDTH / 2
    parts.append(
        f'<text class="axis" x="{middle:g}" y="{height - 6:g}" text-anchor="middle">codes, most used first</text>'
    )
    text = "Items per code in every codebook; a flat shape uses the whole book, a cliff means dead codes."
    picture = svg.chart(parts, label=f"code usage of {usage.quantizer}", height=float(height))
    return _figure(f"Code usage, {usage.quantizer}", text, picture)


def _usage_text(book: int, counts: np.ndarray) -> str:
    used = int(np.count_nonzero(counts))
    return f"book {book + 1}: {used} of {len(counts)} codes used, perplexity {perplexity(counts):.0f}"


def _figure(title: str, text: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><p>{escape(text)}</p>{content}</figure>"


def _dot_legend(codes: Sequence[int]) -> str:
    styles = [*((f"s{index}", f"code {code}") for index, code in enumerate(codes)), ("rest", "other")]
    items = "".join(f"<li>{svg.key(0, style)}{text}</li>" for style, text in styles)
    return f'<ul class="legend">{items}</ul>'


def _bucket_marks(report: Report, part: str, buckets: Sequence[str], metric: str) -> tuple[svg.Mark, ...]:
    marks = []
    for index, name in enumerate(buckets, start=1):
        value = report.metrics[part].get(name, {}).get(metric)
        if value is None:
            continue
        low, high = report.intervals.get(part, {}).get(name, {}).get(metric, (value, value))
        targets = report.counts[part][name]
        text = (
            f"{report.name}, bucket {index} ({targets:,} targets): "
            f"{metric_title(metric)} {number(value)} ({number(low)} to {number(high)})"
        )
        marks.append(svg.Mark(float(index), value, low, high, text))
    return tuple(marks)


def _curve(report: Report, key: str) -> tuple[svg.Mark, ...]:
    records = [record for record in report.history if key in record]
    return tuple(
        svg.Mark(epoch, record[key], title=f"{report.name}, epoch {epoch:g}: {metric_title(key)} {number(record[key])}")
        for epoch, record in ((record.get("epoch", float(i)), record) for i, record in enumerate(records, start=1))
    )


def _headline(page: Page) -> str:
    counts = page.comparison.reports[0].counts.get(page.part, {})
    names = [name for name in HEADLINE if name in counts]
    note = {
        "ranking": "Every target is ranked against the whole catalog. Small figures are 95 % bootstrap intervals over "
        "targets; the best mean of a column is highlighted.",
        "clicks": "Rows of a click log that training did not see. Small figures are 95 % bootstrap intervals over "
        "groups of rows (users) where rows have groups, else over rows; the best figure of a column is highlighted.",
    }[page.comparison.task]
    return f"<h2>Warm and cold at a glance</h2><p class=note>{note}</p>{_table(page, names, 'Main results')}"


def _table(page: Page, names: Sequence[str], caption: str) -> str:
    comparison, part = page.comparison, page.part
    counts = comparison.reports[0].counts.get(part, {})
    groups = "".join(
        f"<th class=group scope=colgroup colspan={len(page.metrics)}>{escape(slice_title(name))}"
        f"<small>{counts[name]:,} {TARGETS[comparison.task]}</small></th>"
        for name in names
    )
    heads = "".join(f"<th scope=col>{escape(metric_title(metric))}</th>" for _ in names for metric in page.metrics)
    rows = []
    for report in comparison.reports:
        cells = "".join(_cell(comparison, report, part, name, metric) for name in names for metric in page.metrics)
        rows.append(f"<tr><th scope=row>{escape(report.name)}</th>{cells}</tr>")
    return (
        f"<div class=scroll><table><caption>{escape(caption)}</caption><thead><tr><th scope=col rowspan=2>model</th>"
        f"{groups}</tr><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(comparison: Comparison, report: Report, part: str, name: str, metric: str) -> str:
    best = " class=best" if comparison.is_best(report, part, name, metric) else ""
    ends = report.intervals.get(part, {}).get(name, {}).get(metric)
    small = f"<small>{number(ends[0])} – {number(ends[1])}</small>" if ends else ""
    return f"<td{best}>{cell(report, part, name, metric, interval=False)}{small}</td>"


def _differences(page: Page) -> str:
    if not page.comparison.differences:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(item.b)} against {escape(item.a)}</th><td>{escape(slice_title(d.slice))}</td>"
        f"<td>{escape(metric_title(d.metric))}</td><td>{d.count:,}</td><td>{_signed(d.difference)}"
        f"<small>{_signed(d.low)} to {_signed(d.high)}</small></td><td>{_p(d.p_value)}</td><td>{_p(d.p_holm)}</td></tr>"
        for item in page.comparison.differences
        for d in (item.difference,)
    )
    heads = "".join(
        f"<th scope=col>{head}</th>"
        for head in ("slice", "metric", TARGETS[page.comparison.task], "difference", "p", "p (Holm)")
    )
    test = {
        "ranking": "Sign-flip permutation tests on the same targets",
        "clicks": "Paired bootstrap on the same rows (whole groups where rows have groups)",
    }[page.comparison.task]
    return (
        f"<h2>Paired tests</h2><p class=note>{test}: they ask whether other "
        "users would have said the same of these two trained models, not whether other seeds would.</p>"
        "<div class=scroll><table><caption>Paired tests</caption><thead><tr>"
        f"<th scope=col>models</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _signed(value: float) -> str:
    return f"+{number(value)}" if value >= 0 else f"\u2212{number(-value)}"


def _p(value: float) -> str:
    return "&lt; .0001" if value < 0.0001 else number(value)


def _every_slice(page: Page) -> str:
    counts = page.comparison.reports[0].counts.get(page.part, {})
    if not counts:
        return ""
    return (
        f"<details><summary>All {len(counts)} slices in numbers</summary>"
        f"{_table(page, list(counts), 'All slices')}<p></p></details>"
    )


def _provenance(page: Page) -> str:
    blocks = []
    for report in page.comparison.reports:
        facts = [
            *((f"seed: {name}", str(value)) for name, value in report.seeds.items()),
            *((f"time: {name}", f"{value:,.1f} s") for name, value in report.timings.items()),
            *((f"fingerprint: {name}", value) for name, value in report.fingerprints.items()),
        ]
        pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
        config = json.dumps(to_plain(report.config), indent=2, ensure_ascii=False)
        blocks.append(
            f"<details><summary>{escape(report.name)}</summary><dl>{pairs}</dl><pre>{escape(config)}</pre></details>"
        )
    note = "Settings, seeds, timings and the fingerprints of every input."
    return f"<h2>Where the numbers come from</h2><p class=note>{note}</p>{''.join(blocks)}"
