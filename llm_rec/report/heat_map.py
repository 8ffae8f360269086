"""A matrix as squares: the darker the larger, with the value as hover text."""

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

from llm_rec.report import svg

_NAME = 16  # letters of a row's name that fit


def matrix_map(
    values: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    x_title: str,
    signed: bool = False,
) -> str:
    """An SVG of `values`; entries that are not finite stay pale.

    Shades go from the least value to the largest. With `signed` they go from 0 to the largest distance from it, in the
    second colour of the page for what is above 0 and the first for what is below.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    left, top, right = 104.0, 8.0, 8.0
    width = (svg.WIDTH - left - right) / max(len(columns), 1)
    height = min(width, 30.0)
    parts = []
    for row, name in enumerate(rows):
        y = top + row * height
        parts.append(_text(left - 6, y + height / 2 + 4, name[:_NAME], "end"))
        for column, at in enumerate(columns):
            value = float(values[row, column])
            shade = _shade(value, 0.0 if signed else low, max(abs(low), abs(high)) if signed else high)
            colour = "s1" if signed and value > 0 else "s0"
            words = svg.hover(f"{name}, {x_title} {at}: {value:.4g}")
            parts.append(
                f'<rect class="bar {colour}" x="{left + column * width:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{height:.1f}" fill-opacity="{shade:.2f}">{words}</rect>'
            )
    base = top + len(rows) * height
    places = ((left + (column + 0.5) * width, at) for column, at in enumerate(columns))
    parts += [_text(x, base + 15, at, "middle") for x, at in places]
    legend = f"{x_title}; shades {low:.3g} to {high:.3g}" if finite.size else f"{x_title}; no value"
    parts.append(_text((left + svg.WIDTH - right) / 2, base + 33, legend, "middle"))
    return svg.chart(parts, label=label, height=base + 40)


def _shade(value: float, zero: float, full: float) -> float:
    """Opacity between 0.04 and 0.96."""
    if not np.isfinite(value) or full <= zero:
        return 0.04
    return 0.04 + 0.92 * (abs(value - zero) / (full - zero))


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
