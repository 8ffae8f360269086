"""Embedding collapse as figures of a page: spectra of fields, abundance by field, heat maps of sub-embeddings."""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float64

from llm_rec.analysis.click_collapse import ClickCollapse
from llm_rec.analysis.collapse import CollapseReport
from llm_rec.report import svg
from llm_rec.report.theme import bare_page

_LINES = svg.COLOURS  # fields drawn: those of the most values


def collapse_section(name: str, found: ClickCollapse) -> str:
    """The figures about one model, as HTML without script: to be put on a page with the style of `report.theme`."""
    figures = [spectrum_figure(name, found, table) for table in range(len(found.spectra))]
    if found.projected is not None and found.norms is not None:
        fields = found.seen.fields
        order = np.argsort(np.nan_to_num(found.seen.abundance.mean(0)))
        for table, (abundance, norms) in enumerate(zip(found.projected, found.norms, strict=True)):
            where = _set(table, len(found.spectra))
            text = "Information abundance of E_i W(i->j) in the first cross layer; fields by their own abundance."
            figures.append(_figure(f"Sub-embeddings, {name}{where}", text, heat_map(abundance, fields, order)))
            text = "Frobenius norm of W(i->j): which pairs this set attends to."
            figures.append(_figure(f"Cross weights, {name}{where}", text, heat_map(norms, fields, order)))
    return f"<h2>{escape(name)}</h2>{abundance_table(found)}<div class=figures>{''.join(figures)}</div>"


def collapse_page(title: str, models: Sequence[tuple[str, ClickCollapse]]) -> str:
    """A self-contained page about several models: no script, no font, no request."""
    sections = "".join(collapse_section(name, found) for name, found in models)
    return bare_page(title, sections)


def abundance_table(found: ClickCollapse) -> str:
    """Abundance of every field, mean over sets: seen values, frequent values, both relative to a random table."""
    head = ["field", "values", "abundance", "/ initial", f"values ≥ {found.min_count}", "abundance", "/ initial"]
    body = []
    for i, field in enumerate(found.seen.fields):
        cells = [field, *_cells(found.seen, i), *_cells(found.frequent, i)]
        body.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join(f"<tr>{row}</tr>" for row in body)
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"


def spectrum_figure(name: str, found: ClickCollapse, table: int) -> str:
    """Singular values over the largest, of the fields of the most values."""
    fields = found.seen.fields
    shown = np.argsort(-found.seen.rows, kind="stable")[:_LINES].tolist()
    dim = found.spectra.shape[-1]
    frame = svg.Frame(x=(1.0, float(max(dim, 2))), y=(0.0, 1.0))
    labels = [(value, svg.short(value)) for value in svg.ticks(*frame.x, about=6) if value == int(value)]
    parts = svg.axes(frame, x_labels=labels, x_title="singular value", y_title="over the largest")
    for colour, field in enumerate(shown):
        marks = tuple(
            svg.Mark(x=k + 1.0, y=float(value), title=f"{fields[field]}, {k + 1}: {value:.4f}")
            for k, value in enumerate(found.spectra[table, field])
        )
        parts.append(svg.line_series(frame, svg.Series(fields[field], marks), colour))
    text = f"Spectra of the {len(shown)} fields of the most values; a steep fall is collapse."
    picture = svg.chart(parts, label=f"singular values of {len(shown)} fields of {name}")
    title = f"Spectra, {name}{_set(table, len(found.spectra))}"
    return _figure(title, text, svg.legend([fields[field] for field in shown]) + picture)


def heat_map(values: Float64[np.ndarray, "fields fields"], fields: Sequence[str], order: np.ndarray) -> str:
    """Entry (i, j) as a square, the darker the larger; rows i and columns j in the given order. Hover for the value."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    left, top = 90.0, 8.0
    size = (svg.WIDTH - left - 8.0) / len(order)
    parts = []
    for row, i in enumerate(order.tolist()):
        y = top + row * size
        label = f'<text class="tick" x="{left - 5:g}" y="{y + size / 2 + 4:.1f}" text-anchor="end">'
        parts.append(f"{label}{escape(fields[i][:14])}</text>")
        for column, j in enumerate(order.tolist()):
            value = values[i, j]
            shade = 0.04 + 0.92 * (value - low) / (high - low) if high > low and np.isfinite(value) else 0.04
            words = svg.hover(f"{fields[i]} → {fields[j]}: {value:.3f}")
            parts.append(
                f'<rect class="bar s0" x="{left + column * size:.1f}" y="{y:.1f}" width="{size:.1f}" '
                f'height="{size:.1f}" fill-opacity="{shade:.2f}">{words}</rect>'
            )
    height = top + size * len(order) + 24
    parts.append(
        f'<text class="tick" x="{left:g}" y="{height - 7:.1f}">same order across; {low:.2f} to {high:.2f}</text>'
    )
    return svg.chart(parts, label=f"heat map of {len(order)} by {len(order)} fields", height=height)


def _cells(report: CollapseReport, field: int) -> list[str]:
    rows = int(report.rows[field])
    if not rows:
        return ["0", "", ""]
    return [
        f"{rows:,}",
        f"{report.abundance[:, field].mean():.2f}",
        f"{report.relative_to_initial[:, field].mean():.2f}",
    ]


def _set(table: int, tables: int) -> str:
    return f", set {table + 1}" if tables > 1 else ""


def _figure(title: str, text: str, content: str) -> str:
    return f"<figure><h3>{escape(title)}</h3><p>{escape(text)}</p>{content}</figure>"
