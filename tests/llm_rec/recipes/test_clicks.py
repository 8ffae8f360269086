"""Click logs from a workspace's interactions: columns of items and users become fields."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ctr_models.schema import Numerals
from llm_rec.artifacts import read_manifest
from llm_rec.ctr.behaviour_rows import ImpressionRowsConfig, OffsetRowsConfig
from llm_rec.ctr.log_rows import LogRowsConfig
from llm_rec.ctr.similarity import SimilarityConfig
from llm_rec.data import Catalog, Interactions
from llm_rec.data.columns import ClickLog
from llm_rec.data.sources.taobao import TaobaoConfig
from llm_rec.data.synthetic import planted_world
from llm_rec.encoders import HashingEncoderConfig
from llm_rec.errors import ArtifactError, ConfigError, DataError
from llm_rec.recipes import encode
from llm_rec.recipes.click_logs import InteractionRowsConfig, click_log
from llm_rec.recipes.clicks import RECIPE, BehavioursConfig, ClicksJob, InteractionsConfig, run


@pytest.fixture
def taobao_file(tmp_path):
    """30 users with 1 to 30 page views each, and carts between them."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(1, 31):
        for place in range(user):
            item = rng.integers(1, 80)
            lines += [
                f"{user},{item},{item % 7},pv,{1000 + place}\n",
                f"{user},{item},{item % 7},cart,{1000 + place}\n",
            ]
    (tmp_path / "UserBehavior.csv").write_text("".join(lines))
    return tmp_path / "UserBehavior.csv"


@pytest.fixture
def place(tmp_path):
    world = planted_world(40, 24, num_clusters=3, seed=1)
    colours = [f"colour-{cluster}" for cluster in world.clusters[1:]]
    catalog = Catalog(list(world.catalog.item_ids), list(world.catalog.texts), {"colour": colours})
    log = world.log
    moved = Interactions(
        list(log.user_ids), log.offsets, log.items, log.times, num_items=24, catalog=catalog.fingerprint
    )
    catalog.save(tmp_path / "ws" / "catalog")
    moved.save(tmp_path / "ws" / "interactions")
    pd.DataFrame({"who": log.user_ids, "age": [str(20 + n % 3) for n in range(40)]}).to_csv(
        tmp_path / "users.csv", index=False
    )
    return tmp_path


def job(place, *, name="clicks", overwrite=False, **settings):
    return ClicksJob(workspace=place / "ws", name=name, overwrite=overwrite, source=InteractionsConfig(**settings))


def test_text_embeddings_give_the_similarity_of_user_and_item(place):
    with pytest.raises(ArtifactError, match="no embeddings here; run `llm-rec encode --name text` first"):
        run(job(place, embeddings="text"))
    encode.run(encode.EncodeJob(workspace=place / "ws", encoder=HashingEncoderConfig(dim=16)))
    log = run(job(place, embeddings="text"))
    assert log.schema.fields[-1] == Numerals(name="similarity", size=1026)
    assert len(np.unique(log.part("train").ids[:, -1])) > 20
    finer = run(job(place, name="finer", embeddings="text", rows=LogRowsConfig(similarity=SimilarityConfig(levels=9))))
    assert finer.schema.fields[-1].size == 11
    with pytest.raises(ConfigError, match=r"rows.similarity compares text embeddings; set embeddings to their name"):
        job(place, rows=LogRowsConfig(similarity=SimilarityConfig()))


def test_columns_of_items_and_users_are_fields(place, capsys):
    users = {"users": place / "users.csv", "user": "who", "user_columns": ("age",)}
    log = run(job(place, item_columns=("colour",), **users))
    sizes = {found.name: found.size - 2 for found in log.schema.fields}
    assert sizes == {"user": 40, "item": sizes["item"], "age": 3, "colour": 3}
    assert {part: rows for part, rows in log.rows.items() if part != "train"} == {"validation": 80, "test": 80}
    inputs = read_manifest(log.path).inputs
    assert set(inputs) == {"catalog", "interactions"}
    printed = capsys.readouterr().out
    assert "0.5000" in printed
    again = run(job(place, item_columns=("colour",), **users))
    assert again.fingerprint == log.fingerprint


def test_other_rows_under_one_name_need_overwrite(place):
    first = run(job(place))
    message = "holds a click log made from other data or settings; choose another --name, or pass --overwrite"
    with pytest.raises(ArtifactError, match=message):
        run(job(place, rows=LogRowsConfig(seed=1)))
    second = run(job(place, rows=LogRowsConfig(seed=1), overwrite=True))
    assert second.fingerprint != first.fingerprint


def test_rows_of_the_workspace_have_histories(place, capsys):
    log = run(
        job(place, first_pieces=("colour",), separator="-", rows=LogRowsConfig(history_fields=("item", "colour")))
    )
    assert log.schema.history == ("item", "colour")
    assert log.part("test").windows.shape == (80, 2)
    printed = capsys.readouterr().out
    assert "in the past" in printed
    assert {found.name: found.size - 2 for found in log.schema.fields}["colour"] == 1


def test_rows_of_the_workspace_can_follow_the_rule_of_offsets(place):
    rule = OffsetRowsConfig(min_events=6, train_positives=2, train_step=1)
    log = run(job(place, item_columns=("colour",), rule=rule))
    assert log.schema.history == ("item", "colour")
    assert log.rows["train"] == 2 * log.rows["test"]
    assert set(read_manifest(log.path).inputs) == {"catalog", "interactions"}
    with pytest.raises(ConfigError, match="rule makes rows of items and their columns; leave out users, codes and"):
        InteractionsConfig(rule=rule, codes="moc")


def test_taobao_becomes_rows_with_histories(tmp_path, taobao_file, capsys):
    rule = OffsetRowsConfig(min_events=25, train_positives=2)
    source = BehavioursConfig(log=TaobaoConfig(path=taobao_file), rule=rule)
    log = run(ClicksJob(workspace=tmp_path / "ws", source=source))
    assert dict(log.rows) == {"train": 6 * 2 * 3, "validation": 18, "test": 18}
    assert [column.spec.name for column in log.columns] == ["item", "category"]
    printed = capsys.readouterr().out
    for word in ("930", "465", "kept users", "4,068,790", "in the past"):
        assert word in printed
    assert [path.name for path in log.path.parent.iterdir()] == [log.path.name]
    again = run(ClicksJob(workspace=tmp_path / "ws", source=source))
    assert again.fingerprint == log.fingerprint
    with pytest.raises(ArtifactError, match="other data or settings; choose another --name, or pass --overwrite"):
        run(ClicksJob(workspace=tmp_path / "ws", source=replace(source, rule=replace(rule, seed=1))))
    with pytest.raises(DataError, match=r"none of 30 users has 210 events \(the most is 30\); lower min_events"):
        run(ClicksJob(workspace=tmp_path / "ws", name="b", source=replace(source, rule=OffsetRowsConfig())))
    assert [path.name for path in log.path.parent.iterdir()] == [log.path.name]


def test_presets_of_behaviour_logs_name_their_files_and_rules(tmp_path):
    presets = RECIPE.presets
    assert presets["taobao"].source.rule == presets["tmall"].source.rule == OffsetRowsConfig()
    assert presets["kuairand"].source.rule == ImpressionRowsConfig()
    for name in ("taobao", "tmall", "kuairand"):
        with pytest.raises(DataError, match="no such file|give the folder with KuaiRand's csv files"):
            run(replace(presets[name], workspace=tmp_path / "ws"))
    with pytest.raises(ConfigError, match="KuaiRand has impressions and takes the rule for them"):
        replace(presets["kuairand"].source, rule=OffsetRowsConfig())


@pytest.mark.parametrize(
    ("column", "values"), [("genres", ["a|b", "b", "a"]), ("category_path", ["x > y", "x > z", "x"])]
)
def test_a_folder_of_interactions_becomes_rows_with_histories(tmp_path, column, values):
    data = tmp_path / "data"
    data.mkdir()
    items = {"item_id": [str(n) for n in range(9)], "title": ["t"] * 9, column: values * 3}
    pd.DataFrame(items).to_parquet(data / "items.parquet")
    events = [(f"u{user}", str((3 * user + order) % 8), order) for user in range(4) for order in range(6)]
    pd.DataFrame(events, columns=["user_id", "item_id", "order"]).to_parquet(data / "interactions.parquet")
    config = InteractionRowsConfig(last=3, histories=True)
    log = ClickLog.load(click_log(data, tmp_path / "logs", config))
    assert dict(log.rows) == {"train": 8, "validation": 8, "test": 8}
    assert log.schema.history == ("item", "category")
    lengths = {part: np.diff(np.asarray(log.part(part).windows)).ravel().tolist() for part in log.rows}
    assert lengths == {"train": [3] * 8, "validation": [4] * 8, "test": [5] * 8}
    plain = click_log(data, tmp_path / "logs", InteractionRowsConfig(last=3)) if column == "genres" else None
    assert plain is None or ClickLog.load(plain).events is None


def test_histories_need_a_category(tmp_path):
    pd.DataFrame({"item_id": ["1"], "title": ["t"]}).to_parquet(tmp_path / "items.parquet")
    pd.DataFrame({"user_id": ["u"], "item_id": ["1"], "order": [0]}).to_parquet(tmp_path / "interactions.parquet")
    with pytest.raises(DataError, match="no column genres or category_path; histories need a category of items"):
        click_log(tmp_path, tmp_path / "logs", InteractionRowsConfig(histories=True))
    with pytest.raises(ValueError, match=r"last must be at least 3 \(train, validation, test\), got 2"):
        InteractionRowsConfig(last=2)


def test_what_is_missing_is_named(place):
    with pytest.raises(ConfigError, match="user_columns are read from a table of users; set users to its file"):
        InteractionsConfig(user_columns=("age",))
    with pytest.raises(DataError, match="colur"):
        run(job(place, item_columns=("colur",)))
    with pytest.raises(ArtifactError, match="run `llm-rec index --name moc` first, or name the right --workspace"):
        run(job(place, codes="moc"))
    with pytest.raises(ArtifactError, match="run `llm-rec data` first"):
        run(ClicksJob(workspace=place / "none"))
