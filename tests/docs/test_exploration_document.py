"""docs/exploration.md: its Python does what it says. Its commands are run in tests/cli/test_explore.py."""

import re
import runpy
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "exploration.md").read_text()


@pytest.fixture(scope="module")
def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "block.py").write_text(code)
    runpy.run_path(str(folder / "block.py"))
    return capsys.readouterr().out


def test_items_that_were_hardly_shown_are_explored(blocks, tmp_path, capsys) -> None:
    out = run(blocks[0], tmp_path, capsys)
    assert "first by UCB: 3" in out
    chances = [float(number) for number in re.findall(r"\d\.\d", out)]
    assert sum(chances) == pytest.approx(1, abs=0.21)
    assert chances[0] <= min(chances[1:])


def test_every_estimate_holds_the_true_value_that_the_document_names(blocks, tmp_path, capsys) -> None:
    out = run(blocks[1], tmp_path, capsys)
    found = re.findall(r"^(ips|snips|dr) +\S+ \((\S+) to (\S+)\)$", out, flags=re.MULTILINE)
    assert len(found) == 3
    assert all(float(low) <= 0.074 <= float(high) for _, low, high in found)
    assert "The true value is 0.074" in TEXT
    assert "clicks with weight" in out


def test_one_pass_and_its_calibration_run_and_a_second_call_finds_the_first(blocks, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = run(blocks[2], tmp_path, capsys)
    assert [line.split(":")[0] for line in out.splitlines()] == [
        *(f"from row {row}" for row in (0, 1000, 2000, 3000)),
        "before",
        "after",
    ]
    assert len(list((tmp_path / "pass" / "windows").glob("*.safetensors"))) == 4
    assert run(blocks[2], tmp_path, capsys) == out
