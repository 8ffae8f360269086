"""``llm-rec explore`` on a small run: rankings by policy, the kept posterior, and what it refuses."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from llm_rec.artifacts import read_manifest, write_json
from llm_rec.cli import main
from llm_rec.ctr.planted import planted_clicks
from llm_rec.serving.clicks import load_click_model

QUICK = ("--method.trainer.epochs", "1", "--method.batches.batch-size", "256", "--evaluation.samples", "5")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("explore")
    world = planted_clicks(600, num_users=20)
    frame = pd.DataFrame({**world.columns, "label": world.labels.astype(int)})
    frame.to_csv(root / "clicks.csv", index=False)
    columns = [{"name": name, "encoder": {"kind": "vocabulary"}} for name in world.columns]
    write_json(
        root / "spec.json", {"columns": columns, "parts": {"kind": "by_fractions", "validation": 0.2, "test": 0.2}}
    )
    place = ("--workspace", str(root / "ws"))
    files = ("--source.paths", str(root / "clicks.csv"), "--source.spec-file", str(root / "spec.json"))
    main(["clicks", *place, "--source.kind", "click_table", *files])
    for preset in ("dcn_v2", "fm"):
        main(["train", "ctr", *place, "--preset", preset, *QUICK])
    candidates = frame.drop(columns="label").iloc[:60].assign(request=np.arange(60) % 3)
    candidates.to_csv(root / "candidates.csv", index=False)
    return root


def explore(root: Path, *words: str) -> pd.DataFrame:
    main(["explore", "--workspace", str(root / "ws"), "--rows", str(root / "candidates.csv"), *words])
    return pd.read_csv(root / "ws" / "runs" / "dcn_v2" / "explored.csv")


def test_greedy_ranks_every_request_by_the_probabilities_that_the_model_serves(workspace: Path) -> None:
    found = explore(workspace, "--group", "request", "--policy.kind", "greedy", "--top", "5")
    assert found["request"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert found["rank"].tolist() == [1, 2, 3, 4, 5] * 3
    candidates = pd.read_csv(workspace / "candidates.csv")
    served = load_click_model(workspace / "ws" / "runs" / "dcn_v2" / "model").score(candidates)
    for request in range(3):
        best = np.sort(served[candidates["request"] == request])[::-1][:5]
        assert found["probability"][found["request"] == request].tolist() == pytest.approx(best.tolist())
    assert found["score"].tolist() == pytest.approx(found["probability"].tolist())
    assert (found["deviation"] > 0).all()


def test_ucb_adds_deviations_and_without_width_is_greedy(workspace: Path) -> None:
    greedy = explore(workspace, "--policy.kind", "greedy", "--top", "60")
    pd.testing.assert_frame_equal(
        explore(workspace, "--policy.kind", "ucb", "--policy.beta", "0", "--top", "60"), greedy
    )
    wide = explore(workspace, "--policy.kind", "ucb", "--policy.beta", "3", "--top", "60")
    logits = np.log(wide["probability"] / (1 - wide["probability"])) + 3 * wide["deviation"]
    assert wide["score"].tolist() == pytest.approx((1 / (1 + np.exp(-logits))).tolist())
    assert wide["score"].is_monotonic_decreasing


def test_thompson_draws_by_seed(workspace: Path) -> None:
    first = explore(workspace, "--seed", "1")
    pd.testing.assert_frame_equal(explore(workspace, "--seed", "1"), first)
    assert explore(workspace, "--seed", "2")["score"].tolist() != first["score"].tolist()


def test_the_posterior_is_kept_with_the_run_and_made_again_for_another_prior(workspace: Path) -> None:
    folder = workspace / "ws" / "runs" / "dcn_v2" / "posterior"
    explore(workspace)
    made = read_manifest(folder)
    assert made.inputs["model"] == read_manifest(folder.parent / "model").fingerprint
    explore(workspace)
    assert read_manifest(folder) == made
    loose = explore(workspace, "--policy.kind", "greedy", "--posterior.prior-precision", "0.01", "--top", "60")
    assert read_manifest(folder).fingerprint != made.fingerprint
    tight = explore(workspace, "--policy.kind", "greedy", "--posterior.prior-precision", "100", "--top", "60")
    assert (loose["deviation"] > tight["deviation"]).all()


def test_the_commands_of_the_document(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "exploration.md").read_text()
    (block,) = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(workspace)
    for line in block.splitlines():
        main([*shlex.split(line)[1:], "--workspace", "ws", "--out", "explored.csv"])
        found = pd.read_csv("explored.csv")
        assert found["rank"].tolist() == [*range(1, 11)] * 3


def test_what_it_refuses(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.read_csv(workspace / "candidates.csv").assign(rank=1).to_csv(workspace / "ranked.csv", index=False)
    pd.read_csv(workspace / "candidates.csv").drop(columns="field_0").to_csv(workspace / "less.csv", index=False)
    for words, message in (
        (["--name", "fm"], "no uncertainty of this model: no tower has a linear head (towers: Tower)"),
        (["--name", "nothing"], "nothing holds no run"),
        (["--top", "0"], "top must be at least 1, got 0"),
        (["--group", "session"], "no column 'session'"),
        (["--rows", str(workspace / "ranked.csv")], "has a column 'rank', which is what this verb adds; rename it"),
        (["--rows", str(workspace / "less.csv")], "no column 'field_0'"),
        (["--rows", str(workspace / "none.csv")], "no such file"),
    ):
        with pytest.raises(SystemExit) as stop:
            explore(workspace, *words)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.replace("\n", "")
