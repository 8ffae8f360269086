"""A hybrid run through the command line: two runs, the weight by validation, served and evaluated like any other."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from llm_rec.artifacts import read_json
from llm_rec.cli import main
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ArtifactError
from llm_rec.generative.hybrid import HybridRecommender
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report
from llm_rec.serving.models import load_model, save_model
from llm_rec.serving.recommender import Recommender
from tests.cli.test_generative_job import SMALL, indexed

FEW = ("--evaluation.samples", "20", "--evaluation.buckets", "2")


@pytest.fixture(scope="module", name="made")
def fixture_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = indexed(tmp_path_factory.mktemp("hybrid"), items=40, codebook_size=3)
    main(["train", "generative", "--workspace", str(place.root), *SMALL])
    main(["train", "--workspace", str(place.root), "--method.trainer.epochs", "2", "--method.model.dim", "8", *FEW])
    return place.root


@pytest.fixture(name="place")
def fixture_place(made: Path, tmp_path: Path) -> Workspace:
    return Workspace(Path(shutil.copytree(made, tmp_path / "ws")))


def train(place: Workspace, *words: str) -> None:
    main(["train", "hybrid", "--workspace", str(place.root), *FEW, *words])


def refusal(place: Workspace, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        train(place, *words)
    return " ".join(capsys.readouterr().err.split())


def test_a_hybrid_is_weighed_evaluated_and_served(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    train(place)
    folder = place.run("hybrid")
    found = read_json(folder / "weights.json")
    tried = dict(found["tried"])
    assert len(tried) == 21
    assert tried[found["weight"]] == max(tried.values())
    report = Report.load(folder)
    assert report.metrics["validation"]["all"]["ndcg@10"] == pytest.approx(tried[found["weight"]])

    made_at = (folder / "report.json").stat().st_mtime_ns
    train(place)
    assert (folder / "report.json").stat().st_mtime_ns == made_at
    assert "weight of the dense side" in capsys.readouterr().out

    main(["evaluate", "--workspace", str(place.root), "--name", "hybrid", *FEW])
    assert Report.load(folder / "evaluation-test").metrics["test"]["all"] == report.metrics["test"]["all"]

    recommender = Recommender.load(folder / "recommender")
    assert recommender.model.config.weight == found["weight"]
    capsys.readouterr()
    main(["recommend", "--workspace", str(place.root), "--name", "hybrid", "--user", "user-3", "--k", "4"])
    shown = capsys.readouterr().out
    assert all(item.item in shown for item in recommender.recommend(user="user-3", k=4))
    unseen = len(recommender.catalog) - len(set(recommender.log.history(3).tolist()))
    assert len(recommender.recommend(user="user-3", k=40)) == unseen
    assert len(recommender.similar_items(recommender.catalog.item_ids[0], k=5)) == 5


def test_the_ends_of_the_weight_are_the_two_runs_among_candidates(place: Workspace) -> None:
    dense = Recommender.load(place.run("sasrec") / "recommender")
    train(place, "--method.search.weight", "1", "--method.no-choose-weight")
    both = Recommender.load(place.run("hybrid") / "recommender")
    for user in ("user-0", "user-7"):
        assert [r.item for r in both.recommend(user=user, k=10)] == [r.item for r in dense.recommend(user=user, k=10)]


def test_a_run_that_was_trained_again_makes_another_hybrid(
    place: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    train(place)
    again = ("--method.trainer.epochs", "1", "--method.model.dim", "8", "--overwrite")
    main(["train", "--workspace", str(place.root), *again, *FEW])
    capsys.readouterr()
    assert "holds a run made from other data (dense:" in refusal(place, capsys)
    train(place, "--overwrite")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--method.dense", "generative"),
            "run 'generative' is generative; method.dense needs a sequential run, or one of pad",
        ),
        (("--method.generative", "sasrec"), "run 'sasrec' is sequential; method.generative needs a generative run"),
        (("--method.dense", "nobody"), "nobody holds no run"),
    ],
)
def test_wrong_runs_are_named(
    place: Workspace, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert message in refusal(place, capsys, *words)


def test_other_data_is_refused(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    world = planted_world(30, 40, num_clusters=3, seed=3)
    world.catalog.save(place.catalog, overwrite=True)
    world.log.save(place.interactions, overwrite=True)
    assert "run 'sasrec' was made from another catalog" in refusal(place, capsys)


def test_a_damaged_hybrid_says_so(place: Workspace, tmp_path: Path) -> None:
    train(place)
    model = load_model(place.run("hybrid") / "recommender" / "model")
    assert isinstance(model, HybridRecommender)
    save_model(model, tmp_path / "again")
    np.save(tmp_path / "again" / "train_counts.npy", np.zeros(3, dtype=np.int64))
    with pytest.raises(ArtifactError, match="not a hybrid as it was saved"):
        load_model(tmp_path / "again")
