"""The main job from two csv files to a report, through the command line, in one process."""

import csv
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from llm_rec.cli import main
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import PlantedWorld, planted_world
from llm_rec.errors import ConfigError
from llm_rec.recipes.encode import EncodeJob
from llm_rec.recipes.runs import load_targets
from llm_rec.report.report import Comparison, Report
from llm_rec.serving.recommender import Recommender
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable

BOOKS = ("--quantizer.num-codebooks", "2", "--quantizer.codebook-size", "4")
MOC = ("--quantizer.autoencoder.hidden-dims", "8", "--quantizer.autoencoder.latent-dim", "4")
FIT = ("--quantizer.fit.steps", "20", "--quantizer.fit.warmup-steps", "5", "--quantizer.fit.ramp-steps", "2")
SMALL = ("--method.model.dim", "8", "--method.model.max-length", "6", "--method.batches.max-length", "6")
QUICK = (*SMALL, "--evaluation.samples", "20")
ONE_EPOCH = (*QUICK, "--method.trainer.epochs", "1")
PHASES = ("pretrain", "align", "disentangle")
TRAIN = {
    "sasrec": ("--preset", "sasrec", *ONE_EPOCH),
    "sasrec-codes": ("--preset", "sasrec-codes", "--material.codes", "rqkmeans", *ONE_EPOCH),
    "pad": ("--preset", "pad", *QUICK, *(w for p in PHASES for w in (f"--method.training.{p}.epochs", "1"))),
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def call(*words: str) -> Outcome:
    """One command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(words)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


@dataclass(frozen=True)
class Job:
    """A workspace with everything in it, the files it came from, and what the verbs printed on the way."""

    root: Path
    world: PlantedWorld
    printed: dict[str, str]

    def __call__(self, verb: str, *words: str) -> Outcome:
        return call(verb, "--workspace", str(self.root / "ws"), *words)

    @property
    def ws(self) -> Path:
        return self.root / "ws"

    def data(self, *words: str) -> Outcome:
        files = ("--source.items", str(self.root / "items.csv"), "--source.interactions", str(self.root / "log.csv"))
        names = ("--source.item", "sku", "--source.text", "title", "--source.user", "customer", "--source.time", "at")
        return self("data", "--preset", "files", *files, *names, *words)

    def steps(self) -> dict[str, Outcome]:
        """Every verb once, in order."""
        return {
            "data": self.data(),
            "encode": self("encode", "--preset", "hashing", "--encoder.dim", "16"),
            "rqkmeans": self("index", "--preset", "rqkmeans", *BOOKS),
            "moc": self("index", "--preset", "moc", *BOOKS, *MOC, *FIT, "--collisions", "digit"),
            **{name: self("train", *words) for name, words in TRAIN.items()},
        }


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    root = tmp_path_factory.mktemp("main_job")
    world = planted_world(60, 40, num_clusters=3, seed=2)
    write_csv(root / "items.csv", ["sku", "title"], zip(world.catalog.item_ids, world.catalog.texts, strict=True))
    users = world.log.users_of(np.arange(world.log.num_events))
    rows = zip(users.tolist(), world.log.items.tolist(), world.log.times.tolist(), strict=True)
    events = [(world.log.user_ids[user], world.catalog.item_ids[item - 1], time) for user, item, time in rows]
    write_csv(root / "log.csv", ["customer", "sku", "at"], reversed(events))
    done = Job(root, world, {})
    for name, outcome in done.steps().items():
        assert outcome.code == 0, f"{name}: {outcome.err}"
        done.printed[name] = outcome.out
    return done


def write_csv(path: Path, header: list[str], rows) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and bytes of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_data_prints_the_counts_of_the_log(job: Job) -> None:
    lines = [line.split() for line in job.printed["data"].splitlines()]
    shown = {words[1]: words[3] for words in lines if len(words) == 5}
    assert shown["users"] == "60"
    assert shown["items"] == "40"
    assert shown["events"].replace(",", "") == str(job.world.log.num_events)
    assert shown["test_targets"] == "60"


def test_the_workspace_holds_what_the_files_said(job: Job) -> None:
    recommender = Recommender.load(job.ws / "runs" / "sasrec" / "recommender")
    assert recommender.catalog.fingerprint == job.world.catalog.fingerprint
    assert recommender.log is not None
    mine = {user: recommender.log.history(row).tolist() for row, user in enumerate(recommender.log.user_ids)}
    world = job.world.log
    assert mine == {user: world.history(row).tolist() for row, user in enumerate(world.user_ids)}


def test_index_writes_codes_for_every_item_and_prints_their_health(job: Job) -> None:
    shared = CodeTable.load(job.ws / "codes" / "rqkmeans" / "codes.safetensors")
    assert shared.items.shape == (40, 2)
    apart = CodeTable.load(job.ws / "codes" / "moc" / "codes.safetensors")
    assert apart.items.shape == (40, 3), "two books and the digit that tells collisions apart"
    assert len(np.unique(apart.items, axis=0)) == 40
    assert "largest nmi between books" in job.printed["moc"]


@pytest.mark.parametrize("name", list(TRAIN))
def test_train_leaves_a_run_that_others_can_read(job: Job, name: str) -> None:
    folder = job.ws / "runs" / name
    report = Report.load(folder)
    metrics, slices = load_targets(folder)
    assert report.counts["test"]["all"] == len(metrics["ndcg@10"]) == 60
    assert report.metrics["test"]["all"]["ndcg@10"] == pytest.approx(metrics["ndcg@10"].mean())
    assert report.counts["test"]["unseen"] == slices["unseen"].sum() > 0
    assert [record["phase"] for record in report.history] == ([1, 2, 3] if name == "pad" else [1])
    assert f"{report.metrics['test']['all']['recall@10']:.4f}".removeprefix("0") in job.printed[name]
    for file in ("config.yaml", "run.json", "inputs.json", "recommender/manifest.json"):
        assert (folder / file).is_file(), file


def test_the_config_of_a_run_shows_what_was_asked(job: Job) -> None:
    text = (job.ws / "runs" / "sasrec" / "config.yaml").read_text()
    assert "  dim: 8\n" in text.replace("    dim", "  dim")
    assert "epochs: 1\n" in text


def test_an_id_model_needs_no_text_embeddings(job: Job) -> None:
    assert set(Report.load(job.ws / "runs" / "sasrec").fingerprints) == {"catalog", "interactions"}
    assert set(Report.load(job.ws / "runs" / "pad").fingerprints) == {"catalog", "interactions", "embeddings"}


def test_the_same_commands_again_change_no_file(job: Job) -> None:
    before = snapshot(job.ws)
    again = job.steps()
    assert {name: outcome.code for name, outcome in again.items()} == dict.fromkeys(again, 0)
    assert {name: outcome.out for name, outcome in again.items()} == job.printed
    assert snapshot(job.ws) == before


def test_a_run_that_lost_its_report_is_evaluated_but_not_trained_again(job: Job) -> None:
    folder = job.ws / "runs" / "sasrec"
    trained, metrics = snapshot(folder / "phases"), Report.load(folder).metrics
    (folder / "report.json").unlink()
    assert job("train", *TRAIN["sasrec"]).code == 0
    assert snapshot(folder / "phases") == trained
    assert Report.load(folder).metrics == metrics


def test_evaluate_ranks_the_run_again_and_agrees(job: Job) -> None:
    done = job("evaluate", "--name", "pad", "--evaluation.ks", "10", "--evaluation.samples", "20")
    assert done.code == 0, done.err
    ours, again = Report.load(job.ws / "runs/pad"), Report.load(job.ws / "runs/pad/evaluation-test")
    assert again.metrics["test"]["all"]["ndcg@10"] == pytest.approx(ours.metrics["test"]["all"]["ndcg@10"], abs=1e-12)
    assert "coverage@10" in done.out
    assert "…" not in done.out, "figures must not be cut off in a file"


@pytest.mark.parametrize("name", list(TRAIN))
def test_recommend_prints_unseen_items_for_a_user_and_for_a_history(job: Job, name: str) -> None:
    history = [job.world.catalog.item_ids[row - 1] for row in job.world.log.history(1)]
    user = job("recommend", "--name", name, "--user", "user-1", "--k", "4")
    raw = job("recommend", "--name", name, "--history", *history, "--k", "4")
    assert user.code == raw.code == 0, user.err + raw.err
    assert user.out == raw.out
    items = [line.split()[3] for line in user.out.splitlines() if "item-" in line]
    assert len(items) == 4
    assert not set(items) & set(history)


def test_recommend_works_where_only_the_recommender_was_copied(job: Job, tmp_path: Path) -> None:
    Recommender.load(job.ws / "runs/pad/recommender").save(tmp_path / "copy")
    done = call("recommend", "--model", str(tmp_path / "copy"), "--history", "item-3")
    assert done.out == job("recommend", "--name", "pad", "--history", "item-3").out


def test_report_compares_all_runs_in_json_and_on_one_page(job: Job) -> None:
    done = job("report", "--baseline", "sasrec")
    assert done.code == 0, done.err
    comparison = Comparison.load(job.ws / "report")
    assert [report.name for report in comparison.reports] == sorted(TRAIN)
    assert {(named.a, named.b) for named in comparison.differences} == {("sasrec", "pad"), ("sasrec", "sasrec-codes")}
    page = (job.ws / "report" / "report.html").read_text()
    assert all(name in page for name in TRAIN)
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page loads nothing"
    assert "sasrec-codes - sasrec, overall, ndcg@10:" in done.out


REFUSED = {
    "run with other settings": (
        ("train", *TRAIN["sasrec"], "--seed", "1"),
        r"runs/sasrec holds a run with other settings \(seed: 0 there, 1 here\); choose another --name, or pass",
    ),
    "run with other material": (
        ("train", *TRAIN["sasrec-codes"], "--material.codes", "moc"),
        r"runs/sasrec-codes holds a run with other settings \(material.codes: rqkmeans there, moc here\)",
    ),
    "embeddings of another encoder": (
        ("encode", "--preset", "hashing", "--encoder.dim", "8"),
        "embeddings/text holds a finished store made otherwise",
    ),
    "codes of another quantiser": (
        ("index", "--preset", "rqkmeans", *BOOKS, "--seed", "1"),
        "codes/rqkmeans already exists; remove it, choose another folder, or pass --overwrite",
    ),
    "more codes than items": (
        ("index", "--preset", "rqkmeans", "--name", "new"),
        "quantizer: 40 rows cannot fill 256 codes; lower codebook_size to at most 40",
    ),
    "data that changed": (("data", "--core-users", "8"), "interactions already exists; .* pass --overwrite"),
    "unknown run": (
        ("recommend", "--name", "nosuch", "--user", "user-1"),
        r"runs/nosuch/recommender: no recommender here \(the folder does not exist\); "
        "run `llm-rec train --name nosuch` first, or name the right --workspace",
    ),
    "evaluate an unknown run": (("evaluate", "--name", "nosuch"), "holds no run .* train one with `llm-rec train`"),
    "unknown codes": (
        ("train", "--preset", "sasrec-codes", "--name", "new"),
        r"codes/rqvae: no codes here .*; run `llm-rec index --name rqvae` first",
    ),
    "unknown embeddings": (
        ("train", "--preset", "pad", "--name", "new", "--material.embeddings", "other"),
        "embeddings/other: no embeddings here; run `llm-rec encode --name other` first",
    ),
    "unknown item": (
        ("recommend", "--history", "lamp", "item-1"),
        r"1 of 2 item ids are not in the catalog \(lamp\); drop them",
    ),
    "unknown user": (("recommend", "--user", "me"), "user 'me' is not in the log; pass a history of item ids instead"),
    "neither user nor history": (("recommend",), "name a --user, or give a --history of item ids"),
    "baseline that is no run": (("report", "--baseline", "x"), "the baseline 'x' is not among the runs pad, sasrec"),
    "name that leaves the workspace": (("evaluate", "--name", "../pad"), "'../pad' is not a plain name"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_done_is_one_line_and_exit_code_2(job: Job, case: str) -> None:
    (verb, *words), message = REFUSED[case]
    before = snapshot(job.ws)
    done = job.data(*words) if verb == "data" else job(verb, *words)
    assert done.code == 2
    assert done.err.startswith("llm-rec: ")
    assert done.err.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(done.err)
    assert snapshot(job.ws) == before, "a refused command leaves everything as it was"


def test_settings_that_disagree_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    done = call("train", "--workspace", str(tmp_path / "ws"), "--method.model.max-length", "7")
    assert done.code == 2
    message = "batches.max_length is 50 but model.max_length is 7; set both to one value"
    assert message in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("encode", ("--preset", "hashing"), "catalog: no catalog here"),
        ("index", ("--preset", "pq"), "catalog: no catalog here"),
        ("train", (), "catalog: no catalog here"),
        ("evaluate", (), "runs/sasrec holds no run"),
        ("recommend", ("--user", "1"), "no recommender here"),
        ("report", (), "runs holds no evaluated run; train one with `llm-rec train`"),
    ],
)
def test_in_an_empty_workspace_each_verb_names_the_one_to_run_first(tmp_path: Path, verb, words, message) -> None:
    done = call(verb, "--workspace", str(tmp_path / "ws"), *words)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert message in done.err
    assert "`llm-rec data`" in done.err or "`llm-rec train" in done.err
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("file", "damage", "verb", "message"),
    [
        ("catalog/manifest.json", "{", "encode", "catalog/manifest.json: not JSON"),
        ("catalog/manifest.json", '{"kind": "catalog"}', "encode", "catalog/manifest.json: fingerprint: missing"),
        ("catalog/items.parquet", "no parquet", "encode", "catalog/items.parquet: not readable as parquet"),
        ("interactions/manifest.json", None, "train", "interactions: no interactions here (it has no manifest.json)"),
        ("runs/sasrec/inputs.json", None, "train", "inputs.json is missing; train the run again with --overwrite"),
        ("runs/sasrec/run.json", "[]", "evaluate", "run.json: RunSettings: expected settings"),
        ("runs/sasrec/report.json", '{"kind": "page"}', "report", "report.json holds a page, not a report"),
        ("runs/sasrec/targets.npz", None, "report", "run `llm-rec train --name sasrec` again"),
        ("runs/sasrec/recommender/model/model.safetensors", "short", "recommend", "model.safetensors"),
    ],
)
def test_damage_is_named_by_its_file(job: Job, file: str, damage: str | None, verb: str, message: str) -> None:
    path = job.ws / file
    whole = path.read_bytes()
    words = {"encode": ("--preset", "hashing", "--name", "new"), "recommend": ("--user", "user-1")}
    words |= {"train": TRAIN["sasrec"], "evaluate": (), "report": ("--names", "sasrec", "pad")}
    try:
        path.unlink() if damage is None else path.write_text(damage)
        done = job(verb, *words[verb])
    finally:
        path.write_bytes(whole)
    assert done.code == 2, done.out
    assert done.err.count("\n") == 1
    assert message in done.err


def test_other_data_under_a_finished_run_is_refused(job: Job, tmp_path: Path) -> None:
    text = json.loads((job.ws / "runs/sasrec/inputs.json").read_text())
    path = job.ws / "runs/sasrec/inputs.json"
    whole = path.read_bytes()
    try:
        path.write_text(json.dumps({**text, "interactions": "0000"}))
        done = job("train", *TRAIN["sasrec"])
    finally:
        path.write_bytes(whole)
    assert done.code == 2
    assert "runs/sasrec holds a run made from other data (interactions: 0000 there" in done.err


def test_overwrite_starts_a_run_again(job: Job) -> None:
    folder = job.ws / "runs" / "again"
    assert job("train", *TRAIN["sasrec"], "--name", "again").code == 0
    assert job("train", *TRAIN["sasrec"], "--name", "again", "--seed", "3").code == 2
    assert job("train", *TRAIN["sasrec"], "--name", "again", "--seed", "3", "--overwrite").code == 0
    assert Report.load(folder).seeds == {"seed": 3}


def test_item_vectors_of_a_run_are_embeddings_that_letter_aligns_codes_with(job: Job) -> None:
    done = job("encode", "--preset", "run", "--run", "sasrec", "--name", "cf")
    assert done.code == 0, done.err
    recommender = Recommender.load(job.ws / "runs" / "sasrec" / "recommender")
    seen = leave_one_out(recommender.log).train_counts > 0
    found = EmbeddingStore.open(job.ws / "embeddings" / "cf").all()
    assert np.array_equal(found[seen], recommender.item_vectors.numpy()[seen])
    assert not found[~seen].any()
    network = ("--quantizer.autoencoder.hidden-dims", "8", "--quantizer.code-clusters", "2", *BOOKS, *FIT)
    words = ("index", "--preset", "letter", "--collaborative", "cf", *network, "--quantizer.autoencoder.latent-dim")
    done = job(*words, "8")
    assert done.code == 0, done.err
    assert CodeTable.load(job.ws / "codes" / "letter" / "codes.safetensors").items.shape == (40, 2)
    other = job(*words, "4", "--name", "narrow")
    assert other.code == 2
    assert "collaborative vectors are (40, 8), wanted (40, 4)" in other.err
    missing = job("index", "--preset", "letter", "--name", "none", *network)
    assert "`llm-rec encode --preset run --run RUN --name collaborative`" in missing.err
    with pytest.raises(ConfigError, match="vectors of a run are taken as they are; transform and normalise belong to"):
        EncodeJob(run="sasrec", transform="centre")
    with pytest.raises(ConfigError, match="run names vectors of a run; set one of them"):
        EncodeJob(run="sasrec", adapter="tuned")
