"""docs/ctr.md as somebody would follow it: its files, its commands, its Python."""

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from ctr_models.schema import Numerals
from llm_rec.cli import main
from llm_rec.data.columns import ClickLog

TEXT = (Path(__file__).parents[2] / "docs" / "ctr.md").read_text()
QUICK = ("--method.trainer.epochs", "1", "--method.trainer.learning-rate", "0.01", "--evaluation.samples", "5")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def lines(block: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in block.splitlines()]


def run(code: str, folder: Path) -> None:
    (folder / "block.py").write_text(code)
    runpy.run_path(str(folder / "block.py"))


def words_of_table() -> list[str]:
    return ["--preset", "table", "--source.paths", "clicks.csv", "--source.spec-file", "clicks.json"]


def test_the_way_from_a_csv_to_a_served_model(tmp_path: Path, monkeypatch, capsys) -> None:
    rng = np.random.default_rng(0)
    rows = 600
    frame = pd.DataFrame(
        {
            "user": [f"u{user}" for user in rng.integers(0, 40, rows)],
            "item": [f"i{item}" for item in rng.integers(0, 12, rows)],
            "hour": rng.integers(0, 24, rows),
            "price": rng.random(rows).round(2) * 10,
            "label": rng.integers(0, 2, rows),
        }
    )
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    spec, digits = blocks("json")
    (tmp_path / "clicks.json").write_text(spec)
    monkeypatch.chdir(tmp_path)
    five, one, *_ = blocks("bash")
    for words in [*lines(five), *lines(one)]:
        main([*words, *(QUICK if words[0] == "train" else ())])
    assert {path.name for path in (tmp_path / "workspace" / "runs" / "dcn_v2" / "export").iterdir()} == {
        "model.pt2",
        "model.onnx",
    }
    capsys.readouterr()
    weighed, served, python = blocks("python")
    run(weighed, tmp_path)
    found = re.findall(r"\d\.\d+", capsys.readouterr().out)
    assert len(found) == 4
    assert float(found[1]) < float(found[0])
    run(served, tmp_path)
    scores = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert len(scores) == 2
    assert all(0 < score < 1 for score in scores)
    spec_of_digits = json.loads(spec)
    spec_of_digits["columns"][-1] = json.loads(digits)
    (tmp_path / "clicks.json").write_text(json.dumps(spec_of_digits))
    main(["clicks", *words_of_table(), "--name", "digits"])
    assert isinstance(ClickLog.load(tmp_path / "workspace" / "clicks" / "digits").schema.fields[-1], Numerals)
    (tmp_path / "clicks.json").write_text(spec)
    capsys.readouterr()
    run(python, tmp_path)
    assert re.fullmatch(r"AUC 0\.\d+, log loss \d\.\d+\n", capsys.readouterr().out)
