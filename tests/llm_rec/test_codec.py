"""Dataclasses to JSON values and back; whatever does not fit is an error that names the path."""

import json
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_rec.codec import LATER, from_plain, identity, kind_of, to_plain
from llm_rec.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, slots=True)
class CircleConfig:
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius must be positive, got {self.radius}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LongLineConfig:
    length: int
    style: Literal["solid", "dashed", 3] = "solid"


Shape = CircleConfig | LongLineConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureConfig:
    main: Shape = CircleConfig()
    others: tuple[Shape, ...] = ()
    maybe: Shape | None = None
    maybe_list: tuple[Shape, ...] | None = None
    named: dict[str, Shape] = field(default_factory=dict)
    only: CircleConfig = CircleConfig()
    colour: Colour = Colour.RED
    size: tuple[int, int] = (1, 2)
    path: Path | None = None
    title: str | tuple[str, ...] = ""
    limit: int | float | None = None
    deep: list[list[int]] = field(default_factory=list)
    on: bool = False


def refused(plain, cls=PictureConfig):
    with pytest.raises(ConfigError) as caught:
        from_plain(cls, plain)
    return str(caught.value)


circles = st.builds(CircleConfig, radius=st.floats(0.01, 9))
lines = st.builds(LongLineConfig, length=st.integers(), style=st.sampled_from(["solid", "dashed", 3]))
shapes = circles | lines
pictures = st.builds(
    PictureConfig,
    main=shapes,
    others=st.lists(shapes, max_size=3).map(tuple),
    maybe=st.none() | shapes,
    maybe_list=st.none() | st.lists(shapes, max_size=2).map(tuple),
    named=st.dictionaries(st.text(max_size=3), shapes, max_size=2),
    only=circles,
    colour=st.sampled_from(Colour),
    size=st.tuples(st.integers(), st.integers()),
    path=st.none() | st.just(Path("a/b")),
    title=st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=2).map(tuple),
    limit=st.none() | st.integers(0, 9) | st.floats(0, 1),
    deep=st.lists(st.lists(st.integers(), max_size=2), max_size=2),
    on=st.booleans(),
)


@given(pictures)
@settings(max_examples=50, deadline=None)
def test_round_trip_through_json_text(picture):
    text = json.dumps(to_plain(picture))
    assert from_plain(PictureConfig, json.loads(text)) == picture


def test_only_unions_of_dataclasses_carry_their_kind():
    plain = to_plain(PictureConfig(main=LongLineConfig(length=2), maybe_list=(CircleConfig(),)))
    assert plain["main"] == {"kind": "long_line", "length": 2, "style": "solid"}
    assert plain["maybe_list"] == [{"kind": "circle", "radius": 1.0}]
    assert plain["only"] == {"radius": 1.0}


def test_kind_is_the_class_name_in_snake_case():
    assert kind_of(LongLineConfig) == "long_line"
    assert kind_of(CircleConfig) == "circle"


def test_defaults_fill_what_is_missing():
    assert from_plain(PictureConfig, {}) == PictureConfig()
    assert from_plain(PictureConfig, {"main": {"kind": "circle"}}) == PictureConfig()


def test_values_already_built_pass_through():
    assert from_plain(PictureConfig, {"main": CircleConfig(radius=2.0)}).main == CircleConfig(radius=2.0)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"colur": "red"}, "colur: unknown key; did you mean 'colour'?"),
        ({"main": {"kind": "circle", "radios": 1}}, "main.radios: unknown key; did you mean 'radius'?"),
        ({"only": {"zzz": 1}}, "only.zzz: unknown key; known keys: radius"),
        (
            {"main": {"kind": "circel"}},
            "main.kind: 'circel' is not one of 'circle', 'long_line'; did you mean 'circle'?",
        ),
        ({"main": {"radius": 1.0}}, "main.kind: None is not one of 'circle', 'long_line'"),
        ({"only": {"kind": "long_line"}}, "only.kind: 'long_line' is not one of 'circle'"),
        ({"main": {"kind": "long_line"}}, "main.length: missing; LongLineConfig needs it"),
        (
            {"others": [{"kind": "circle"}, {"kind": "long_line", "length": "x"}]},
            "others[1].length: expected int, got 'x'",
        ),
        ({"named": {"a": {"kind": "long_line", "length": True}}}, "named.a.length: expected int, got True"),
        ({"main": {"kind": "long_line", "length": 1, "style": "doted"}}, "main.style: 'doted' is not one of 'solid', "),
        ({"only": {"radius": -1}}, "only: radius must be positive, got -1.0"),
        ({"only": {"radius": "wide"}}, "only.radius: expected float, got 'wide'"),
        ({"only": 3}, "only: expected settings of CircleConfig (radius), got 3"),
        ({"main": "circle"}, "main: 'circle' fits none of CircleConfig, LongLineConfig"),
        ({"colour": "green"}, "colour: 'green' is not one of 'red', 'blue'"),
        ({"size": [1]}, "size: expected 2 values, got 1"),
        ({"size": 1}, "size: expected a list, got 1"),
        ({"named": []}, "named: expected a mapping, got []"),
        ({"path": 3}, "path: expected Path, got 3"),
        ({"title": 3}, "title: 3 fits none of str, tuple"),
        ({"on": 1}, "on: expected bool, got 1"),
        ({"deep": [[1], [2, "x"]]}, "deep[1][1]: expected int, got 'x'"),
        ([], "PictureConfig: expected settings of PictureConfig (main, others, maybe, "),
    ],
)
def test_errors_name_the_path_the_value_and_the_repair(plain, message):
    assert refused(plain).startswith(message)


def test_numbers_are_read_as_their_field_wants_them():
    assert isinstance(from_plain(CircleConfig, {"radius": 2}).radius, float)
    assert from_plain(CircleConfig, {"radius": "1e-3"}).radius == 0.001  # YAML reads 1e-3 as text
    assert from_plain(PictureConfig, {"limit": 3}).limit == 3
    assert from_plain(PictureConfig, {"limit": 0.5}).limit == 0.5


def test_values_without_a_json_form_are_refused():
    with pytest.raises(ConfigError, match="cannot write a complex as JSON"):
        to_plain({"x": 1j})


@dataclass(frozen=True, kw_only=True, slots=True)
class GrownConfig:
    """A config that got two fields after it was in use."""

    radius: float = 1.0
    weight: float = field(default=0.0, metadata=LATER)
    names: tuple[str, ...] = field(default_factory=tuple, metadata=LATER)


class TestIdentity:
    def test_a_later_field_at_its_default_changes_nothing(self) -> None:
        assert identity(GrownConfig(radius=2.0)) == {"kind": "grown", "radius": 2.0}

    def test_a_later_field_that_was_set_counts(self) -> None:
        assert identity(GrownConfig(weight=0.5, names=("a",))) == {
            "kind": "grown",
            "radius": 1.0,
            "weight": 0.5,
            "names": ["a"],
        }

    def test_nothing_is_left_out_where_a_value_is_saved(self) -> None:
        assert to_plain(GrownConfig()) == {"radius": 1.0, "weight": 0.0, "names": []}
