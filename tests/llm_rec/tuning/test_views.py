"""Views leave out attributes, never all of them, and nothing else."""

from collections import Counter

import numpy as np
import pytest

from llm_rec.data import Catalog
from llm_rec.errors import ConfigError
from llm_rec.tuning import TextViews, ViewsConfig
from llm_rec.tuning.views import draw_parts

CATALOG = Catalog(
    ["a", "b", "c"],
    ["red tea. drinks. Assam", "pan", ". "],
    {"title": ["red tea", "pan", ""], "brand": ["Assam", " ", ""]},
)


def test_views_without_columns_are_pieces_of_the_text_in_their_order() -> None:
    views = TextViews(CATALOG, ViewsConfig(keep=0.5))
    drawn = Counter(views.draw(np.full(4000, 1), np.random.default_rng(0)))
    pieces = ["red tea", "drinks", "Assam"]
    subsets = {". ".join(p for p, kept in zip(pieces, f"{n:03b}", strict=True) if kept == "1") for n in range(1, 8)}
    assert set(drawn) == subsets
    assert all(abs(count / 4000 - (1 / 8 if "." in text else 1 / 8 + 1 / 24)) < 0.03 for text, count in drawn.items())


def test_views_of_columns_leave_out_blank_cells_and_fall_back_on_the_text() -> None:
    views = TextViews(CATALOG, ViewsConfig(columns=("title", "brand"), separator=" | ", keep=1.0))
    assert views.draw(np.array([1, 2, 3]), np.random.default_rng(0)) == ["red tea | Assam", "pan", ". "]
    assert views.draw(np.zeros(0, dtype=np.int64), np.random.default_rng(0)) == []


def test_an_item_of_one_attribute_has_one_view() -> None:
    views = TextViews(CATALOG, ViewsConfig(keep=0.01))
    assert set(views.draw(np.full(50, 2), np.random.default_rng(0))) == {"pan"}


def test_parts_beyond_a_text_are_never_kept_and_one_always_is() -> None:
    sizes = np.array([1, 3, 2] * 200)
    kept = draw_parts(sizes, 0.05, np.random.default_rng(0))
    assert kept.any(axis=1).all()
    assert not kept[np.arange(3) >= sizes[:, None]].any()
    assert kept[sizes == 3].mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.1)


def test_a_column_that_the_catalog_lacks_is_named() -> None:
    with pytest.raises(
        ConfigError, match="no column 'colour' to make views of .it has text, title, brand.; keep it wh"
    ):
        TextViews(CATALOG, ViewsConfig(columns=("colour",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"keep": 0.0}, r"keep must lie in \(0, 1\], got 0.0"), ({"separator": ""}, "separator is empty; give the text")],
)
def test_settings_of_views_are_checked(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ViewsConfig(**options)
