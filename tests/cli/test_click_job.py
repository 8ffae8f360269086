"""From a raw csv to a compared, served, exported click model, through the command line; kills, refusals, messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from llm_rec.artifacts import read_json, write_json
from llm_rec.cli import main
from llm_rec.ctr.planted import planted_clicks
from llm_rec.data.columns import ClickLog
from llm_rec.data.synthetic import planted_world
from llm_rec.recipes.click_runs import load_logits
from llm_rec.report.report import Comparison, Report
from llm_rec.serving.clicks import load_click_model

QUICK = ("--method.trainer.epochs", "3", "--method.batches.batch-size", "64", "--evaluation.samples", "20")
FM = ("--preset", "fm", "--method.trainer.learning-rate", "0.05", "--method.init.std", "0.1", *QUICK)
SLICED = ("--evaluation.slice-field", "user")


@dataclass(frozen=True)
class Place:
    root: Path

    def words(self, *words: str) -> list[str]:
        size = 2 if words[:2] == ("train", "ctr") else 1
        return [*words[:size], "--workspace", str(self.root / "ws"), *words[size:]]

    def __call__(self, *words: str) -> None:
        main(self.words(*words))

    def run(self, name: str) -> Path:
        return self.root / "ws" / "runs" / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A workspace with a click log, two runs of click models, and one of a recommender."""
    root = tmp_path_factory.mktemp("clicks")
    world = planted_clicks(1500, num_users=40)
    frame = pd.DataFrame({**world.columns, "label": world.labels.astype(int)})
    frame.to_csv(root / "clicks.csv", index=False)
    columns = [{"name": name, "encoder": {"kind": "vocabulary"}} for name in world.columns]
    parts = {"kind": "by_fractions", "validation": 0.2, "test": 0.2}
    write_json(root / "spec.json", {"columns": columns, "parts": parts, "group": "user"})
    done = Place(root)
    done("clicks", *source(done))
    done("train", "ctr", *FM, *SLICED)
    done("train", "ctr", "--preset", "lr", *QUICK, *SLICED)
    return done


def source(place: Place, *, spec: str = "spec.json") -> tuple[str, ...]:
    files = ("--source.paths", str(place.root / "clicks.csv"), "--source.spec-file", str(place.root / spec))
    return ("--source.kind", "click_table", *files)


def refused(place: Place, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        place(*words)
    assert stop.value.code == 2
    return capsys.readouterr().err


def times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_clicks_prints_rows_rates_and_fields_and_keeps_what_is_there(place: Place, capsys) -> None:
    folder = place.root / "ws" / "clicks" / "clicks"
    before = times(folder)
    place("clicks", "--preset", "table", *source(place)[2:])
    assert times(folder) == before
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    log = ClickLog.load(folder)
    rate = log.part("train").labels.mean()
    assert ["│", "train", "│", str(log.rows["train"]), "│", f"{rate:.4f}", "│"] in printed
    assert ["│", "field_0", "│", "field_0", "│", "one", "id", "│", "10", "│"] in printed


def test_another_log_of_the_same_name_is_refused(place: Place, capsys) -> None:
    spec = read_json(place.root / "spec.json")
    write_json(place.root / "other.json", {**spec, "columns": spec["columns"][:2]})
    words = ("clicks", *source(place, spec="other.json"))
    message = "holds a click log made from other data or settings; choose another --name, or pass --overwrite\n"
    assert refused(place, capsys, *words).endswith(message)
    place(*words, "--name", "replaced")
    place("clicks", *source(place), "--name", "replaced", "--overwrite")
    assert len(ClickLog.load(place.root / "ws" / "clicks" / "replaced").schema.fields) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source.kind", "census"), "source.path: missing; CensusConfig needs it"),
        (("--source.kind", "frapp"), "source.kind: 'frapp' is not one of"),
        (("--source.kind", "census", "--source.path"), "--source.path: needs a value"),
        (
            ("--source.kind", "census", "--source.path", "x", "--source.bins", "many"),
            "source.bins: expected int, got 'many'",
        ),
        (("--source.kind", "click_table", "--source.paths", "x.csv"), "set exactly one of spec and spec_file"),
    ],
)
def test_a_wrong_source_is_named(place: Place, words: tuple[str, ...], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        place("clicks", *words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_options_of_a_kind_without_defaults_are_read_with_it(capsys) -> None:
    words = ("--source.kind", "census", "--source.path", "2024", "--source.bins=none", "--source.marital-task")
    main(["config", "show", "clicks", *words[:4], "--source.bins", "7", words[-1]])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "path: '2024'  # command line" in lines
    assert "bins: 7  # command line" in lines
    assert "marital_task: true  # command line" in lines


def test_train_ctr_learns_what_logistic_regression_cannot(place: Place) -> None:
    fm, lr = (Report.load(place.run(name)).metrics["test"]["all"] for name in ("fm", "lr"))
    assert fm["auc"] > 0.75
    assert lr["auc"] < 0.6
    assert fm["gauc"] > 0.7
    assert fm["log_loss"] < lr["log_loss"]


def test_a_run_says_what_it_is_and_has_what_others_read(place: Place) -> None:
    folder = place.run("fm")
    report = Report.load(folder)
    assert report.task == "clicks"
    assert read_json(folder / "run.json")["task"] == "clicks"
    assert set(report.fingerprints) == {"log"}
    low, high = report.intervals["test"]["all"]["auc"]
    assert low < report.metrics["test"]["all"]["auc"] < high
    assert "ece" not in report.intervals["test"]["all"]
    rows = load_logits(folder)
    assert report.counts["test"]["all"] == len(rows.logits) == len(rows.groups)
    assert {"all", "warm"} <= set(rows.slices)
    assert [entry["epoch"] for entry in report.history] == [1.0, 2.0, 3.0]
    assert all("auc" in entry for entry in report.history)


def test_a_finished_run_is_not_trained_again_and_another_is_refused(place: Place, capsys) -> None:
    before = times(place.run("fm"))
    place("train", "ctr", *FM, *SLICED)
    assert times(place.run("fm")) == before
    error = refused(place, capsys, "train", "ctr", *FM, *SLICED, "--seed", "1")
    assert "holds a run with other settings (seed: 0 there, 1 here); choose another --name" in error
    error = refused(place, capsys, "train", "ctr", *FM, "--log", "none")
    assert error.endswith("run `llm-rec clicks --name none` first, or name the right --workspace\n")
    error = refused(place, capsys, "train", "ctr", *FM, "--name", "x", "--codes", "moc")
    assert "--codes moc is read by method.item_fields, which this method lacks" in error


def test_a_run_of_other_rows_is_refused(place: Place, capsys) -> None:
    place("clicks", *source(place), "--name", "moving")
    place("train", "ctr", *FM, "--name", "moving", "--log", "moving")
    frame = pd.read_csv(place.root / "clicks.csv")
    frame.iloc[::-1].to_csv(place.root / "turned.csv", index=False)
    files = ("--source.paths", str(place.root / "turned.csv"), "--source.spec-file", str(place.root / "spec.json"))
    place("clicks", "--preset", "table", *files, "--name", "moving", "--overwrite")
    error = refused(place, capsys, "train", "ctr", *FM, "--name", "moving", "--log", "moving")
    assert "holds a run made from other data (log: " in error
    error = refused(place, capsys, "evaluate", "--name", "moving")
    assert "was made from log" in error
    shutil.rmtree(place.run("moving"))


def test_evaluate_scores_another_part_with_the_slices_of_the_run(place: Place, capsys) -> None:
    place("evaluate", "--name", "fm", "--part", "validation", "--clicks.samples", "5")
    again = Report.load(place.run("fm") / "evaluation-validation")
    first = Report.load(place.run("fm"))
    assert again.metrics["validation"] == first.metrics["validation"]
    assert "fm, validation" in capsys.readouterr().out
    place("evaluate", "--name", "fm", "--clicks.samples", "5", "--clicks.slice-field", "field_0")
    assert Report.load(place.run("fm") / "evaluation-test").config["evaluation"]["slice_field"] == "field_0"


def test_report_compares_runs_on_the_same_rows(place: Place, capsys) -> None:
    place("report", "--names", "fm", "lr", "--baseline", "lr")
    comparison = Comparison.load(place.root / "ws" / "report")
    difference = next(d.difference for d in comparison.differences if d.difference.metric == "auc")
    assert difference.slice == "all"
    assert difference.low > 0.1
    assert difference.p_value == pytest.approx(2 / 1001)
    assert difference.p_holm >= difference.p_value
    page = (place.root / "ws" / "report" / "report.html").read_text()
    assert "<h3>Calibration</h3>" in page
    assert "fm: bce, pos_weight 1" in page
    assert "Paired bootstrap on the same rows" in page
    assert "fm - lr, overall, auc: +" in capsys.readouterr().out


def test_runs_of_two_kinds_do_not_compare(place: Place, capsys) -> None:
    other = Place(place.root / "mixed")
    shutil.copytree(place.run("fm"), other.run("fm"))
    world = planted_world(40, 30, num_clusters=3, seed=2)
    world.catalog.save(other.root / "ws" / "catalog")
    world.log.save(other.root / "ws" / "interactions")
    small = ("--method.model.dim", "8", "--method.model.max-length", "6", "--method.batches.max-length", "6")
    other("train", "--preset", "sasrec", *small, "--method.trainer.epochs", "1", "--evaluation.samples", "5")
    error = refused(other, capsys, "report")
    assert "fm is a clicks run and sasrec a ranking run" in error or "sasrec is a ranking run and fm a clicks" in error
    error = refused(other, capsys, "train", "--preset", "sasrec", *small, "--name", "fm")
    assert "holds a run of a click model, not of a recommender; choose another --name" in error
    error = refused(other, capsys, "export", "--name", "sasrec")
    assert "holds a run of a recommender, not of a click model; choose another --name" in error


def test_export_writes_graphs_that_score_like_the_run(place: Place) -> None:
    import onnxruntime
    import torch

    place("export", "--name", "fm", "--formats", "pt2", "onnx")
    folder = place.run("fm")
    rows = load_logits(folder)
    expected = 1 / (1 + np.exp(-rows.logits))
    ids = np.array(ClickLog.load(place.root / "ws" / "clicks" / "clicks").part("test").ids, dtype=np.int64)
    program = torch.export.load(folder / "export" / "model.pt2").module()
    session = onnxruntime.InferenceSession(folder / "export" / "model.onnx")
    assert [found.name for found in session.get_inputs()] == ["ids"]
    for size in (1, len(ids)):
        np.testing.assert_allclose(program(torch.from_numpy(ids[:size])).detach(), expected[:size], atol=1e-6)
        (scores,) = session.run(["probabilities"], {"ids": ids[:size]})
        np.testing.assert_allclose(scores, expected[:size], atol=1e-6)


def test_the_saved_model_scores_raw_rows_without_the_log(place: Place, tmp_path: Path) -> None:
    shutil.copytree(place.run("fm") / "model", tmp_path / "model")
    scorer = load_click_model(tmp_path / "model")
    frame = pd.read_csv(place.root / "clicks.csv")
    scores = scorer.score(frame)
    by_lists = scorer.score({name: frame[name].tolist() for name in scorer.columns})
    np.testing.assert_array_equal(scores, by_lists)
    log = ClickLog.load(place.root / "ws" / "clicks" / "clicks")
    encoded = scorer.encode(frame)
    test = load_logits(place.run("fm")).logits
    at = np.flatnonzero((encoded.ids == log.part("test").ids[0]).all(1))[0]
    assert scores[at] == pytest.approx(1 / (1 + np.exp(-test[0])), abs=1e-6)


SLOW_FM = ("--preset", "dnn", "--method.model.towers.0.hidden.widths", "16", "--method.batches.batch-size", "16")
KILLED = (
    *SLOW_FM,
    "--method.trainer.epochs",
    "4",
    "--method.trainer.checkpoint-every",
    "20",
    "--evaluation.samples",
    "5",
)


def test_a_killed_run_ends_as_one_left_alone(place: Place) -> None:
    place("train", "ctr", *KILLED, "--name", "alone")
    command = [sys.executable, "-m", "llm_rec", *place.words("train", "ctr", *KILLED, "--name", "killed")]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    log = place.run("killed") / "phases" / "01-train" / "log.jsonl"
    for _ in range(2000):
        if log.is_file() and log.read_text().count("\n") >= 1:
            break
        try:
            process.wait(timeout=0.02)
            break
        except subprocess.TimeoutExpired:
            continue
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (place.run("killed") / "report.json").is_file()
    place("train", "ctr", *KILLED, "--name", "killed")
    alone, killed = (load_file(place.run(name) / "model" / "model.safetensors") for name in ("alone", "killed"))
    assert all(np.array_equal(alone[name], killed[name]) for name in alone)
    np.testing.assert_array_equal(*(load_logits(place.run(name)).logits for name in ("alone", "killed")))
    first, second = (Report.load(place.run(name)) for name in ("alone", "killed"))
    assert first.metrics == second.metrics
    assert [entry["auc"] for entry in first.history] == [entry["auc"] for entry in second.history]


def test_two_processes_train_as_one_with_twice_the_accumulation(place: Place) -> None:
    smooth = (*FM, "--method.trainer.eps", "0.01", "--method.batches.drop-last")
    place("train", "ctr", *smooth, "--name", "one", "--method.trainer.accumulation", "2")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "llm_rec", *place.words("train", "ctr", *smooth, "--name", "two", "--overwrite")),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two, test") == 1
    one, two = (load_logits(place.run(name)).logits for name in ("one", "two"))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_a_number_read_by_its_digits_goes_all_the_way_to_a_served_and_exported_model(tmp_path: Path, capsys) -> None:
    """Clicks depend on the parity of a count: its last binary digit, which neither a bin nor a scale can say."""
    import onnxruntime

    other, rng = Place(tmp_path), np.random.default_rng(0)
    count = rng.integers(0, 64, 900)
    label = rng.random(900) < np.where(count % 2 == 1, 0.9, 0.1)
    frame = pd.DataFrame({"count": count, "spend": rng.lognormal(size=900), "label": label.astype(int)})
    frame.loc[::50, "spend"] = None
    frame.to_csv(tmp_path / "clicks.csv", index=False)
    encoders = {
        "count": {"kind": "numerals", "scale": "whole", "bases": [2, 3]},
        "spend": {"kind": "numerals", "scale": "log", "levels": 100, "combine": "concat"},
    }
    columns = [{"name": name, "encoder": encoder} for name, encoder in encoders.items()]
    write_json(tmp_path / "spec.json", {"columns": columns, "parts": {"kind": "by_fractions", "test": 0.3}})
    other("clicks", *source(other))
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["│", "count", "│", "count", "│", "digits", "in", "bases", "2,", "3", "│", "64", "│"] in printed
    for name, tables in (("dense", "dense"), ("rows", "rowwise_adagrad")):
        small = ("--method.model.dim", "4", "--method.trainer.learning-rate", "0.05", "--method.tables", tables)
        other("train", "ctr", "--preset", "dnn", "--name", name, *small, *QUICK, "--method.init.std", "0.1")
        assert Report.load(other.run(name)).metrics["test"]["all"]["auc"] > 0.8
    other("export", "--name", "rows", "--formats", "onnx")
    scorer = load_click_model(other.run("rows") / "model")
    rows = {"count": [7, 8, None, 10**6], "spend": [0.5, None, 3.0, 1e9]}
    scores = scorer.score(rows)
    assert scores[0] > 0.7 > 0.3 > scores[1]
    session = onnxruntime.InferenceSession(other.run("rows") / "export" / "model.onnx")
    (exported,) = session.run(["probabilities"], {"ids": scorer.encode(rows).ids.astype(np.int64)})
    np.testing.assert_allclose(exported, scores, atol=1e-6)


def test_json_lines_of_the_log_hold_the_loss_terms(place: Place) -> None:
    lines = (place.run("fm") / "phases" / "01-train" / "log.jsonl").read_text().splitlines()
    assert {"pointwise", "ranking"} <= set(json.loads(lines[0])["losses"])


def test_codes_and_texts_of_a_workspace_become_fields(tmp_path: Path, capsys) -> None:
    other = Place(tmp_path)
    world = planted_world(40, 30, num_clusters=3, seed=2)
    world.catalog.save(other.root / "ws" / "catalog")
    world.log.save(other.root / "ws" / "interactions")
    other("encode", "--preset", "hashing", "--encoder.dim", "16")
    other("index", "--preset", "rqkmeans", "--quantizer.num-codebooks", "2", "--quantizer.codebook-size", "3")
    rows = ("--source.kind", "interactions", "--source.rows.item-ids", "catalog", "--source.codes", "rqkmeans")
    other("clicks", *rows, "--source.rows.negatives", "2")
    before = times(other.root / "ws" / "clicks")
    other("clicks", *rows, "--source.rows.negatives", "2")
    assert times(other.root / "ws" / "clicks") == before
    message = "holds a click log made from other data or settings; choose another --name, or pass --overwrite\n"
    assert refused(other, capsys, "clicks", *rows).endswith(message)
    log = ClickLog.load(other.root / "ws" / "clicks" / "clicks")
    assert [found.name for found in log.schema.fields] == ["user", "item", "code_0", "code_1"]

    small = (*QUICK, "--method.model.dim", "4", "--evaluation.slice-field", "item")
    for preset, option, name in (("dcn_v2-codes", "codes", "rqkmeans"), ("dcn_v2-texts", "embeddings", "text")):
        other("train", "ctr", "--preset", preset, f"--{option}", name, *small)
        report = Report.load(other.run(preset))
        assert set(report.fingerprints) == {"log", option}
        assert report.counts["test"]["unseen"] > 0
        scorer = load_click_model(other.run(preset) / "model")
        raw = {name: ["0"] for name in scorer.columns}
        assert 0 < scorer.score({**raw, "user": ["user-0"], "item": ["item-1"]})[0] < 1
    error = refused(other, capsys, "train", "ctr", "--preset", "dcn_v2-codes", *small, "--name", "x")
    assert error.endswith("run `llm-rec index --name moc` first, or name the right --workspace\n")
    error = refused(other, capsys, "train", "ctr", "--preset", "fm", "--method.loss.kind", "jrc", *QUICK)
    assert "method.model: num_outputs 2 needs linear heads: a sum gives one logit" in error
    assert error.count("\n") == 1
