"""The overview is instant, every verb has a help page, and user errors are one readable line."""

import subprocess
import sys

import pytest

from llm_rec.cli import VERBS, main

RECIPES = [verb for verb in VERBS if verb != "config show"]


def test_the_overview_imports_neither_torch_nor_pandas() -> None:
    heavy = "{'torch', 'pandas', 'tyro'} & set(sys.modules)"
    code = f"import sys; from llm_rec.cli import main; main(['--help']); assert not {heavy}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", RECIPES)
def test_every_verb_has_a_help_page(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*verb.split(), "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("verb", RECIPES)
def test_config_show_prints_settings_that_the_verb_reads_back(
    verb: str, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["config", "show", *verb.split()])
    first = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(first)
    main(["config", "show", *verb.split(), "--config", str(tmp_path / "shown.yaml")])
    values = [line.split("  #")[0] for line in capsys.readouterr().out.splitlines()]
    assert values == [line.split("  #")[0] for line in first.splitlines()]


def test_an_unknown_verb_is_an_error_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "llm-rec: 'trian' is not a verb; did you mean 'train'?\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith("llm-rec ")
