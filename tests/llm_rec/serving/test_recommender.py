"""The recommender: exact lists, clear messages, and the same answers after a save."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_rec.artifacts import read_json, write_json
from llm_rec.data import leave_one_out
from llm_rec.data.synthetic import PlantedWorld, planted_world
from llm_rec.data.user_keys import user_keys
from llm_rec.errors import ArtifactError, DataError
from llm_rec.generative.model import GenerativeConfig, GenerativeModel
from llm_rec.generative.search import score_all
from llm_rec.generative.t5 import T5ShapeConfig
from llm_rec.pad.model import PADConfig, PADModel
from llm_rec.sequential.items import ItemSources
from llm_rec.sequential.model import SequentialConfig, SequentialModel
from llm_rec.sequential.sasrec import SASRecConfig
from llm_rec.serving.models import load_model
from llm_rec.serving.recommender import Recommender
from semantic_ids.code_table import CodeTable

BACKBONE = SASRecConfig(num_layers=1, num_heads=1)
MODELS = ("sequential", "pad")


@pytest.fixture(scope="module")
def world() -> PlantedWorld:
    return planted_world(30, 24, num_clusters=3, dim=6, seed=1)


def build(world: PlantedWorld, kind: str = "sequential") -> SequentialModel | PADModel:
    torch.manual_seed(0)
    sources = ItemSources.from_split(leave_one_out(world.log), embeddings=world.embeddings)
    if kind == "pad":
        return PADModel(PADConfig(dim=8, max_length=5, backbone=BACKBONE), sources)
    return SequentialModel(SequentialConfig(dim=8, max_length=5, backbone=BACKBONE), sources)


@pytest.fixture(scope="module", params=MODELS)
def recommender(request: pytest.FixtureRequest, world: PlantedWorld) -> Recommender:
    return Recommender(build(world, request.param), world.catalog, world.log)


def naive(recommender: Recommender, history: np.ndarray, k: int, *, exclude_seen: bool) -> list[str]:
    """Every item scored alone in float64, sorted by (score, row)."""
    recent = torch.tensor(history[-recommender.model.max_length :])[None]
    with torch.no_grad():
        user = recommender.model.user_vectors(recent if recent.numel() else torch.zeros(1, 1, dtype=torch.int64))
    hidden = set(history.tolist()) if exclude_seen else set()
    scores = (user.double() @ recommender.item_vectors.double().T)[0]
    rows = [row for row in range(1, len(scores)) if row not in hidden]
    return [f"item-{row}" for row in sorted(rows, key=lambda row: (-float(scores[row]), row))[:k]]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_are_those_of_a_loop_over_every_item(recommender: Recommender, exclude_seen: bool) -> None:
    for user in range(5):
        history = np.asarray(recommender.log.history(user))
        found = recommender.recommend(user=f"user-{user}", k=7, exclude_seen=exclude_seen)
        assert [item.item for item in found] == naive(recommender, history, 7, exclude_seen=exclude_seen)


def test_a_raw_history_gives_the_list_of_the_user_who_has_it(recommender: Recommender, world: PlantedWorld) -> None:
    history = [world.catalog.item_ids[row - 1] for row in world.log.history(3)]
    assert recommender.recommend(history) == recommender.recommend(user="user-3")


def test_texts_and_scores_belong_to_the_items(recommender: Recommender, world: PlantedWorld) -> None:
    found = recommender.recommend(["item-1", "item-2"], k=24)
    assert all(item.text == world.catalog.texts[world.catalog.rows([item.item])[0] - 1] for item in found)
    assert [item.score for item in found] == sorted((item.score for item in found), reverse=True)


def test_seen_items_leave_the_list_also_those_before_the_window(recommender: Recommender) -> None:
    history = [f"item-{row}" for row in range(1, 11)]  # the window holds the last five
    found = recommender.recommend(history, k=24)
    assert {item.item for item in found} == {f"item-{row}" for row in range(11, 25)}
    assert len(recommender.recommend(history, k=24, exclude_seen=False)) == 24


def test_equal_scores_come_in_the_order_of_the_catalog(world: PlantedWorld) -> None:
    model = build(world)
    with torch.no_grad():
        model.items.table.weight[1:] = model.items.table.weight[1]
    recommender = Recommender(model, world.catalog)
    assert [item.item for item in recommender.recommend(["item-2"], k=4)] == ["item-1", "item-3", "item-4", "item-5"]


def test_an_empty_history_ranks_the_whole_catalog(recommender: Recommender) -> None:
    found = recommender.recommend([], k=100)
    assert [item.item for item in found] == naive(recommender, np.empty(0, np.int64), 24, exclude_seen=True)


def test_many_histories_at_once_are_each_alone(recommender: Recommender, world: PlantedWorld) -> None:
    histories = [np.asarray(world.log.history(user % 30)) for user in range(300)]  # more than one slab
    together = recommender.recommend_rows(histories, k=3)
    alone = [recommender.recommend_rows([history], k=3)[0] for history in histories[:30]]
    assert [[i.item for i in some] for some in together[:30]] == [[i.item for i in some] for some in alone]
    assert len(together) == 300
    assert together[:30] == together[270:]
    assert recommender.recommend_rows([]) == []


def test_similar_items_are_the_nearest_by_cosine(recommender: Recommender) -> None:
    vectors = recommender.item_vectors[1:].double()
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    cosines = unit @ unit[4]
    cosines[4] = -2
    found = recommender.similar_items("item-5", k=3)
    assert [item.item for item in found] == [f"item-{int(row) + 1}" for row in cosines.argsort(descending=True)[:3]]
    assert [item.score for item in found] == pytest.approx(cosines.sort(descending=True).values[:3].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"history": ["item-1", "lamp", "7"]}, r"^2 of 3 item ids are not in the catalog \(lamp, 7\); drop them"),
        ({"user": "nobody"}, "^user 'nobody' is not in the log; pass a history of item ids instead$"),
        ({}, "^pass either a history of item ids or a user id, not both and not neither$"),
        ({"history": [], "user": "user-1"}, "not both and not neither$"),
        ({"history": ["item-1"], "k": 0}, "^k must be at least 1, got 0$"),
    ],
)
def test_a_wrong_request_is_answered_by_its_value(recommender: Recommender, arguments, message: str) -> None:
    with pytest.raises(DataError, match=message):
        recommender.recommend(**arguments)


@pytest.mark.parametrize("row", [0, -1, 25])
def test_rows_outside_the_catalog_are_refused(recommender: Recommender, row: int) -> None:
    with pytest.raises(DataError, match=f"^histories hold item rows 1..24, got values from .*{row}"):
        recommender.recommend_rows([np.array([1]), np.array([row])])


def test_without_a_log_there_are_no_users(world: PlantedWorld) -> None:
    with pytest.raises(DataError, match="^this recommender was saved without a log, so it knows no users; pass a hist"):
        Recommender(build(world), world.catalog).recommend(user="user-1")


def test_a_model_of_another_catalog_is_refused(world: PlantedWorld) -> None:
    other = planted_world(10, 20, num_clusters=2)
    with pytest.raises(
        ArtifactError, match="^the model knows 24 items but the catalog has 20; use the catalog the mod"
    ):
        Recommender(build(world), other.catalog)


@pytest.mark.parametrize("with_log", [True, False])
def test_a_saved_recommender_answers_bit_for_bit(recommender: Recommender, tmp_path: Path, with_log: bool) -> None:
    before = Recommender(recommender.model, recommender.catalog, recommender.log if with_log else None)
    before.save(tmp_path / "saved")
    after = Recommender.load(tmp_path / "saved")
    assert torch.equal(before.item_vectors, after.item_vectors)
    assert type(after.model) is type(before.model)
    assert before.recommend(["item-4", "item-9"], k=24) == after.recommend(["item-4", "item-9"], k=24)
    assert (after.log is not None) == with_log
    if with_log:
        assert before.recommend(user="user-2") == after.recommend(user="user-2")


def test_saving_over_another_needs_overwrite(recommender: Recommender, tmp_path: Path) -> None:
    recommender.save(tmp_path / "saved")
    with pytest.raises(ArtifactError, match="already exists"):
        recommender.save(tmp_path / "saved")
    recommender.save(tmp_path / "saved", overwrite=True)


def test_folders_that_hold_something_else_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no recommender here \(the folder does not exist\)"):
        Recommender.load(tmp_path / "nothing")
    recommender.catalog.save(tmp_path / "catalog")
    with pytest.raises(ArtifactError, match="holds a catalog, not a recommender"):
        Recommender.load(tmp_path / "catalog")
    with pytest.raises(ArtifactError, match="holds a catalog, not a trained model"):
        load_model(tmp_path / "catalog")
    recommender.save(tmp_path / "saved")
    manifest = read_json(tmp_path / "saved" / "manifest.json")
    write_json(tmp_path / "saved" / "manifest.json", {**manifest, "colour": "red"})
    with pytest.raises(ArtifactError, match=r"manifest.json: colour: unknown key"):
        Recommender.load(tmp_path / "saved")


@pytest.fixture(scope="module")
def writer(world: PlantedWorld) -> Recommender:
    torch.manual_seed(0)
    codes = CodeTable.from_codes(np.random.default_rng(0).integers(0, 4, (24, 2)), (4, 4)).with_digit()
    shape = T5ShapeConfig(dim=8, num_layers=1, num_decoder_layers=1, num_heads=2, head_dim=4, feed_forward_dim=8)
    config = GenerativeConfig(shape=shape, max_length=3, num_users=5, beams=24)
    return Recommender(GenerativeModel(config, codes), world.catalog, world.log)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_lists_of_a_generative_model_are_those_of_scoring_every_item(
    writer: Recommender, world: PlantedWorld, exclude_seen: bool
) -> None:
    for user in range(3):
        history = np.asarray(world.log.history(user))
        key = torch.from_numpy(user_keys([f"user-{user}"]))
        scores = score_all(writer.model, torch.from_numpy(history[None].astype(np.int64)), key)[0]
        hidden = {0, *history.tolist()} if exclude_seen else {0}
        rows = [row for row in scores.argsort(descending=True).tolist() if row not in hidden][:5]
        found = writer.recommend(user=f"user-{user}", k=5, exclude_seen=exclude_seen)
        assert [item.item for item in found] == [f"item-{row}" for row in rows]
        assert [item.score for item in found] == pytest.approx(scores[rows].tolist(), abs=1e-4)


def test_a_generative_model_tells_users_apart_and_takes_histories_of_nobody(writer: Recommender) -> None:
    histories = [np.array([1, 2]), np.array([1, 2]), np.array([], dtype=np.int64)]
    one, other, _ = writer.recommend_rows(histories, users=["a", "b", "c"], k=24)
    assert one != other
    assert [item.item for item in writer.recommend(["item-1", "item-2"], k=24)]
    with pytest.raises(DataError, match="2 users were given for 3 histories; give one for each, or none"):
        writer.recommend_rows(histories, users=["a", "b"])


def test_a_saved_generative_recommender_gives_the_same_lists(writer: Recommender, tmp_path: Path) -> None:
    writer.save(tmp_path / "r")
    again = Recommender.load(tmp_path / "r")
    assert isinstance(again.model, GenerativeModel)
    assert again.recommend(user="user-3", k=24) == writer.recommend(user="user-3", k=24)


def test_a_generative_model_has_no_similar_items(writer: Recommender, world: PlantedWorld) -> None:
    assert writer.item_vectors is None
    with pytest.raises(DataError, match="a generative model has no item vectors; use a run of SASRec or PAD"):
        writer.similar_items("item-1")
    with pytest.raises(ArtifactError, match="the model knows 24 items but the catalog has 12"):
        Recommender(writer.model, planted_world(10, 12, num_clusters=3).catalog)
