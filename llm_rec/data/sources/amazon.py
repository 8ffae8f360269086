"""Amazon reviews of 2014 (McAuley), 2018 (Ni et al., EMNLP 2019) and 2023 (Hou et al.), from raw files.

| release | reviews | metadata | a user, an item, when |
|---|---|---|---|
| 2014 | ``reviews_<Category>.json.gz`` | ``meta_<Category>.json.gz``: Python literals | reviewerID, asin, seconds |
| 2018 | ``<Category>.json.gz`` | ``meta_<Category>.json.gz`` | reviewerID, asin, seconds |
| 2023 | ``<Category>.jsonl.gz`` | ``meta_<Category>.jsonl.gz`` | user_id, parent_asin, milliseconds |

Files are those of one category, read line by line. What stays in memory is some dozen bytes a review, each user and
item once, and the texts of the items that are left. The times of 2014 and 2018 are days: reviews of one day keep the
order of the file.

Scraped titles of 2018 are at times a page's script or style sheet (their authors leave out those with "getTime"); such
a title is empty here, and markup is taken out of every text. A product's first line of metadata counts.
"""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions, LogOptions
from llm_rec.data.json_lines import json_records, number_of, text_of
from llm_rec.data.markup import is_code, plain_text
from llm_rec.data.subsets import k_core
from llm_rec.errors import DataError

Release = Literal["2014", "2018", "2023"]
COLUMNS = ("title", "brand", "category", "features", "description")


class Fields(NamedTuple):
    """What a release calls things; `per_second` are the units of its times."""

    user: str
    item: str
    rating: str
    time: str
    per_second: int
    brand: str
    category: str
    features: str


_OLD = Fields("reviewerID", "asin", "overall", "unixReviewTime", 1, "brand", "category", "feature")
RELEASES: Mapping[Release, Fields] = {
    "2014": _OLD._replace(category="categories"),
    "2018": _OLD,
    "2023": Fields("user_id", "parent_asin", "rating", "timestamp", 1000, "store", "categories", "features"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class AmazonConfig:
    """The two files of a category. `text` is made of title, brand, category (a path), features and description.

    `min_rating` keeps reviews rated at least so; of several reviews of one user and item the earliest counts, or with
    `duplicates` "keep" all do; then users and items with fewer than `core` events are left out, to a fixed point (5 is
    usual, 0 keeps all). The catalog holds the items of the log that remains, in the order in which the reviews first
    name them. Items without metadata have no text; a log without any item of the metadata is an error.
    """

    release: Release
    reviews: Path
    metadata: Path
    text: str | tuple[str, ...] = ("title", "brand", "category")
    min_rating: float | None = None
    duplicates: Literal["first", "keep"] = "first"
    core: int = 5

    def __post_init__(self) -> None:
        if self.core < 0:
            raise ValueError(f"core must not be negative, got {self.core}")


def load_amazon(config: AmazonConfig) -> tuple[Catalog, Interactions]:
    """Catalog and log; `DataError` for a file that is missing, cut or damaged, and a line that lacks what it needs."""
    import pandas as pd

    reviews = read_reviews(config)
    log = reviews.log(config)
    used, places = np.unique(log.items, return_inverse=True)
    item_ids = [reviews.items[row - 1] for row in used.tolist()]
    catalog = Catalog.from_frame(
        pd.DataFrame({"item_id": item_ids, **_texts(config, item_ids)}),
        item="item_id",
        text=config.text,
        keep=("title", "brand", "category"),
        source=str(config.metadata),
    )
    log = Interactions(
        log.user_ids,
        log.offsets,
        places.astype(np.int64) + 1,
        None if log.times is None else log.times // RELEASES[config.release].per_second,
        num_items=len(catalog),
        catalog=catalog.fingerprint,
        dropped=log.dropped,
    )
    return catalog, log


@dataclass(frozen=True, eq=False)
class Reviews:
    """Every review as numbers, beside the ids they stand for."""

    path: Path
    user_codes: Int32[np.ndarray, "reviews"]
    item_codes: Int32[np.ndarray, "reviews"]
    times: Int64[np.ndarray, "reviews"]
    users: list[str]
    items: list[str]

    def log(self, config: AmazonConfig) -> Interactions:
        """The events that `config` keeps; items are rows of `items`, times in the unit of the release."""
        import pandas as pd

        frame = pd.DataFrame(
            {
                "user": pd.Categorical.from_codes(self.user_codes, pd.Index(self.users)),
                "item": pd.Categorical.from_codes(self.item_codes, pd.Index(self.items)),
                "time": self.times,
            }
        )
        everything = Catalog(self.items, self.items)
        options = LogOptions(duplicates=config.duplicates)
        log = Interactions.from_frame(
            frame, everything, user="user", item="item", time="time", options=options, source=str(self.path)
        )
        return k_core(log, config.core, config.core).log if config.core else log


def read_reviews(config: AmazonConfig) -> Reviews:
    """All reviews of the file that are rated well enough."""
    names = RELEASES[config.release]
    users: dict[str, int] = {}
    items: dict[str, int] = {}
    user_codes, item_codes, times = array("i"), array("i"), array("q")
    for number, record in json_records(config.reviews):
        where = f"{config.reviews}: line {number}"
        if config.min_rating is not None and number_of(record, names.rating, where) < config.min_rating:
            continue
        user_codes.append(users.setdefault(text_of(record, names.user, where), len(users)))
        item_codes.append(items.setdefault(text_of(record, names.item, where), len(items)))
        times.append(int(number_of(record, names.time, where)))
    if not times:
        raise DataError(f"{config.reviews}: no review is left; give the file of a category, or a lower min_rating")
    numbers = np.array(user_codes, np.int32), np.array(item_codes, np.int32), np.array(times, np.int64)
    return Reviews(config.reviews, *numbers, [*users], [*items])


def _texts(config: AmazonConfig, item_ids: list[str]) -> dict[str, list[str]]:
    """`COLUMNS` of the items, from the metadata."""
    names, row_of = RELEASES[config.release], {item: row for row, item in enumerate(item_ids)}
    columns = {name: [""] * len(item_ids) for name in COLUMNS}
    readers: dict[str, Callable[[dict[str, object]], str]] = {
        "title": lambda record: title_text(record.get("title")),
        "brand": lambda record: brand_text(record.get(names.brand)),
        "category": lambda record: category_path(record.get(names.category)),
        "features": lambda record: joined_text(record.get(names.features), " "),
        "description": lambda record: joined_text(record.get("description"), " "),
    }
    seen: set[int] = set()
    for number, record in json_records(config.metadata):
        row = row_of.get(text_of(record, names.item, f"{config.metadata}: line {number}"))
        if row is not None and row not in seen:
            seen.add(row)
            for name, read in readers.items():
                columns[name][row] = read(record)
    if not seen:
        raise DataError(
            f"{config.metadata}: none of the {len(item_ids)} reviewed items is here; is it the same category?"
        )
    return columns


def title_text(value: object) -> str:
    """A title without markup; nothing where it is code.

    >>> title_text("<span id='t'>Soap &amp; Co</span>"), title_text("var s = (new Date()).getTime();")
    ('Soap & Co', '')
    """
    text = joined_text(value, " ")
    return "" if is_code(text) or (isinstance(value, str) and "getTime" in value) else text


def brand_text(value: object) -> str:
    """A brand; 2018 writes some as "by" and the name on another line.

    >>> brand_text("by\\n    \\n    Acme"), brand_text("Bygone")
    ('Acme', 'Bygone')
    """
    text = title_text(value)
    return text[3:] if text.startswith("by ") else text


def category_path(value: object) -> str:
    """The first path, its steps from the root on.

    >>> category_path([["Beauty", "Soap"], ["Beauty", "Bath"]]), category_path(["Beauty", "Soap"])
    ('Beauty > Soap', 'Beauty > Soap')
    """
    first = value[0] if isinstance(value, list) and value and isinstance(value[0], list) else value
    return joined_text(first, " > ")


def joined_text(value: object, separator: str) -> str:
    """A text, or the texts of a list, without markup; pieces that are code, and what is no text, are left out."""
    pieces = value if isinstance(value, list) else [value]
    texts = (plain_text(piece) for piece in pieces if isinstance(piece, str))
    return separator.join(text for text in texts if text and not is_code(text))
