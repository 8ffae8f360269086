"""Small charts as inline SVG: no scripts, no files; colours are the page's CSS variables, so they follow its theme.

Every chart is 480 units wide, which stays readable from a phone's width up to half a desktop. Series differ by shape as
well as colour, marks carry a ``<title>`` (the hover text), and the chart itself has a label for screen readers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480.0
_CORNERS = {  # polygons of radius about 1
    1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    2: ((0.0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
    3: ((0.0, -1.35), (1.35, 0.0), (0.0, 1.35), (-1.35, 0.0)),
}
COLOURS = 8  # series colours that the page defines as --c0 .. --c7


@dataclass(frozen=True, slots=True)
class Mark:
    """One measured value: where, how much, the ends of its interval if known, and the hover text."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A named row of marks; `emphasis` marks one of them by its index (the best epoch)."""

    name: str
    marks: tuple[Mark, ...]
    emphasis: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """The plot area in SVG units and the data ranges it shows."""

    x: tuple[float, float]
    y: tuple[float, float]
    height: float = 270.0
    left: float = 46.0
    right: float = 8.0
    top: float = 10.0
    bottom: float = 40.0

    def at_x(self, value: float) -> float:
        span = (self.x[1] - self.x[0]) or 1.0
        return self.left + (value - self.x[0]) / span * (WIDTH - self.left - self.right)

    def at_y(self, value: float) -> float:
        span = (self.y[1] - self.y[0]) or 1.0
        return self.height - self.bottom - (value - self.y[0]) / span * (self.height - self.top - self.bottom)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (steps of 1, 2, 2.5 or 5 times a power of ten) between low and high.

    >>> ticks(0.0, 0.11)
    [0.0, 0.025, 0.05, 0.075, 0.1]
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """A tick label: up to four significant digits, no exponent for ordinary numbers, thousands as k.

    >>> [short(v) for v in (0.0, 0.025, 1500.0, 12.0)]
    ['0', '.025', '1.5k', '12']
    """
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    text = f"{value:.4g}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def chart(body: Sequence[str], *, label: str, height: float = 270.0) -> str:
    """Wrap drawn parts into one SVG element with a text for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(body)}</svg>'
    )


def axes(
    frame: Frame, *, x_labels: Sequence[tuple[float, str]], x_title: str, y_title: str, percent: bool = False
) -> list[str]:
    """Grid lines with their values, labels below, and the two axis titles."""
    parts = []
    for value in ticks(*frame.y):
        y = frame.at_y(value)
        text = f"{value:.0%}" if percent else short(value)
        parts.append(rule(frame, y))
        parts.append(f'<text class="tick" x="{frame.left - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    base = frame.height - frame.bottom
    parts += [
        f'<text class="tick" x="{frame.at_x(value):.1f}" y="{base + 15:.1f}" text-anchor="middle">{escape(text)}</text>'
        for value, text in x_labels
    ]
    middle = (frame.left + WIDTH - frame.right) / 2
    parts.append(
        f'<text class="axis" x="{middle:.1f}" y="{frame.height - 6:g}" text-anchor="middle">{escape(x_title)}</text>'
    )
    centre = (frame.top + base) / 2
    parts.append(
        f'<text class="axis" transform="translate(11 {centre:.1f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    return parts


def rule(frame: Frame, y: float) -> str:
    """A horizontal grid line across the plot area."""
    return f'<line class="grid" x1="{frame.left:g}" x2="{WIDTH - frame.right:g}" y1="{y:.1f}" y2="{y:.1f}"/>'


def line_series(frame: Frame, series: Series, colour: int, *, offset: float = 0.0) -> str:
    """A line with a shaped mark and an interval whisker per value, moved sideways by `offset` units."""
    points = [(frame.at_x(mark.x) + offset, frame.at_y(mark.y)) for mark in series.marks]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) if points else ""
    parts = [f'<path class="line" d="{path}"/>']
    sparse = len(points) <= 16
    for index, (mark, (x, y)) in enumerate(zip(series.marks, points, strict=True)):
        whisker = ""
        if mark.low is not None and mark.high is not None:
            ends = f'y1="{frame.at_y(mark.low):.1f}" y2="{frame.at_y(mark.high):.1f}"'
            whisker = f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" {ends}/>'
        size = 5.5 if index == series.emphasis else 3.6 if sparse else 1.8
        target = f'<circle class="hit" cx="{x:.1f}" cy="{y:.1f}" r="8"/>'
        parts.append(f"<g>{hover(mark.title)}{whisker}{shape(x, y, size, colour)}{target}</g>")
    return f'<g class="s{colour % COLOURS}">{"".join(parts)}</g>'


def shape(x: float, y: float, size: float, kind: int) -> str:
    """Circle, square, triangle, diamond in turn: series stay apart without colour."""
    if kind % 4 == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'
    corners = _CORNERS[kind % 4]
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{points}"/>'


def stacked_columns(frame: Frame, rows: Sequence[Sequence[float]], titles: Sequence[Sequence[str]]) -> str:
    """One column per row at x = 1, 2, ...; its shares are stacked from below."""
    width = min(34.0, (frame.at_x(1.0) - frame.at_x(0.0)) * 0.78)
    parts = []
    for index, (shares, texts) in enumerate(zip(rows, titles, strict=True)):
        x, bottom = frame.at_x(index + 1.0) - width / 2, 0.0
        for colour, (share, text) in enumerate(zip(shares, texts, strict=True)):
            top, base = frame.at_y(bottom + share), frame.at_y(bottom)
            parts.append(
                f'<rect class="bar s{colour % COLOURS}" x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{max(base - top, 0):.1f}">{hover(text)}</rect>'
            )
            bottom += share
    return "".join(parts)


def histogram(frame: Frame, heights: Sequence[float], colour: int) -> str:
    """Touching columns from x = 0 on, drawn as one outline: thousands of values cost one path."""
    base = frame.at_y(frame.y[0])
    steps = "".join(f"V{frame.at_y(value):.1f}H{frame.at_x(index + 1.0):.1f}" for index, value in enumerate(heights))
    return f'<path class="area s{colour % COLOURS}" d="M{frame.at_x(0.0):.1f} {base:.1f}{steps}V{base:.1f}Z"/>'


def dots(frame: Frame, points: Sequence[tuple[float, float, int | None, str]]) -> str:
    """A scatter of (x, y, colour or None for the grey rest, hover text); the rest is drawn first."""
    parts = []
    for x, y, colour, text in sorted(points, key=lambda point: point[2] is not None):
        style = "rest" if colour is None else f"s{colour % COLOURS}"
        place = f'cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}"'
        radius = 1.8 if colour is None else 2.6
        parts.append(f'<circle class="dot {style}" {place} r="{radius}">{hover(text)}</circle>')
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """Names with their shape and colour, as text that wraps (outside the SVG)."""
    items = "".join(f"<li>{key(index, f's{index % COLOURS}')}{escape(name)}</li>" for index, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def key(kind: int, style: str) -> str:
    """The small mark before a name in a legend."""
    return f'<svg class="key {style}" viewBox="0 0 14 14" aria-hidden="true">{shape(7.0, 7.0, 4.2, kind)}</svg>'


def hover(text: str) -> str:
    """A hover text, escaped; nothing for an empty one."""
    return f"<title>{escape(text)}</title>" if text else ""
