"""``llm-rec analyze features`` on a small run, and what it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest

from llm_rec.artifacts import write_json
from llm_rec.cli import main
from llm_rec.ctr.planted import planted_clicks

QUICK = ("--method.trainer.epochs", "1", "--method.batches.batch-size", "256", "--evaluation.samples", "5")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    world = planted_clicks(1500, num_users=20, strength=3.0)
    pd.DataFrame({**world.columns, "label": world.labels.astype(int)}).to_csv(root / "clicks.csv", index=False)
    columns = [{"name": name, "encoder": {"kind": "vocabulary"}} for name in world.columns]
    parts = {"kind": "by_fractions", "validation": 0.2, "test": 0.3}
    write_json(root / "spec.json", {"columns": columns, "parts": parts})
    place = ("--workspace", str(root / "ws"))
    files = ("--source.paths", str(root / "clicks.csv"), "--source.spec-file", str(root / "spec.json"))
    main(["clicks", *place, "--source.kind", "click_table", *files])
    main(["train", "ctr", *place, "--preset", "lr", *QUICK])
    return root / "ws"


def test_figures_and_page_lie_in_the_run(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["analyze", "features", "--workspace", str(workspace), "--name", "lr", "--analysis.pairs", "2"])
    folder = workspace / "runs" / "lr"
    figures = json.loads((folder / "features.json").read_text())
    assert sorted(figures["names"]) == ["field_0", "field_1", "field_2", "field_3", "user"]
    assert figures["pairs"][0]["fields"] == ["field_0", "field_1"]
    assert figures["pairs"][0]["gain"] > 0.05
    assert [len(row) for row in figures["nmi"]] == [5] * 5
    page = (folder / "features.html").read_text()
    assert "field_0 × field_1" in page
    assert "<script" not in page
    printed = capsys.readouterr().out.replace("\n", "")
    assert "field_0 x field_1: 0." in printed
    assert f"page: {folder / 'features.html'}" in printed


def test_help_and_refusals(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "features", "--help"])
    assert stop.value.code == 0
    assert "analysis.pairs" in capsys.readouterr().out
    for words, message in (
        (["--name", "lr", "--analysis.label", "buy"], "there is no label 'buy'; the log has label"),
        (["--name", "nothing"], "nothing holds no run"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["analyze", "features", "--workspace", str(workspace), *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", "")
