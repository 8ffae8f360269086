"""Fields of any JSON value come back as they went in."""

from dataclasses import dataclass, field

import pytest

from llm_rec.codec import Plain, from_plain, to_plain


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    details: dict[str, Plain] = field(default_factory=dict)
    size: float | str = 1.0


@pytest.mark.parametrize(
    "value", [None, True, 3, 2.5, "12", "nan", [], [1, [2, [{"a": [None]}]]], {"a": {"b": {"c": "1e-3"}}}]
)
def test_json_values_of_any_depth_round_trip(value):
    note = Note(details={"value": value})
    assert from_plain(Note, to_plain(note)) == note
    assert repr(from_plain(Note, to_plain(note))) == repr(note)


def test_text_of_digits_stays_a_text_where_texts_are_allowed():
    assert from_plain(Note, {"size": "12"}).size == "12"
