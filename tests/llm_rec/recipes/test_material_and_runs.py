"""Material is checked to belong together; runs keep what paired tests need and refuse what does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_rec.data import Catalog, GlobalTimeConfig
from llm_rec.data.synthetic import PlantedWorld, planted_world
from llm_rec.encoders import HashingEncoderConfig, build_encoder, encode_catalog
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.recipes.console import text_of
from llm_rec.recipes.evaluation import Evaluation, EvaluationConfig, evaluate
from llm_rec.recipes.material import MaterialConfig, open_material
from llm_rec.recipes.methods import SequentialMethodConfig
from llm_rec.recipes.runs import RunSettings, history_of, load_targets, read_settings_of, save_targets, train_run
from llm_rec.recipes.workspace import Workspace
from llm_rec.sequential.batches import BatchConfig
from llm_rec.sequential.model import SequentialConfig
from llm_rec.training.trainer import TrainerConfig, TrainResult

ENCODER = HashingEncoderConfig(dim=8)
METHOD = SequentialMethodConfig(
    model=SequentialConfig(dim=4, max_length=5),
    batches=BatchConfig(max_length=5),
    trainer=TrainerConfig(epochs=1),
)


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted_world(40, 24, num_clusters=3, seed=5)


@pytest.fixture
def place(world: PlantedWorld, tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "ws")
    world.catalog.save(workspace.catalog)
    world.log.save(workspace.interactions)
    encode_catalog(world.catalog, build_encoder(ENCODER), workspace.embeddings("text"))
    return workspace


def settings(**changes: object) -> RunSettings:
    given = {"method": METHOD, "material": MaterialConfig(), "evaluation": EvaluationConfig(samples=5), "seed": 0}
    return RunSettings(**{**given, **changes})


def test_material_names_the_fingerprints_of_what_it_reads(place: Workspace, world: PlantedWorld) -> None:
    material = open_material(place, MaterialConfig())
    assert material.inputs["catalog"] == world.catalog.fingerprint
    assert list(material.inputs) == ["catalog", "interactions", "embeddings"]
    assert material.sources().embeddings.shape == (25, 8)
    assert open_material(place, MaterialConfig(embeddings=None)).embeddings is None


def test_embeddings_of_another_catalog_are_refused(place: Workspace, world: PlantedWorld) -> None:
    other = Catalog(world.catalog.item_ids, [text + "!" for text in world.catalog.texts])
    encode_catalog(other, build_encoder(ENCODER), place.embeddings("other"))
    with pytest.raises(ArtifactError, match=r"other was made from catalog \w+, but the catalog given here is \w+"):
        open_material(place, MaterialConfig(embeddings="other"))


def test_a_log_of_another_catalog_is_refused(place: Workspace, world: PlantedWorld) -> None:
    Catalog(world.catalog.item_ids, ["x"] * 24).save(place.catalog, overwrite=True)
    with pytest.raises(ArtifactError, match="interactions was made from catalog"):
        open_material(place, MaterialConfig(embeddings=None))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b"])
def test_names_are_one_word(name: str) -> None:
    for path in (Workspace(Path("w")).run, Workspace(Path("w")).codes, Workspace(Path("w")).embeddings):
        with pytest.raises(ArtifactError, match="is not a plain name"):
            path(name)


def test_a_run_is_made_once(place: Workspace) -> None:
    material = open_material(place, MaterialConfig())
    first, trained = train_run("a", settings(), material, place.run("a"))
    again, loaded = train_run("a", settings(), material, place.run("a"))
    assert first == again
    assert torch.equal(trained.model.item_vectors(), loaded.model.item_vectors())
    assert read_settings_of(place.run("a")) == settings()
    more = SequentialMethodConfig(model=METHOD.model, batches=METHOD.batches, trainer=TrainerConfig(epochs=2))
    with pytest.raises(ConfigError, match=r"other settings \(method.trainer.epochs: 1 there, 2 here\)"):
        train_run("a", settings(method=more), material, place.run("a"))


def test_a_run_on_a_later_log_is_refused(place: Workspace, world: PlantedWorld) -> None:
    train_run("a", settings(), open_material(place, MaterialConfig()), place.run("a"))
    kept = np.ones(world.log.num_events, dtype=bool)
    kept[0] = False
    world.log.select(kept).save(place.interactions, overwrite=True)
    with pytest.raises(ConfigError, match=r"other data \(interactions: \w+ there, \w+ here\)"):
        train_run("a", settings(), open_material(place, MaterialConfig()), place.run("a"))


def test_a_global_time_split_has_no_leakage_and_is_evaluated(place: Workspace) -> None:
    config = MaterialConfig(split=GlobalTimeConfig())
    report, _ = train_run("later", settings(material=config), open_material(place, config), place.run("later"))
    assert report.counts["test"]["all"] == len(load_targets(place.run("later"))[0]["mrr"])
    assert open_material(place, config).split.leakage == 0


def test_targets_survive_the_way_to_disk(tmp_path: Path) -> None:
    metrics, masks = {"ndcg@10": np.array([0.5, 1.0])}, {"all": np.array([True, True]), "lt5": np.array([True, False])}
    save_targets(tmp_path / "targets.npz", Evaluation(np.array([3, 4]), metrics, masks, {}, 0.5))
    found, slices = load_targets(tmp_path)
    assert {k: v.tolist() for k, v in found.items()} == {"ndcg@10": [0.5, 1.0]}
    assert {k: v.tolist() for k, v in slices.items()} == {"all": [True, True], "lt5": [True, False]}


def test_coverage_counts_items_of_the_first_lists(place: Workspace) -> None:
    material = open_material(place, MaterialConfig())
    _, trained = train_run("a", settings(), material, place.run("a"))
    found = evaluate(trained.model, material, "test", EvaluationConfig(ks=(24,), samples=5))
    assert found.coverage == 1
    assert found.per_target["recall@24"].tolist() == [1.0] * 40


def test_unseen_targets_are_ranked_among_unseen_items_too(place: Workspace) -> None:
    material = open_material(place, MaterialConfig())
    _, trained = train_run("a", settings(), material, place.run("a"))
    found = evaluate(trained.model, material, "test", EvaluationConfig(ks=(1, 2), samples=5))
    split = material.split
    history, vectors = trained.model.user_vectors, trained.model.item_vectors()
    unseen = np.flatnonzero(split.train_counts[1:] == 0) + 1
    hits = []
    for event in split.test[split.train_counts[split.log.items[split.test]] == 0]:
        start = split.log.offsets[split.log.users_of(np.array([event]))[0]]
        user = history(torch.tensor(np.array(split.log.items[start:event])[None, -5:]))
        scores = (vectors[unseen] @ user[0]).tolist()
        own = scores[unseen.tolist().index(split.log.items[event])]
        hits.append(sum(score > own for score in scores) < 2)
    among = found.summary["among_unseen"]
    assert (among.count, among.mean["recall@2"]) == (len(hits), np.mean(hits))
    assert among.count == found.summary["unseen"].count > 3
    assert among.mean["recall@2"] > found.summary["unseen"].mean["recall@2"]


def test_a_pool_no_larger_than_k_is_not_ranked(place: Workspace) -> None:
    material = open_material(place, MaterialConfig())
    _, trained = train_run("a", settings(), material, place.run("a"))
    unseen = int((material.split.train_counts[1:] == 0).sum())
    kept = [
        "among_unseen" in evaluate(trained.model, material, "test", EvaluationConfig(ks=(k,), samples=5)).summary
        for k in (unseen - 1, unseen)
    ]
    assert kept == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ks": ()}, "ks must be at least 1 each"), ({"ks": (0,)}, "ks must be"), ({"samples": 0}, "must be at least 1")],
)
def test_wrong_evaluation_settings_are_refused(changes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EvaluationConfig(**changes)


def test_history_counts_epochs_over_all_phases() -> None:
    def result(*entries: dict[str, object]) -> TrainResult:
        return TrainResult(best_epoch=1, best_value=None, history=list(entries))

    one = result({"epoch": 1, "losses": {"ce": 2.0}, "metrics": {"ndcg@10": 0.1}, "seconds": 3.0})
    two = result({"epoch": 1, "losses": {"mmd": 1.0}, "metrics": None, "seconds": 1.0}, {"epoch": 2, "losses": {}})
    assert history_of({"a": one, "b": two}) == [
        {"epoch": 1.0, "phase": 1.0, "loss/ce": 2.0, "ndcg@10": 0.1, "seconds": 3.0},
        {"epoch": 2.0, "phase": 2.0, "loss/mmd": 1.0, "seconds": 1.0},
        {"epoch": 3.0, "phase": 2.0},
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "True"), (1234567, "1,234,567"), (0.12345, "0.1235"), ((1, 2.5), "1, 2.5000"), ("a", "a")],
)
def test_figures_read_well(value: object, text: str) -> None:
    assert text_of(value) == text
