"""What sequence models attend to as figures of a page: maps of information and attention, search curves, gradients.

Figures that hold several models at once come first, then the maps of each.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float64

from llm_rec.analysis.attention_gradients import GradientReport
from llm_rec.analysis.discriminability import ClusterInformation
from llm_rec.analysis.sequence_analysis import SequenceAnalysis
from llm_rec.report import svg
from llm_rec.report.heat_map import matrix_map
from llm_rec.report.theme import bare_page

Named = Sequence[tuple[str, SequenceAnalysis]]
_BINS = 24  # columns of a histogram
_POINTS = 400  # of a curve over iterations; more are averaged


def sequence_page(title: str, models: Named) -> str:
    """A self-contained page about several models: no script, no font, no request."""
    shared = [search_figure(models), cluster_figure(models), *gradient_figures(models)]
    figures = "".join(figure for figure in shared if figure)
    sections = "".join(maps_section(name, found) for name, found in models)
    return bare_page(title, f"{figures_table(models)}<div class=figures>{figures}</div>{sections}")


def figures_table(models: Named) -> str:
    """The figures of `SequenceAnalysis.means`, a row each, a column for each model."""
    columns = [found.means() for _, found in models]
    names = list(dict.fromkeys(name for column in columns for name in column))
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name, _ in models)
    rows = []
    for name in names:
        cells = "".join(f"<td>{_number(column[name]) if name in column else ''}</td>" for column in columns)
        rows.append(f"<tr><th scope=row>{escape(name)}</th>{cells}</tr>")
    return (
        f"<div class=scroll><table><thead><tr><th scope=col>figure</th>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def search_figure(models: Named) -> str:
    """NDCG@n of every score that ranks events; a line each."""
    curves = {f"{name}, {by}": found.ndcg for name, one in models for by, found in one.search.items()}
    if not curves:
        return ""
    planted = all(found.planted for _, found in models)
    gain = "planted" if planted else "their mutual information with the click, of train rows"
    rows = max(quality.rows for _, one in models for quality in one.search.values())
    k = max(map(len, curves.values()))
    ideal = f"ideal DCG@{k} for every n" if all(found.denominator == "k" for _, found in models) else "ideal DCG@n"
    text = f"DCG of the first n events found, over the {ideal}; gains are {gain}. {rows:,} rows."
    series = [(name, np.arange(1.0, len(values) + 1), values) for name, values in curves.items()]
    return _lines("Search quality", text, series, x_title="n", y_title="NDCG")


def cluster_figure(models: Named) -> str:
    """Information of clusters of the head's input about clicks, by their number."""
    series = [(name, *_cluster_curve(found.clusters)) for name, found in models]
    text = "Mutual information (nats) of the click and k-means clusters of what the head reads; mean of the seeds."
    return _lines("Discriminability", text, series, x_title="clusters", y_title="nats")


def gradient_figures(models: Named) -> list[str]:
    """Norms of both roles by iteration, cosines over iterations, and conflict by row; of models that were probed."""
    figures = []
    for name, found in models:
        report = found.gradients
        if report is None:
            continue
        norms = (("representation", report.representation_norm), ("attention", report.attention_norm))
        series = [(role, *_thinned(values)) for role, values in norms]
        text = f"Mean norm over touched rows; the representation's is {_number(report.domination)} times as large."
        title = f"Gradients by iteration, {name}"
        figures.append(_lines(title, text, series, x_title="iteration", y_title="norm"))
        figures += _conflict_figures(name, report)
    return figures


def maps_section(name: str, found: SequenceAnalysis) -> str:
    """Truth beside what the model learned: for the target's own category, and for one target's past (CTC)."""
    own, one = found.maps, found.correlation
    target = found.names[one.target]
    rows, behaviours = ([found.names[place] for place in places.tolist()] for places in (own.targets, one.behaviours))
    text = f"Past categories of candidates of category {target}."
    own_text = "Bits that an event of the target's own category has."
    learned = f"Softmax over the map.{_agreement(own.agreement)}", f"|α(e ⊙ v)|.{_agreement(one.agreement)}"
    maps = [
        ("Information, own category", own_text, own.information, rows, False),
        ("Attention, own category", learned[0], own.learned, rows, False),
        (f"Information, target {target}", text, one.information, behaviours, False),
        (f"Correlation (phi), target {target}", "Above 0 with clicks, below 0 against.", one.phi, behaviours, True),
        (f"Learned correlation, target {target}", learned[1], one.learned, behaviours, False),
    ]
    figures = [
        _figure(f"{title}, {name}", words, _map(values, names, signed))
        for title, words, values, names, signed in maps
        if values is not None
    ]
    return f"<h2>{escape(name)}</h2><div class=figures>{''.join(figures)}</div>"


def _map(values: Float64[np.ndarray, "rows positions"], names: Sequence[str], signed: bool) -> str:
    columns = [str(place) for place in range(1, values.shape[1] + 1)]
    label = f"map of {len(names)} categories by {len(columns)} positions"
    return matrix_map(values, names, columns, label=label, x_title="position", signed=signed)


def _conflict_figures(name: str, report: GradientReport) -> list[str]:
    cosines = report.cosine[np.isfinite(report.cosine)]
    text = f"{report.conflict:.1%} of {len(cosines):,} iterations have a negative mean cosine of the two gradients."
    found = [_bars(f"Conflict by iteration, {name}", text, cosines, _span(cosines), "cosine")] if len(cosines) else []
    shares = report.row_shares
    if len(shares):
        mean = f"{len(shares):,} rows, mean {shares.mean():.1%}"
        text = f"Share of a row's first {report.first} iterations that are in conflict: {mean}."
        found.append(_bars(f"Conflict by row, {name}", text, shares, (0.0, 1.0), "share"))
    return found


def _cluster_curve(records: Sequence[ClusterInformation]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(record.clusters) for record in records]), np.array([r.information for r in records])


def _thinned(values: Float64[np.ndarray, "steps"]) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbouring steps, so that a curve has at most so many points."""
    pieces = np.array_split(values, min(len(values), _POINTS))
    ends = np.cumsum([len(piece) for piece in pieces])
    return ends.astype(np.float64), np.array([piece.mean() for piece in pieces])


def _lines(
    title: str, text: str, series: Sequence[tuple[str, np.ndarray, np.ndarray]], *, x_title: str, y_title: str
) -> str:
    everything = np.concatenate([values for _, _, values in series])
    places = np.concatenate([x for _, x, _ in series])
    low, high = min(0.0, float(everything.min())), float(everything.max())
    first, last = float(places.min()), float(places.max())
    frame = svg.Frame(x=(first, max(last, first + 1)), y=(low, high + ((high - low) * 0.06 or 1.0)))
    labels = [(value, svg.short(value)) for value in svg.ticks(*frame.x, about=6) if value == int(value)]
    parts = svg.axes(frame, x_labels=labels, x_title=x_title, y_title=y_title)
    for colour, (name, x, values) in enumerate(series):
        marks = tuple(
            svg.Mark(at, value, title=f"{name}, {x_title} {at:g}: {value:.4g}")
            for at, value in zip(x.tolist(), values.tolist(), strict=True)
        )
        parts.append(svg.line_series(frame, svg.Series(name, marks), colour))
    picture = svg.chart(parts, label=f"{y_title} of {len(series)} curves by {x_title}")
    return _figure(title, text, svg.legend([name for name, _, _ in series]) + picture)


def _bars(title: str, text: str, values: np.ndarray, span: tuple[float, float], x_title: str) -> str:
    heights, edges = np.histogram(values, bins=_BINS, range=span)
    frame = svg.Frame(x=(0.0, float(_BINS)), y=(0.0, float(max(heights.max(), 1))))
    low, high = float(edges[0]), float(edges[-1])
    scale = _BINS / (high - low)
    labels = [((value - low) * scale, svg.short(value)) for value in svg.ticks(low, high, about=6)]
    parts = svg.axes(frame, x_labels=labels, x_title=x_title, y_title="number")
    parts.append(svg.histogram(frame, heights.astype(float).tolist(), 0))
    return _figure(title, text, svg.chart(parts, label=f"histogram of {len(values)} values of {x_title}"))


def _span(values: np.ndarray) -> tuple[float, float]:
    """Symmetric about 0, so that the two signs are told apart at sight."""
    reach = float(np.abs(values).max()) or 1.0
    return -reach, reach


def _agreement(value: float | None) -> str:
    return "" if value is None or not np.isfinite(value) else f" Rank correlation with the information: {value:.2f}."


def _number(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


def _figure(title: str, text: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><p>{escape(text)}</p>{content}</figure>"
