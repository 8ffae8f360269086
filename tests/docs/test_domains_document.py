"""docs/domains.md as somebody would follow it: its spec, its commands, its Python."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ctr_models.domains.presets import PRESETS
from llm_rec.cli import main

TEXT = (Path(__file__).parents[2] / "docs" / "domains.md").read_text()
QUICK = ("--method.trainer.epochs", "1", "--method.trainer.learning-rate", "0.01", "--evaluation.samples", "5")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def test_the_way_from_a_csv_to_a_served_model_of_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    rows = 400
    frame = pd.DataFrame(
        {
            "user": [f"u{user}" for user in rng.integers(0, 20, rows)],
            "item": [f"i{item}" for item in rng.integers(0, 8, rows)],
            "page": rng.choice(["home", "search"], rows),
            "label": rng.integers(0, 2, rows),
        }
    )
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    (tmp_path / "clicks.json").write_text(block("json"))
    monkeypatch.chdir(tmp_path)
    for line in block("bash").splitlines():
        words = shlex.split(line)[1:]
        main([*words, *(QUICK if words[0] == "train" else ())])
    for name in ("domains.json", "domains.html"):
        assert (tmp_path / "workspace" / "runs" / "crocodile" / name).is_file()
    capsys.readouterr()
    (tmp_path / "block.py").write_text(block("python"))
    runpy.run_path(str(tmp_path / "block.py"))
    scores = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 2
    assert all(0 < score < 1 for score in scores)


def test_every_model_is_in_the_document() -> None:
    named = {
        name for row in re.findall(r"^\| (`.*?`) \|", TEXT, flags=re.MULTILINE) for name in re.findall("`(.*?)`", row)
    }
    assert named == set(PRESETS)
