"""Folders and files of one's own."""

from dataclasses import dataclass

import pandas as pd
import pytest

from llm_rec.codec import from_plain, to_plain
from llm_rec.data import LogOptions
from llm_rec.data.sources import (
    AmazonConfig,
    FolderConfig,
    FramesConfig,
    MINDConfig,
    MovieLensConfig,
    SourceConfig,
    load_source,
)
from llm_rec.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    source: SourceConfig


ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b"],
        "title": ["Soap", None],
        "price": [1.5, 2.0],
        "category_path": ["Bath > Soap", "Bath"],
        "brand": ["Acme", "Bolt"],
    }
)
EVENTS = pd.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"], "order": [1, 0, 0]})


@pytest.fixture
def folder(tmp_path):
    ITEMS.to_parquet(tmp_path / "items.parquet")
    EVENTS.to_parquet(tmp_path / "interactions.parquet")
    return tmp_path


def test_all_text_columns_are_joined_in_file_order(folder):
    catalog, log = load_source(FolderConfig(path=folder))
    assert catalog.texts == ("Soap. Bath > Soap. Acme", "Bath. Bolt")
    assert log.items.tolist() == [2, 1, 1]
    assert log.times is None


def test_texts_are_choosable(folder):
    catalog, _ = load_source(FolderConfig(path=folder, text="{brand} {title}", keep=("category_path",)))
    assert catalog.texts == ("Acme Soap", "Bolt")
    assert catalog.columns["category_path"] == ("Bath > Soap", "Bath")


@pytest.mark.parametrize("name", ["time", "timestamp"])
def test_clock_times_are_preferred_to_order(folder, name):
    EVENTS.assign(**{name: [10, 20, 30]}).to_parquet(folder / "interactions.parquet")
    _, log = load_source(FolderConfig(path=folder))
    assert log.times.tolist() == [10, 20, 30]
    assert log.items.tolist() == [1, 2, 1]
    _, by_order = load_source(FolderConfig(path=folder, order="order"))
    assert by_order.times is None


def test_file_order_serves_without_time_and_order(folder):
    EVENTS.drop(columns="order").to_parquet(folder / "interactions.parquet")
    assert load_source(FolderConfig(path=folder))[1].items.tolist() == [1, 2, 1]


def test_incomplete_folders_are_refused(folder):
    ITEMS[["item_id", "price"]].to_parquet(folder / "items.parquet")
    with pytest.raises(
        DataError, match=r"no text column besides 'item_id' \(columns: item_id, price\); name one by text"
    ):
        load_source(FolderConfig(path=folder))
    (folder / "interactions.parquet").unlink()
    with pytest.raises(DataError, match="interactions.parquet: no such file; the folder must hold items.parquet and"):
        load_source(FolderConfig(path=folder))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_files_with_their_own_column_names(tmp_path, suffix):
    items, events = tmp_path / f"goods.{suffix}", tmp_path / f"clicks.{suffix}"
    for frame, path in ((ITEMS, items), (EVENTS.rename(columns={"item_id": "sku", "order": "at"}), events)):
        match suffix:
            case "csv":
                frame.to_csv(path, index=False)
            case "tsv":
                frame.to_csv(path, index=False, sep="\t")
            case "jsonl":
                frame.to_json(path, orient="records", lines=True)
            case "parquet":
                frame.to_parquet(path)
    config = FramesConfig(items=items, interactions=events, text="title", log_item="sku", time="at")
    catalog, log = load_source(config)
    assert catalog.texts == ("Soap", "")
    assert log.times.tolist() == [0, 1, 0]
    assert log.items.tolist() == [2, 1, 1]


def test_unknown_file_types_are_refused(tmp_path):
    config = FramesConfig(items=tmp_path / "items.xlsx", interactions=tmp_path / "log.csv", text="title")
    with pytest.raises(DataError, match=r"items.xlsx: cannot tell the format by the name; use one of .parquet, "):
        load_source(config)


def test_options_reach_the_log(folder):
    extra = pd.concat([EVENTS, pd.DataFrame({"user_id": ["v"], "item_id": ["zzz"], "order": [1]})])
    extra.to_parquet(folder / "interactions.parquet")
    with pytest.raises(DataError, match="item that the catalog lacks"):
        load_source(FolderConfig(path=folder))
    _, log = load_source(FolderConfig(path=folder, options=LogOptions(unknown_items="drop")))
    assert log.dropped.unknown_item == 1


def test_source_configs_are_a_tagged_union(tmp_path):
    configs = (
        MovieLensConfig(variant="1m", min_rating=4.0),
        AmazonConfig(release="2018", reviews=tmp_path / "a.gz", metadata=tmp_path / "b.gz", core=0),
        MINDConfig(paths=(tmp_path,), history=False),
        FolderConfig(path=tmp_path, text=("title", "brand"), options=LogOptions(duplicates="first")),
        FramesConfig(items=tmp_path / "a.csv", interactions=tmp_path / "b.csv", text="{title}", time="at"),
    )
    for config in configs:
        assert from_plain(_Holder, to_plain(_Holder(source=config))).source == config
    with pytest.raises(
        ConfigError,
        match="source.kind: 'folders' is not one of 'movie_lens', 'amazon', 'mind', 'folder', 'frames'; did",
    ):
        from_plain(_Holder, {"source": {"kind": "folders"}})
    with pytest.raises(ConfigError, match="source.varient: unknown key; did you mean 'variant'"):
        from_plain(_Holder, {"source": {"kind": "movie_lens", "varient": "1m"}})
    with pytest.raises(ConfigError, match="source.options: rating and min_rating go together"):
        from_plain(_Holder, {"source": {"kind": "folder", "path": "x", "options": {"rating": "stars"}}})
