"""docs/sequences.md as somebody would follow it: its commands and its Python, in order."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from ctr_models.sequences.presets import PRESETS
from llm_rec.cli import main

TEXT = (Path(__file__).parents[2] / "docs" / "sequences.md").read_text()
SMALL = ("--method.trainer.epochs", "1", "--method.batches.batch-size", "64", "--evaluation.samples", "5")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def test_the_way_from_events_to_a_served_model(tmp_path: Path, monkeypatch, capsys) -> None:
    rng = np.random.default_rng(0)
    items = pd.DataFrame({"sku": [f"s{row}" for row in range(20)], "genre": [f"g{row % 3}" for row in range(20)]})
    items.assign(title=items.sku + " of " + items.genre).to_csv(tmp_path / "items.csv", index=False)
    users = np.repeat(["ann", *(f"u{user}" for user in range(30))], 12)
    events = {"customer": users, "sku": rng.choice(items.sku, len(users)), "time": np.arange(len(users))}
    pd.DataFrame(events).to_csv(tmp_path / "events.csv", index=False)
    monkeypatch.chdir(tmp_path)
    (commands,) = blocks("bash")
    for line in commands.splitlines():
        words = shlex.split(line)[1:]
        main([*words, *(SMALL if words[0] == "train" else ())])
    assert (tmp_path / "workspace" / "runs" / "dare" / "sequence.html").is_file()
    raw, cached = blocks("python")
    capsys.readouterr()
    for number, code in enumerate((raw, cached)):
        (tmp_path / f"block{number}.py").write_text(code)
        runpy.run_path(str(tmp_path / f"block{number}.py"))
    *scores, shape = capsys.readouterr().out.splitlines()
    assert len(scores) == 3
    assert all(0 < float(score) < 1 for score in scores)
    assert shape == "torch.Size([2, 2])"


def test_every_preset_is_in_the_table() -> None:
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(PRESETS)
