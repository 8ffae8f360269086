"""Folders from tiny copies of the public releases, in their exact formats."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from llm_rec.data.sources.folder import FolderConfig, load_folder
from llm_rec.errors import DataError
from tests.scripts.loading import load

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_data.py"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    return load("make_data")


@pytest.fixture
def amazon(tmp_path: Path) -> Path:
    """Two users, three items; one item without title and brand, one line about an item nobody bought."""
    ids = {"1": "B01", "2": "B02", "3": "B03"}
    users = {"1": "A1", "2": "A2"}
    maps = {"id2user": users, "user2id": {v: k for k, v in users.items()}}
    maps |= {"id2item": ids, "item2id": {v: k for k, v in ids.items()}}
    (tmp_path / "datamaps.json").write_text(json.dumps(maps))
    (tmp_path / "sequential_data.txt").write_text("1 2 1 3\n2 3 2\n")
    meta = [
        {"asin": "B01", "title": "Nail Lacquer", "brand": "Opal", "categories": [["Beauty", "Nails"], ["Gifts"]]},
        {"asin": "B02", "price": 3.5, "categories": [["Beauty"]]},
        {"asin": "B03", "title": "It's a brush", "brand": None, "categories": []},
        {"asin": "B99", "title": "Not bought", "categories": [[]]},
    ]
    with gzip.open(tmp_path / "meta.json.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{record!r}\n" for record in meta)
    return tmp_path


def run(name: str, raw: Path, out: Path) -> str:
    command = [sys.executable, str(SCRIPT), name, "--raw", str(raw), "--out", str(out)]
    env = {"PYTHONPATH": str(SCRIPT.parents[1]), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout


def test_amazon_folder_keeps_order_and_texts(amazon: Path) -> None:
    out = amazon / "out"
    assert run("amazon2014", amazon, out) == f"{out}: 2 users, 3 items\n"
    catalog, log = load_folder(FolderConfig(path=out))
    assert catalog.item_ids == ("B01", "B02", "B03")
    assert [[catalog.item_ids[row - 1] for row in log.history(user)] for user in range(2)] == [
        ["B02", "B01", "B03"],
        ["B03", "B02"],
    ]
    frame = pd.read_parquet(out / "items.parquet")
    assert frame.to_dict("list") == {
        "item_id": ["B01", "B02", "B03"],
        "title": ["Nail Lacquer", "", "It's a brush"],
        "category_path": ["Beauty > Nails", "Beauty", ""],
        "brand": ["Opal", "", ""],
    }


def test_metadata_is_read_and_never_executed(make: ModuleType, amazon: Path) -> None:
    with gzip.open(amazon / "meta.json.gz", "wt", encoding="utf-8") as file:
        file.write("{'asin': 'B01'}\n__import__('os').getcwd()\n")
    with pytest.raises(DataError, match=r"meta.json.gz, line 2: not a dictionary"):
        make.read_amazon2014(amazon)


def test_a_missing_file_is_named(make: ModuleType, amazon: Path) -> None:
    (amazon / "meta.json.gz").unlink()
    with pytest.raises(DataError, match=r"meta.json.gz: no such file; see the top of this script"):
        make.read_amazon2014(amazon)
    with pytest.raises(DataError, match=r"metadata_Prime_Pantry.csv: no such file"):
        make.read_prime_pantry(amazon)


def test_pantry_histories_become_events(make: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "metadata_Prime_Pantry.csv").write_text('asin,title\nP1,"Soup, tomato"\nP2,Rice\nP3,\n')
    (tmp_path / "Prime_Pantry_cleaned_history.csv").write_text(
        ",user,history\n0,u1,\"['P2', 'P1']\"\n1,u2,\"['P1', 'P2', 'P2']\"\n"
    )
    assert make.write_folder(tmp_path / "out", *make.read_prime_pantry(tmp_path)) == (2, 3)
    events = pd.read_parquet(tmp_path / "out" / "interactions.parquet")
    assert events.to_dict("list") == {
        "user_id": ["u1", "u1", "u2", "u2", "u2"],
        "item_id": ["P2", "P1", "P1", "P2", "P2"],
        "order": [0, 1, 0, 1, 2],
    }
    assert pd.read_parquet(tmp_path / "out" / "items.parquet")["title"].tolist() == ["Soup, tomato", "Rice", ""]


def test_an_item_without_metadata_is_an_error(make: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 items of the histories have no metadata, e.g. 'b'; check the files"):
        make.write_folder(tmp_path, [("u", ["a", "b"])], {"a": {"title": "A"}})


def test_movielens_keeps_the_5_core_and_all_movies(make: ModuleType, tmp_path: Path) -> None:
    raw = tmp_path / "ml-1m"
    raw.mkdir()
    movies = [f"{m}::Film {m} (1990)::Comedy|Drama" for m in range(1, 8)]
    (raw / "movies.dat").write_text("\n".join(movies) + "\n", encoding="latin-1")
    ratings = [f"{u}::{m}::4::{100 * u - m}" for u in range(1, 6) for m in range(1, 6)] + ["6::6::5::1"]
    (raw / "ratings.dat").write_text("\n".join(ratings) + "\n")
    assert make.make_movielens(raw, tmp_path / "out") == (5, 7)
    catalog, log = load_folder(FolderConfig(path=tmp_path / "out"))
    assert (log.num_users, log.num_events, len(catalog)) == (5, 25, 7)
    assert [catalog.item_ids[row - 1] for row in log.history(0)] == ["5", "4", "3", "2", "1"]
