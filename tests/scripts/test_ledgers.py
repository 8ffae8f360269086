"""A script that has the option --ledger hands it to everything that trains cells: no option is ignored."""

import ast
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
TABLES = sorted(
    path
    for path in SCRIPTS.glob("*.py")
    if {"grid_options", "table_options"} & set(path.read_text().replace("(", " ").split())
)


def calls(path: Path, *names: str) -> list[ast.Call]:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [call for call in found if isinstance(call.func, ast.Name) and call.func.id in names]


def test_there_are_tables_to_look_at() -> None:
    assert {"pad_table", "ipa_table", "collapse_table"} <= {path.stem for path in TABLES}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_grid_of_trained_cells_gets_the_ledger(path: Path) -> None:
    """`run_table` takes it from the job, which `job_of` makes of the options."""
    for call in calls(path, "run_clicks", "run_domains", "choose_rows"):
        assert "ledger" in {keyword.arg for keyword in call.keywords}, f"{path.name}:{call.lineno}"
    assert calls(path, "run_clicks", "run_domains", "choose_rows", "job_of")
