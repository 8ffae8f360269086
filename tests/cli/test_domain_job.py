"""From raw files to compared, served models of domains and tasks, through the command line; kills, refusals."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_rec.artifacts import read_json, write_json
from llm_rec.cli import main
from llm_rec.ctr.planted_domains import FIELDS, planted_domains
from llm_rec.data.columns import ClickLog
from llm_rec.errors import DataError
from llm_rec.metrics.classification import auc
from llm_rec.recipes.click_runs import load_logits
from llm_rec.report.report import Comparison, Report
from llm_rec.serving.domains import load_domain_model
from tests.llm_rec.ctr.domain_worlds import TINY

QUICK = (
    *("--method.trainer.epochs", "2", "--method.batches.batch-size", "100", "--method.model.dim", "4"),
    *("--method.trainer.learning-rate", "0.02", "--evaluation.samples", "5"),
)
WORLD = planted_domains(TINY)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with logs of domains and of tasks, and three runs."""
    root = tmp_path_factory.mktemp("domains")
    labels = {"click": WORLD.labels[:, 0], "like": WORLD.labels[:, 1]}
    pq.write_table(pa.table({**WORLD.columns, **labels, "part": WORLD.parts}), root / "rows.parquet")
    spec = {
        "columns": [{"name": name, "encoder": {"kind": "vocabulary"}} for name in FIELDS],
        "parts": {"kind": "by_column", "column": "part"},
        "group": "user",
        "domain": "domain",
        "labels": [{"name": "click"}],
    }
    write_json(root / "spec.json", spec)
    write_json(root / "tasks.json", {**spec, "labels": [{"name": "click"}, {"name": "like"}]})
    for name, file in (("domains", "spec.json"), ("tasks", "tasks.json")):
        source = ("--source.paths", str(root / "rows.parquet"), "--source.spec-file", str(root / file))
        main(["clicks", "--workspace", str(root / "ws"), "--preset", "table", *source, "--name", name])
    train(root, "--preset", "shared_bottom", *QUICK)
    train(root, "--preset", "d_train-shared_bottom", *QUICK)
    train(root, "--preset", "mmoe", "--method.model.by", "task", "--log", "tasks", *QUICK, "--name", "two-tasks")
    return root


def train(root: Path, *words: str) -> None:
    main(["train", "domains", "--workspace", str(root / "ws"), *words])


def run_of(root: Path, name: str) -> Path:
    return root / "ws" / "runs" / name


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_run_reports_every_domain_their_means_the_worst_and_pooled_figures(place: Path) -> None:
    report = Report.load(run_of(place, "shared_bottom"))
    found = report.metrics["test"]
    assert list(found) == ["pooled", "domain_d0", "domain_d1", "domain_d2", "macro", "weighted", "worst"]
    values = [found[f"domain_d{domain}"]["auc"] for domain in range(3)]
    assert found["macro"]["auc"] == pytest.approx(np.mean(values))
    assert found["worst"]["auc"] == min(values)
    assert report.counts["test"]["pooled"] == 180
    rows = load_logits(run_of(place, "shared_bottom"))
    tail = rows.slices["domain_d2"]
    assert auc(rows.logits[tail], rows.labels[tail]) == pytest.approx(values[2])
    assert all("macro_auc" in entry for entry in report.history)


def test_d_train_runs_have_three_phases_and_a_history_of_each_domain(place: Path) -> None:
    report = Report.load(run_of(place, "d_train-shared_bottom"))
    assert [entry["phase"] for entry in report.history] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    phases = run_of(place, "d_train-shared_bottom") / "phases"
    assert {path.name for path in phases.iterdir()} == {"01-pretrain", "02-joint", *(f"domain-00{d}" for d in range(3))}


def test_tasks_are_slices_of_rows_laid_flat(place: Path) -> None:
    found = Report.load(run_of(place, "two-tasks"))
    assert list(found.metrics["test"]) == ["task_click", "task_like", "macro", "weighted", "worst"]
    assert found.counts["test"] == {
        name: 360 if name in ("macro", "weighted", "worst") else 180 for name in found.counts["test"]
    }


def test_a_finished_run_is_not_trained_again_and_another_is_refused(place: Path, capsys) -> None:
    folder = run_of(place, "shared_bottom")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    train(place, "--preset", "shared_bottom", *QUICK)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    words = ("train", "domains", "--workspace", str(place / "ws"), "--preset", "shared_bottom", *QUICK)
    assert "holds a run with other settings (seed: 0 there, 1 here)" in refused(capsys, *words, "--seed", "1")
    assert "run `llm-rec clicks --name none` first" in refused(capsys, *words, "--log", "none")
    assert "weightings" in refused(capsys, *words, "--method.weightings", "macro")
    other = ("train", "ctr", "--workspace", str(place / "ws"), "--preset", "fm", "--log", "domains")
    error = refused(capsys, *other, "--name", "shared_bottom")
    assert "holds a run of a model of domains or tasks, not of a click model; choose another --name" in error


def test_evaluate_scores_another_part_and_report_compares_with_a_click_model(place: Path, capsys) -> None:
    workspace = ("--workspace", str(place / "ws"))
    main(["evaluate", *workspace, "--name", "shared_bottom", "--part", "validation", "--domains.samples", "5"])
    again = Report.load(run_of(place, "shared_bottom") / "evaluation-validation")
    assert again.metrics["validation"] == Report.load(run_of(place, "shared_bottom")).metrics["validation"]
    fm = ("--preset", "fm", "--method.trainer.epochs", "1", "--evaluation.samples", "5")
    main(["train", "ctr", *workspace, *fm, "--log", "domains"])
    names = ("fm", "shared_bottom")
    main(["report", *workspace, "--names", *names, "--baseline", "fm"])
    comparison = Comparison.load(place / "ws" / "report")
    tested = {named.difference.slice for named in comparison.differences}
    assert tested == {"pooled", "domain_d0", "domain_d1", "domain_d2"}
    page = (place / "ws" / "report" / "report.html").read_text()
    assert "worst domain or task" in page
    assert "shared_bottom: bce, sample" in page
    main(["report", *workspace, "--names", "two-tasks", "--baseline", "two-tasks", "--out", str(place / "tasks")])
    assert "two-tasks: bce, sum of tasks" in (place / "tasks" / "report.html").read_text()


@pytest.mark.parametrize("name", ["shared_bottom", "d_train-shared_bottom", "two-tasks"])
def test_a_saved_model_scores_raw_rows_as_the_run_did(place: Path, name: str) -> None:
    scorer = load_domain_model(run_of(place, name) / "model")
    asked = [row for row, part in enumerate(WORLD.parts) if part == "test"]
    rows = {column: [values[row] for row in asked] for column, values in WORLD.columns.items()}
    assert scorer.columns == FIELDS
    logits = scorer.logits(rows)
    np.testing.assert_allclose(logits.reshape(-1), load_logits(run_of(place, name)).logits, atol=1e-6)
    np.testing.assert_allclose(scorer.score(rows), 1 / (1 + np.exp(-logits)), atol=1e-12)
    assert scorer.outputs == (("click", "like") if name == "two-tasks" else ("click",))


def test_a_raw_row_of_an_unknown_domain_has_no_score(place: Path) -> None:
    rows = {"user": ["u1", "u1"], "item": ["i1", "new"], "segment": ["s0", "s0"], "domain": ["d0", "elsewhere"]}
    scorer = load_domain_model(run_of(place, "shared_bottom") / "model")
    with pytest.raises(DataError, match="row 1: 'elsewhere' in column 'domain' is no domain that training knew"):
        scorer.score(rows)
    tasks = load_domain_model(run_of(place, "two-tasks") / "model")
    assert tasks.score(rows).shape == (2, 2)
    with pytest.raises(DataError, match="the rows have no column 'domain'; a model of this log needs user, item"):
        scorer.score({name: values for name, values in rows.items() if name != "domain"})


def test_whole_models_are_saved_and_served_by_domain(place: Path) -> None:
    plan = ("--method.d-train.no-pretrain", "--method.d-train.no-joint", "--method.d-train.last", "all")
    train(place, "--preset", "d_train-shared_bottom", *QUICK, *plan, "--name", "separate")
    scorer = load_domain_model(run_of(place, "separate") / "model")
    assert scorer.saved.routed
    asked = [row for row, part in enumerate(WORLD.parts) if part == "test"]
    rows = {column: [values[row] for row in asked] for column, values in WORLD.columns.items()}
    np.testing.assert_allclose(scorer.logits(rows)[:, 0], load_logits(run_of(place, "separate")).logits, atol=1e-6)


def test_analyze_writes_figures_of_experts_gates_tails_and_tasks(place: Path, capsys) -> None:
    words = ("analyze", "domains", "--workspace", str(place / "ws"), "--name", "two-tasks")
    main([*words, "--user", "user", "--item", "item"])
    printed = capsys.readouterr().out
    found = read_json(run_of(place, "two-tasks") / "domains.json")
    assert f"expert correlation: {found['means']['expert_correlation']:.4f}" in printed
    assert np.array(found["experts"]["similarity"]).shape == (4, 4)
    assert len(found["effective_experts"]) == 2
    assert all(1 <= value <= 4 for value in found["effective_experts"])
    assert found["domains"] == ["d0", "d1", "d2"]
    np.testing.assert_allclose(np.sum(found["gates"], axis=1), [1, 1], atol=1e-6)
    assert found["entanglement"]["tasks"] == ["click", "like"]
    page = run_of(place, "two-tasks") / "domains.html"
    assert "Domains and tasks, two-tasks" in page.read_text()
    assert f"{found['effective_experts'][0]:.4f}" in page.read_text()
    assert f"page: {page}" in printed.replace("\n", "")
    assert "user and item go together" in refused(capsys, *words, "--user", "user")
    error = refused(capsys, *words[:-1], "none")
    assert "holds no run (run.json is missing)" in error


def test_folders_become_one_log_of_domains(tmp_path: Path) -> None:
    for name in ("shoes", "hats"):
        (tmp_path / name).mkdir()
        items = [str(item) for item in range(6)]
        pq.write_table(
            pa.table({"item_id": items, "title": items, "kind": ["a|b", "b", "a"] * 2}),
            tmp_path / name / "items.parquet",
        )
        events = [(user, str((place + user) % 6), place) for user in range(5) for place in range(4)]
        users, seen, order = zip(*events, strict=True)
        table = {"user_id": [f"u{user}" for user in users], "item_id": seen, "order": order}
        pq.write_table(pa.table(table), tmp_path / name / "interactions.parquet")
    paths = ("--source.paths", str(tmp_path / "shoes"), str(tmp_path / "hats"))
    words = ("clicks", "--workspace", str(tmp_path / "ws"), "--preset", "domains", *paths)
    main([*words, "--source.first-pieces", "kind"])
    log = ClickLog.load(tmp_path / "ws" / "clicks" / "domains")
    assert [field.name for field in log.schema.fields] == ["user", "item", "domain", "kind"]
    assert log.columns[0].encoder.state["values"] == [f"u{user}" for user in range(5)]
    assert log.columns[2].encoder.state["values"] == ["hats", "shoes"]
    assert dict(log.rows) == {"train": 40, "validation": 20, "test": 20}
    pairs = log.part("train").ids[:, 2].reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert json.loads((tmp_path / "ws" / "clicks" / "domains" / "schema.json").read_text())["domain"] == "domain"
