"""Tables of click models as markdown: five digits where seeds differ in the fourth, whole numbers where they count."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from llm_rec.codec import Plain
from llm_rec.errors import ConfigError
from llm_rec.experiment import TEST_COLUMNS, Comparison, Row, comparison_cells, markdown_lines

WHOLE = ("parameters", "rows_per_second", "rows", "epochs")  # shown as whole numbers, without deviation


def click_markdown(rows: Sequence[Row], metrics: Sequence[str], columns: Sequence[str] = ()) -> str:
    """A line for each model and combination of `columns`, a column for each metric, the number of seeds first.

    Cells read "mean ± std" (n - 1 below); `*` at the seeds marks exploratory lines (fewer than five). Columns that are
    the same on all lines are left out. Rows that would overwrite one another are a `ConfigError`.
    """
    lines: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row.metric not in metrics:
            continue
        key = (row.model, *(_text(row.columns, name) for name in columns))
        if row.metric in lines[key]:
            hidden = sorted(set(row.columns) - set(columns) - {"made_from"})
            raise ConfigError(f"{row.model}: several rows of {row.metric} on one line; name the columns {hidden} too")
        lines[key][row.metric] = _figure(row)
        lines[key]["seeds"] = f"{row.seeds}{'*' if row.exploratory else ''}"
    kept = [i for i in range(len(columns)) if len({key[1 + i] for key in lines}) > 1]
    head = ["model", *(columns[i] for i in kept), "seeds", *metrics]
    body = [
        [key[0], *(key[1 + i] for i in kept), *(cells.get(name, "") for name in ("seeds", *metrics))]
        for key, cells in lines.items()
    ]
    return markdown_lines(head, body)


def click_tests_markdown(tests: Sequence[Comparison]) -> str:
    """Paired tests, a line each; nothing without any."""
    if not tests:
        return ""
    head = ["model", "against", "metric", *TEST_COLUMNS]
    body = [
        [
            test.model,
            _without_shared(test.baseline, test.model),
            test.metric,
            *comparison_cells(test, digits=5),
        ]
        for test in tests
    ]
    return markdown_lines(head, body)


def _without_shared(name: str, other: str) -> str:
    """A full name without its columns where they are those of the other name."""
    short, bracket, columns = name.partition(" (")
    return short if bracket and other.endswith(bracket + columns) else name


def figure(value: float, metric: str = "") -> str:
    """A number as tables show it.

    >>> figure(0.983824), figure(7.4e-06), figure(458391.0, "parameters")
    ('0.98382', '7.40e-06', '458,391')
    """
    if metric in WHOLE:
        return f"{value:,.0f}"
    if value == round(value, 1):
        return f"{value:g}"
    return f"{value:.2e}" if abs(value) < 1e-3 else f"{value:.5f}"


def _figure(row: Row) -> str:
    mean = figure(row.mean, row.metric)
    if row.std is None or row.metric in WHOLE:
        return mean
    return f"{mean} ± {row.std:.5f}" if "e" not in mean else f"{mean} ± {row.std:.0e}"


def _text(columns: Mapping[str, Plain], name: str) -> str:
    value = columns.get(name)
    return "" if value is None else str(value)
