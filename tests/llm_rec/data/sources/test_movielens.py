"""MovieLens adapters on a few invented rows in the exact raw layouts."""

import sys
import zipfile

import numpy as np
import pytest

from llm_rec.data import leave_one_out
from llm_rec.data.sources import MovieLensConfig, load_source, obtain_movielens, read_movielens
from llm_rec.data.sources.movielens import find_movielens, installed_recbole
from llm_rec.errors import DataError

# One world in every layout: users 7 and 9, movies 1 and 30 rated, movie 4 never.
U_DATA = "7\t1\t5\t880000003\n9\t30\t2\t880000001\n7\t30\t4\t880000001\n"
U_ITEM = (
    "1|Caf\xe9 Noir, The (1995)|01-Jan-1995||http://example.com/1|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0\n"
    '4|The "Best" One (1996)|||http://example.com/4|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\n'
    "30|Cold Sun (1997)|01-Jan-1997||http://example.com/30|0|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|1\n"
)
RATINGS_DAT = "7::1::5::880000003\n9::30::2::880000001\n7::30::4::880000001\n"
MOVIES_DAT = (
    "1::Caf\xe9 Noir, The (1995)::Action|Film-Noir\n"
    '4::The "Best" One (1996)::\n'
    "30::Cold Sun (1997)::Children's|Comedy|Western\n"
)
RATINGS_CSV = "userId,movieId,rating,timestamp\n7,1,5.0,880000003\n9,30,2.0,880000001\n7,30,4.0,880000001\n"
MOVIES_CSV = (
    'movieId,title,genres\n1,"Caf\xe9 Noir, The (1995)",Action|Film-Noir\n'
    '4,"The ""Best"" One (1996)",(no genres listed)\n'
    "30,Cold Sun (1997),Children's|Comedy|Western\n"
)
INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "7\t1\t5\t880000003\n9\t30\t2\t880000001\n7\t30\t4\t880000001\n"
)
ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "1\tCaf\xe9 Noir, The\t1995\tAction Film-Noir\n"
    '4\tThe "Best" One\t1996\tunknown\n'
    "30\tCold Sun\t1997\tChildren's Comedy Western\n"
)
USER = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n7\t24\tM\tother\t00001\n"

LAYOUTS = {
    "100k": {"ml-100k/u.data": U_DATA.encode(), "ml-100k/u.item": U_ITEM.encode("latin-1")},
    "1m": {"ml-1m/ratings.dat": RATINGS_DAT.encode(), "ml-1m/movies.dat": MOVIES_DAT.encode("latin-1")},
    "10m": {"ratings.dat": RATINGS_DAT.encode(), "movies.dat": MOVIES_DAT.encode("utf-8")},
    "latest": {"ml-latest-small/ratings.csv": RATINGS_CSV.encode(), "ml-latest-small/movies.csv": MOVIES_CSV.encode()},
    "recbole": {
        "recbole/dataset_example/ml-100k/ml-100k.inter": INTER.encode(),
        "recbole/dataset_example/ml-100k/ml-100k.item": ITEM.encode(),
        "recbole/dataset_example/ml-100k/ml-100k.user": USER.encode(),
    },
}


def write_folder(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def check(catalog, log):
    assert catalog.item_ids == ("1", "4", "30")
    assert catalog.texts == (
        "The Caf\xe9 Noir (1995). Action, Film-Noir",
        'The "Best" One (1996).',
        "Cold Sun (1997). Children's, Comedy, Western",
    )
    assert catalog.columns["genres"] == ("Action, Film-Noir", "", "Children's, Comedy, Western")
    assert log.user_ids == ("7", "9")
    assert log.items.tolist() == [3, 1, 3]
    assert log.times.tolist() == [880000001, 880000003, 880000001]
    assert log.catalog == catalog.fingerprint


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_world_from_a_folder(tmp_path, layout):
    check(*read_movielens(write_folder(tmp_path, LAYOUTS[layout])))


@pytest.mark.parametrize(
    ("layout", "name"), [("100k", "a.zip"), ("1m", "a.zip"), ("latest", "a.zip"), ("recbole", "a.whl")]
)
def test_every_layout_gives_the_same_world_inside_an_archive(tmp_path, layout, name):
    check(*load_source(MovieLensConfig(path=write_zip(tmp_path / name, LAYOUTS[layout]))))


def test_layouts_are_recognised(tmp_path):
    for name, files in LAYOUTS.items():
        found = find_movielens(write_folder(tmp_path / name, files)).layout
        assert found == {"10m": "1m"}.get(name, name)


def test_other_texts_and_a_minimum_rating(tmp_path):
    folder = write_folder(tmp_path, LAYOUTS["1m"])
    catalog, log = load_source(MovieLensConfig(path=folder, text=("genres", "title"), min_rating=4.0))
    assert catalog.texts[0] == "Action, Film-Noir. The Caf\xe9 Noir (1995)"
    assert log.num_events == 2
    assert log.dropped.low_rating == 1


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("Lion, The (1994)", "The Lion (1994)"),
        ("Affair, An (1994)", "An Affair (1994)"),
        ("Haine, La (Hate) (1995)", "La Haine (Hate) (1995)"),
        ("Ours, L' (1988)", "L'Ours (1988)"),
        ("Children of Sea, The (Enfants, Les) (1995)", "The Children of Sea (Enfants, Les) (1995)"),
        ("Paris, Texas (1984)", "Paris, Texas (1984)"),
        ("Postman, The", "The Postman"),
        ("Hello, Theodore (1999)", "Hello, Theodore (1999)"),
    ],
)
def test_titles_are_put_in_reading_order(tmp_path, raw, read):
    files = {"movies.dat": f"1::{raw}::Drama\n".encode(), "ratings.dat": b"1::1::5::0\n"}
    assert read_movielens(write_folder(tmp_path, files), text="title")[0].texts == (read,)


def test_several_copies_or_none_are_refused(tmp_path):
    write_folder(tmp_path, LAYOUTS["1m"])
    write_folder(tmp_path, LAYOUTS["100k"])
    with pytest.raises(
        DataError, match=r"several copies of MovieLens \(ml-100k/u.data, ml-1m/ratings.dat\); give the folder"
    ):
        read_movielens(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no MovieLens files here; expected one of these pairs: u.data and u.item; "):
        read_movielens(empty)
    with pytest.raises(DataError, match="no such file or folder"):
        read_movielens(tmp_path / "nowhere")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(DataError, match="neither a folder nor a zip file or wheel"):
        read_movielens(tmp_path / "text.zip")


def test_damaged_files_are_named(tmp_path):
    untyped = {**LAYOUTS["recbole"], "recbole/dataset_example/ml-100k/ml-100k.inter": b"user_id\titem_id\n1\t1\n"}
    with pytest.raises(DataError, match="ml-100k.inter: header 'user_id' has no type; a recbole file writes name:type"):
        read_movielens(write_folder(tmp_path / "a", untyped))
    no_time = {**LAYOUTS["latest"], "ml-latest-small/ratings.csv": b"userId,movieId,rating\n7,1,5.0\n"}
    with pytest.raises(DataError, match=r"ratings.csv: no column 'timestamp'"):
        read_movielens(write_folder(tmp_path / "b", no_time))
    unlisted = {**LAYOUTS["100k"], "ml-100k/u.data": b"7\t99\t5\t1\n7\t1\t5\t1\n"}
    with pytest.raises(DataError, match="column 'item_id': item that the catalog lacks"):
        read_movielens(write_folder(tmp_path / "c", unlisted))
    empty = {**LAYOUTS["latest"], "ml-latest-small/ratings.csv": b""}
    with pytest.raises(DataError, match=r"ratings.csv: not in the expected layout \(No columns to parse"):
        read_movielens(write_folder(tmp_path / "d", empty))


def test_copy_in_the_cache_is_used_without_a_network(tmp_path):
    folder = write_folder(tmp_path / "ml-1m", LAYOUTS["1m"])
    assert obtain_movielens("1m", tmp_path) == folder
    check(*load_source(MovieLensConfig(variant="1m", cache=tmp_path)))


def test_recbole_wheel_in_the_cache_serves_for_100k(tmp_path):
    write_zip(tmp_path / "recbole-1.2.1-py3-none-any.whl", LAYOUTS["recbole"])
    check(*load_source(MovieLensConfig(cache=tmp_path)))


def test_installed_recbole_is_found_without_importing_it(tmp_path, monkeypatch):
    package = write_folder(tmp_path, LAYOUTS["recbole"]) / "recbole"
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed_recbole() == package / "dataset_example" / "ml-100k"
    assert "recbole" not in sys.modules
    check(*load_source(MovieLensConfig(cache=tmp_path / "cache")))


def test_leave_one_out_on_the_tiny_world(tmp_path):
    _, log = read_movielens(write_folder(tmp_path, LAYOUTS["1m"]))
    assert leave_one_out(log).test.tolist() == np.array([], dtype=np.int64).tolist()
