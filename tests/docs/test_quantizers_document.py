"""docs/quantizers.md names every kind that there is. Its commands are parsed in tests/docs/test_readme.py."""

import re
from pathlib import Path

from llm_rec.recipes.compare_codes import HEAD, KINDS
from llm_rec.recipes.index import RECIPE

TEXT = (Path(__file__).parents[2] / "docs" / "quantizers.md").read_text()


def test_every_kind_is_a_preset_and_in_the_table() -> None:
    named = re.findall(r"^\| `([\w-]+)` \|", TEXT, flags=re.MULTILINE)
    assert named == list(KINDS) == list(RECIPE.presets)


def test_every_column_of_a_comparison_is_explained() -> None:
    explained = " ".join(re.findall(r"\*\*(.+?)\*\*", TEXT))
    assert [name for name in HEAD[1:-1] if name.split(" (")[0] not in explained] == []
