"""Lines of JSON and of Python literals: what is read, and how damage is named."""

import gzip
import json

import pytest

from llm_rec.data.json_lines import json_records, number_of, text_of
from llm_rec.errors import DataError

RECORDS = [{"asin": "a", "title": 'Soap\'s "best"'}, {"asin": "b", "n": 1.5, "list": ["x", None]}]


def test_json_and_literals_packed_and_plain_are_the_same_records(tmp_path):
    forms = {"json": "\n".join(map(json.dumps, RECORDS)), "literal": "\n\n".join(map(repr, RECORDS)) + "\n"}
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for path in (tmp_path / name, tmp_path / f"{name}.gz"):
            assert [record for _, record in json_records(path)] == RECORDS
    assert [number for number, _ in json_records(tmp_path / "literal")] == [1, 3]
    unpacked = tmp_path / "unpacked.gz"  # browsers unpack on the way and keep the name
    unpacked.write_text("\ufeff" + forms["json"], encoding="utf-8")
    assert [record for _, record in json_records(unpacked)] == RECORDS


def test_nothing_in_a_line_is_executed(tmp_path):
    path, mark = tmp_path / "lines", tmp_path / "mark"
    path.write_text(f"{{'asin': open({str(mark)!r}, 'w')}}\n")
    with pytest.raises(
        DataError, match=r"lines: line 1 is neither JSON nor a Python literal \(ValueError\); repair or"
    ):
        list(json_records(path))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"line 2 is neither JSON nor a Python literal \(SyntaxError\)"),
        (b'{"a": 1}\n[1]\n', "line 2 holds a list, expected one object with named values"),
        (b"{1: 2}\n", "line 1 holds a dict, expected one object with named values"),
        (b'{"a": "\xff"}\n', r"line 1 is not utf-8 \(invalid start byte\)"),
        (b"(" * 5000 + b"\n", "line 1 is neither JSON nor a Python literal"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "lines").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(json_records(tmp_path / "lines"))


def test_cut_damaged_and_missing_files_are_named(tmp_path):
    whole = gzip.compress(b"".join(b'{"a": "%06d"}\n' % (n * 7919 % 1000003) for n in range(20_000)))
    path = tmp_path / "cut.gz"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.gz: ends in the middle, after line \d+; the file is cut, get it again"):
        list(json_records(path))
    path.write_bytes(whole[: len(whole) // 2] + bytes(1000) + whole[len(whole) // 2 + 1000 :])
    with pytest.raises(DataError, match=r"cut.gz: (damaged after|line \d+ is)"):
        list(json_records(path))
    with pytest.raises(DataError, match="none.gz: no such file"):
        list(json_records(tmp_path / "none.gz"))


def test_values_that_must_be_there():
    record = {
        "user": "u",
        "number": 7,
        "rating": "5",
        "price": 2.5,
        "flag": True,
        "empty": "",
        "word": "x",
        "far": 10**30,
        "nan": float("nan"),
    }
    assert (text_of(record, "user", "f"), text_of(record, "number", "f")) == ("u", "7")
    assert [number_of(record, name, "f") for name in ("number", "rating", "price")] == [7, 5, 2.5]
    with pytest.raises(DataError, match="f: 'empty' is '', but must be a text"):
        text_of(record, "empty", "f")
    with pytest.raises(DataError, match=r"f: no 'asin' \(there are user, word\), which must be a text"):
        text_of({"word": 1, "user": 2}, "asin", "f")
    with pytest.raises(DataError, match="f: 'word' is 'x', but must be a number"):
        number_of(record, "word", "f")
    with pytest.raises(DataError, match="f: 'far' is 10{30}, but must be a number"):
        number_of(record, "far", "f")
    with pytest.raises(DataError, match="f: 'nan' is nan, but must be a number"):
        number_of(record, "nan", "f")
    with pytest.raises(DataError, match="f: 'flag' is True, but must be a number"):
        number_of(record, "flag", "f")
