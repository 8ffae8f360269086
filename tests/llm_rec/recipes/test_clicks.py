"""Click logs from a workspace's interactions: columns of items and users become fields."""

import pandas as pd
import pytest

from llm_rec.artifacts import read_manifest
from llm_rec.ctr.log_rows import LogRowsConfig
from llm_rec.data import Catalog, Interactions
from llm_rec.data.synthetic import planted_world
from llm_rec.errors import ArtifactError, ConfigError, DataError
from llm_rec.recipes.clicks import ClicksJob, InteractionsConfig, run


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


def test_what_is_missing_is_named(place):
    with pytest.raises(ConfigError, match="user_columns are read from a table of users; set users to its file"):
        InteractionsConfig(user_columns=("age",))
    with pytest.raises(DataError, match="colur"):
        run(job(place, item_columns=("colur",)))
    with pytest.raises(ArtifactError, match="run `llm-rec index --name moc` first, or name the right --workspace"):
        run(job(place, codes="moc"))
    with pytest.raises(ArtifactError, match="run `llm-rec data` first"):
        run(ClicksJob(workspace=place / "none"))
