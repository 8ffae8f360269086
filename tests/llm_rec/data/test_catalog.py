"""Catalogs: from tables to rows and texts, errors that name the rows, and files that give the same catalog back."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_rec.data import Catalog
from llm_rec.errors import ArtifactError, DataError

FRAME = pd.DataFrame(
    {
        "asin": ["a1", "b2", "c3"],
        "title": ["Red &amp; blue  shoe", None, "Hat\n\u00a0of\twool "],
        "brand": ["Acme", "Bolt", None],
    }
)


def refused(frame, *, item="asin", text="title", **options):
    with pytest.raises(DataError) as caught:
        Catalog.from_frame(frame, item=item, text=text, **options)
    return str(caught.value)


def test_template_fills_columns_unescapes_entities_and_normalises_blanks():
    catalog = Catalog.from_frame(FRAME, item="asin", text="{title} by {brand}")
    assert catalog.item_ids == ("a1", "b2", "c3")
    assert catalog.texts == ("Red & blue shoe by Acme", "by Bolt", "Hat of wool by")


def test_one_column_several_columns_and_empty_pieces():
    assert Catalog.from_frame(FRAME, item="asin", text="title").texts == ("Red & blue shoe", "", "Hat of wool")
    joined = Catalog.from_frame(FRAME, item="asin", text=["title", "brand"])
    assert joined.texts == ("Red & blue shoe. Acme", "Bolt", "Hat of wool")


def test_template_without_any_filled_column_is_an_empty_text():
    frame = pd.DataFrame({"id": [1], "title": [None], "brand": [""]})
    assert Catalog.from_frame(frame, item="id", text="{title} by {brand}").texts == ("",)


def test_template_may_repeat_columns_use_blanks_in_names_and_escape_braces():
    frame = pd.DataFrame({"id": [1], "short desc": ["fine"]})
    text = "{{x}} {short desc}, {short desc}!"
    assert Catalog.from_frame(frame, item="id", text=text).texts == ("{x} fine, fine!",)


def test_cells_of_other_types_become_text():
    frame = pd.DataFrame(
        {"id": [1, 2, 3], "year": [1999.0, np.nan, 2001.0], "price": [1.5, 2.0, np.nan], "tags": [["a", "b"], None, []]}
    )
    catalog = Catalog.from_frame(frame, item="id", text="{year}|{price}|{tags}")
    assert catalog.texts == ("1999|1.5|a, b", "|2.0|", "2001||")


def test_half_surrogates_from_json_do_not_survive():
    frame = pd.DataFrame({"id": ["1", "2"], "title": pd.Series(["ok \ud83d\ude00", "bad \ud83d"], dtype=object)})
    catalog = Catalog.from_frame(frame, item="id", text="title")
    assert catalog.texts == ("ok \U0001f600", "bad \ufffd")
    assert len(catalog.fingerprint) == 16


@pytest.mark.parametrize("ids", [[7, 8], [7.0, 8.0], ["7", "8"], [7, "8"], pd.Categorical(["7", "8"])])
def test_ids_of_any_usual_type_become_the_same_strings(ids):
    frame = pd.DataFrame({"id": pd.Series(ids, dtype=object if isinstance(ids, list) else None), "t": ["x", "y"]})
    catalog = Catalog.from_frame(frame, item="id", text="t")
    assert catalog.item_ids == ("7", "8")
    assert catalog.rows([7, "8", "9"]).tolist() == [1, 2, 0]


def test_nullable_integers_are_fine_as_ids():
    frame = pd.DataFrame({"id": pd.array([7, 8], dtype="Int64"), "t": ["x", "y"]})
    assert Catalog.from_frame(frame, item="id", text="t").item_ids == ("7", "8")


def test_missing_column_names_the_closest_one():
    message = refused(FRAME, text="{titel} by {brand}")
    assert message == "frame: no column 'titel'; did you mean 'title'? (columns: asin, title, brand)"
    assert refused(FRAME, item="zzzzzz").startswith("frame: no column 'zzzzzz' (columns: ")


def test_null_ids_name_their_rows():
    frame = pd.DataFrame({"asin": ["a", None, "c", None], "title": ["x"] * 4})
    message = refused(frame)
    assert message.startswith("frame: column 'asin': null id in 2 of 4 rows, counted from 0 (row 1: ")
    assert message.endswith("; remove or fill these rows")


def test_empty_ids_name_their_rows():
    frame = pd.DataFrame({"asin": ["a", " "], "title": ["x"] * 2})
    assert "column 'asin': empty id in 1 of 2 rows, counted from 0 (row 1: ' ')" in refused(frame)


def test_duplicate_ids_name_the_repeats_and_at_most_five():
    frame = pd.DataFrame({"asin": ["a", *["b"] * 8], "title": ["x"] * 9})
    message = refused(frame)
    assert "duplicate id in 7 of 9 rows, counted from 0 (row 2: 'b', row 3: 'b', " in message
    assert "row 6: 'b', ...); an item may occur once" in message


def test_seven_and_text_seven_are_duplicates():
    frame = pd.DataFrame({"asin": pd.Series([7, "7"], dtype=object), "title": ["x", "y"]})
    assert "duplicate id in 1 of 2 rows" in refused(frame)


def test_fractional_ids_are_refused():
    frame = pd.DataFrame({"asin": [1.0, 2.5], "title": ["x", "y"]})
    assert "id is not a whole number in 1 of 2 rows, counted from 0 (row 1: 2.5)" in refused(frame)
    assert "id is not a whole number" in refused(pd.DataFrame({"asin": [1.0, 1e300], "title": ["x", "y"]}))


@pytest.mark.parametrize("ids", [[True, False], pd.to_datetime(["2020-01-01", "2020-01-02"])])
def test_ids_that_are_neither_text_nor_integers_are_refused(ids):
    assert "ids must be text or integers, got" in refused(pd.DataFrame({"asin": ids, "title": ["x", "y"]}))


def test_a_text_id_beside_a_tuple_is_refused():
    frame = pd.DataFrame({"asin": pd.Series(["a", 1, (2, 3)], dtype=object), "title": ["x"] * 3})
    assert refused(frame).startswith("frame: column 'asin': ")


def test_empty_texts_are_allowed_and_listed_or_refused():
    assert Catalog.from_frame(FRAME, item="asin", text="title").empty_text_rows.tolist() == [2]
    message = refused(FRAME, empty_text="error")
    assert message.startswith("frame: empty text (item ids shown) in 1 of 3 rows, counted from 0 (row 1: 'b2')")


def test_frame_without_rows_and_bad_templates_are_refused():
    assert refused(FRAME.iloc[:0]) == "frame: no rows; a catalog needs at least one item"
    assert "must be a plain column name" in refused(FRAME, text="{title.x}")
    assert "must be a plain column name" in refused(FRAME, text="{title!r}")
    assert "must be a plain column name" in refused(FRAME, text="{}")
    assert "write columns as {title}" in refused(FRAME, text="{title")
    assert "names no column" in refused(FRAME, text="{{title}}")
    assert refused(FRAME, text=[]) == "text: the list of columns is empty; name at least one"


def test_kept_columns_are_texts_by_item_and_may_not_take_reserved_names():
    catalog = Catalog.from_frame(FRAME, item="asin", text="title", keep=["brand"])
    assert catalog.columns == {"brand": ("Acme", "Bolt", "")}
    assert catalog.fingerprint == Catalog.from_frame(FRAME, item="asin", text="title").fingerprint
    frame = FRAME.rename(columns={"brand": "text"})
    assert "the name 'text' is taken" in refused(frame, keep=["text"])


def test_texts_must_match_ids_in_number():
    with pytest.raises(DataError, match="catalog has 2 item ids but 1 texts; give one an item"):
        Catalog(["a", "b"], ["x"])


def test_fingerprint_depends_on_ids_texts_and_order():
    base = Catalog(["a", "b"], ["x", "y"])
    others = [Catalog(["b", "a"], ["x", "y"]), Catalog(["a", "b"], ["y", "x"]), Catalog(["a", "c"], ["x", "y"])]
    assert len({base.fingerprint, *(c.fingerprint for c in others)}) == 4


def write(path, frame):
    match path.suffix:
        case ".parquet":
            frame.to_parquet(path)
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")), encoding="utf-8")


@pytest.mark.parametrize("name", ["items.parquet", "items.csv", "items.tsv", "items.jsonl"])
def test_every_format_gives_the_same_catalog(tmp_path, name):
    frame = pd.DataFrame({"id": ["007", "NA"], "title": ["Ball, \u201cround\u201d", "null"], "n": [1, 2]})
    write(tmp_path / name, frame)
    read = {".parquet": Catalog.from_parquet, ".jsonl": Catalog.from_jsonl}.get(
        (tmp_path / name).suffix, Catalog.from_csv
    )
    catalog = read(tmp_path / name, item="id", text="{title} #{n}")
    assert catalog.item_ids == ("007", "NA")
    assert catalog.texts == ("Ball, \u201cround\u201d #1", "null #2")


def test_file_errors_name_the_file(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: no such file"):
        Catalog.from_csv(tmp_path / "nowhere.csv", item="id", text="t")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"broken.parquet: not readable as parquet \("):
        Catalog.from_parquet(broken, item="id", text="t")
    lines = tmp_path / "broken.jsonl"
    lines.write_text('{"id": 1}\n{"id": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.jsonl: line 2 is not JSON \(.*\); repair or remove it"):
        Catalog.from_jsonl(lines, item="id", text="id")
    lines.write_text('{"id": 1}\n\n[2]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"broken.jsonl: line 3 holds a list, expected one JSON object a line"):
        Catalog.from_jsonl(lines, item="id", text="id")
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    with pytest.raises(DataError, match=r"empty.csv: not readable as csv \("):
        Catalog.from_csv(empty, item="id", text="t")
    latin = tmp_path / "latin.csv"
    latin.write_bytes("id,t\n1,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.csv: not readable as csv \(.*utf-8"):
        Catalog.from_csv(latin, item="id", text="t")
    write(tmp_path / "items.parquet", FRAME)
    with pytest.raises(DataError, match=r"items.parquet: no column 'titel'; did you mean 'title'\?"):
        Catalog.from_parquet(tmp_path / "items.parquet", item="asin", text="titel")


def test_saved_catalog_loads_equal(tmp_path):
    catalog = Catalog.from_frame(FRAME, item="asin", text="title", keep=["brand"])
    catalog.save(tmp_path / "catalog")
    loaded = Catalog.load(tmp_path / "catalog")
    assert loaded.item_ids == catalog.item_ids
    assert loaded.texts == catalog.texts
    assert loaded.columns == catalog.columns
    assert loaded.fingerprint == catalog.fingerprint


def test_saving_twice_needs_overwrite(tmp_path):
    catalog = Catalog(["a"], ["x"])
    catalog.save(tmp_path / "catalog")
    with pytest.raises(ArtifactError, match="already exists"):
        catalog.save(tmp_path / "catalog")
    Catalog(["b"], ["y"]).save(tmp_path / "catalog", overwrite=True)
    assert Catalog.load(tmp_path / "catalog").item_ids == ("b",)


def test_changed_rows_are_noticed_on_loading(tmp_path):
    Catalog(["a", "b"], ["x", "y"]).save(tmp_path / "catalog")
    pq.write_table(pa.table({"item_id": ["a", "b"], "text": ["x", "z"]}), tmp_path / "catalog" / "items.parquet")
    with pytest.raises(ArtifactError, match="says it holds catalog .* but its rows are .*: build the catalog again"):
        Catalog.load(tmp_path / "catalog")
    (tmp_path / "catalog" / "items.parquet").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match="not readable as parquet"):
        Catalog.load(tmp_path / "catalog")
