"""Progress bars: shown on a terminal, silent elsewhere, and never on any process but the first."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, runtime_checkable

from llm_rec.processes import is_first

T = TypeVar("T")


@runtime_checkable
class Advance(Protocol):
    def __call__(self, steps: int = 1) -> None: ...


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Advance]:
    """Yield a function that advances the bar; the bar is drawn only on an interactive standard error."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True)
    shown = console.is_terminal and is_first()
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not shown, transient=True) as bar:
        task = bar.add_task(description, total=total)

        def advance(steps: int = 1) -> None:
            bar.advance(task, steps)

        yield advance


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` behind a progress bar."""
    with progress(description, total) as advance:
        for item in items:
            yield item
            advance()
