"""``llm-rec analyze collapse`` on a small run, and what it refuses."""

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
    root = tmp_path_factory.mktemp("collapse")
    world = planted_clicks(600, num_users=20)
    pd.DataFrame({**world.columns, "label": world.labels.astype(int)}).to_csv(root / "clicks.csv", index=False)
    columns = [{"name": name, "encoder": {"kind": "vocabulary"}} for name in world.columns]
    write_json(
        root / "spec.json", {"columns": columns, "parts": {"kind": "by_fractions", "validation": 0.2, "test": 0.2}}
    )
    place = ("--workspace", str(root / "ws"))
    files = ("--source.paths", str(root / "clicks.csv"), "--source.spec-file", str(root / "spec.json"))
    main(["clicks", *place, "--source.kind", "click_table", *files])
    main(["train", "ctr", *place, "--preset", "dcn_v2", *QUICK])
    return root / "ws"


def test_figures_and_page_lie_in_the_run(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["analyze", "collapse", "--workspace", str(workspace), "--name", "dcn_v2", "--min-count", "1000"])
    folder = workspace / "runs" / "dcn_v2"
    figures = json.loads((folder / "collapse.json").read_text())
    assert figures["fields"] == ["field_0", "field_1", "field_2", "field_3", "user"]
    assert figures["seen"]["rows"] == [10, 10, 10, 10, 20]
    assert len(figures["projected"][0]) == len(figures["norms"][0]) == 5
    assert figures["frequent"]["rows"] == [0] * 5  # no value has a thousand rows
    assert figures["frequent"]["abundance"] == [[""] * 5]
    assert 1 <= figures["means"]["abundance"] <= 10
    assert "Sub-embeddings, dcn_v2" in (folder / "collapse.html").read_text()
    assert f"page: {folder / 'collapse.html'}" in capsys.readouterr().out.replace("\n", "")


def test_help_and_refusals(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["analyze", "collapse", "--help"])
    assert stop.value.code == 0
    assert "min-count" in capsys.readouterr().out
    for words, message in (
        (["--min-count", "0"], "min_count must be at least 1, got 0"),
        (["--name", "nothing"], "nothing holds no run"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["analyze", "collapse", "--workspace", str(workspace), *words])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", "")
