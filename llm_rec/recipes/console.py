"""Where recipes speak: tables and one-line notices on standard output, and only from the first of several processes."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, RenderableType
from rich.table import Table

from llm_rec.processes import is_first

FILE_WIDTH = 240  # a pipe or a file has no width, and rich's 80 columns would cut figures off


def say(thing: RenderableType) -> None:
    """Print to standard output, once per run."""
    if is_first():
        width = None if sys.stdout.isatty() else FILE_WIDTH
        Console(soft_wrap=True, highlight=False, width=width).print(thing)


def facts(title: str, values: Mapping[str, object]) -> Table:
    """A two-column table of named figures."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(name, text_of(value))
    return table


def text_of(value: object) -> str:
    """A figure as people read it: thousands separated, four digits, lists joined."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float | Sequence) or isinstance(value, str):
        return str(value)
    if isinstance(value, Sequence):
        return ", ".join(text_of(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
