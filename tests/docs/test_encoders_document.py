"""docs/encoders.md: its commands are read by the verbs they name, and its options exist."""

import re
from pathlib import Path

import pytest

from llm_rec.cli import main
from llm_rec.recipes.tune_encoder import RECIPE

TEXT = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text()
COMMANDS = re.findall(r"^llm-rec (.+)$", TEXT, flags=re.MULTILINE)
OPTIONS = re.findall(r"`(--tuning[a-z.-]+(?: [\w ]+)?)`", TEXT)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_read(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["config", "show", *command.split()])
    assert "# command line" in capsys.readouterr().out


def test_every_option_of_tuning_is_read() -> None:
    assert len(OPTIONS) >= 4
    for option in OPTIONS:
        name, *values = option.split()
        given = [] if name == "--tuning.cached" else values or ["64"]
        main(["config", "show", "tune-encoder", "--preset", "both", name, *given])


def test_the_table_of_presets_is_whole() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", TEXT, flags=re.MULTILINE)
    assert rows == list(RECIPE.presets)
