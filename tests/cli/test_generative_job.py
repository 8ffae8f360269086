"""A generative run through the command line: train, train again, evaluate, recommend."""

from pathlib import Path

import pytest

from llm_rec.cli import main
from llm_rec.data.synthetic import planted_world
from llm_rec.recipes import index, train_generative
from llm_rec.recipes.index import IndexJob
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.report import Report
from llm_rec.serving.recommender import Recommender
from semantic_ids.quantizers import RQKMeansConfig

SHAPE = "--method.model.shape"
SMALL = (
    f"{SHAPE}.dim", "8", f"{SHAPE}.num-layers", "1", f"{SHAPE}.num-decoder-layers", "1", f"{SHAPE}.num-heads", "1",
    f"{SHAPE}.head-dim", "8", f"{SHAPE}.feed-forward-dim", "8", "--method.trainer.epochs", "1",
    "--method.trainer.eval-every", "1", "--evaluation.samples", "20", "--evaluation.buckets", "2",
)  # fmt: skip


@pytest.fixture(scope="module", name="place")
def fixture_place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return indexed(tmp_path_factory.mktemp("generative"), items=24, codebook_size=2)


def indexed(root: Path, *, items: int, codebook_size: int) -> Workspace:
    """A small planted world with embeddings and codes."""
    world = planted_world(30, items, num_clusters=3, seed=2)
    place = Workspace(root)
    world.catalog.save(place.catalog)
    world.log.save(place.interactions)
    main(["encode", "--workspace", str(place.root), "--preset", "hashing", "--encoder.dim", "16"])
    index.run(IndexJob(workspace=place.root, quantizer=RQKMeansConfig(num_codebooks=2, codebook_size=codebook_size)))
    return place


def train(place: Workspace, *words: str) -> None:
    main(["train", "generative", "--workspace", str(place.root), *SMALL, *words])


def test_a_run_is_trained_once_evaluated_and_recommends(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    train(place)
    folder = place.run("generative")
    report = Report.load(folder)
    weights = folder / "phases" / "01-train" / "model.safetensors"
    trained_at = weights.stat().st_mtime_ns
    train(place)
    assert weights.stat().st_mtime_ns == trained_at
    assert "ndcg@10" in capsys.readouterr().out.lower()

    main(["evaluate", "--workspace", str(place.root), "--name", "generative", "--evaluation.samples", "20"])
    again = Report.load(folder / "evaluation-test")
    assert again.metrics["test"]["all"] == report.metrics["test"]["all"]

    recommender = Recommender.load(folder / "recommender")
    capsys.readouterr()
    main(["recommend", "--workspace", str(place.root), "--name", "generative", "--user", "user-3", "--k", "4"])
    shown = capsys.readouterr().out
    for item in recommender.recommend(user="user-3", k=4):
        assert item.item in shown
    seen = {recommender.catalog.item_ids[row - 1] for row in recommender.log.history(3)}
    assert not seen & {item.item for item in recommender.recommend(user="user-3", k=24)}


def test_codes_are_no_item_vectors(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    train(place)
    with pytest.raises(SystemExit) as stopped:
        main(["encode", "--workspace", str(place.root), "--preset", "run", "--run", "generative", "--name", "cf"])
    assert stopped.value.code == 2
    assert "a generative run ranks by no item vectors" in capsys.readouterr().err


def test_tiger_is_a_preset_of_both_verbs(place: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(train_generative.RECIPE.presets) == {"generative", "tiger"}
    lines = []
    for verb in (["train", "generative"], ["train"]):
        main(["config", "show", *verb, "--preset", "tiger"])
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert "    schedule: inverse_sqrt  # preset tiger" in lines[0]
    assert "  codes: rqvae  # preset tiger" in lines[0]


def test_without_codes_the_message_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = planted_world(10, 12, num_clusters=3, seed=2)
    place = Workspace(tmp_path)
    world.catalog.save(place.catalog)
    world.log.save(place.interactions)
    with pytest.raises(SystemExit) as stop:
        train(place)
    assert stop.value.code == 2
    assert "run `llm-rec index --name rqvae` first" in capsys.readouterr().err
