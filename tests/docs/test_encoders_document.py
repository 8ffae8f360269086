"""docs/encoders.md: its options exist, and its presets are those of the verb."""

import re
from pathlib import Path

from llm_rec.cli import main
from llm_rec.recipes.tune_encoder import RECIPE

TEXT = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
OPTIONS = re.findall(r"`(--tuning[a-z.-]+(?: [\w ]+)?)`", TEXT)


def test_every_option_of_tuning_is_read() -> None:
    assert len(OPTIONS) >= 4
    for option in OPTIONS:
        name, *values = option.split()
        given = [] if name == "--tuning.cached" else values or ["64"]
        main(["config", "show", "tune-encoder", "--preset", "both", name, *given])


def test_the_table_of_presets_is_whole() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", TEXT, flags=re.MULTILINE)
    assert rows == list(RECIPE.presets)
