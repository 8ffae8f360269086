"""MIND news (Wu et al., ACL 2020): ``news.tsv`` and ``behaviors.tsv`` of one part or several, without header lines.

``news.tsv``: id, category, subcategory, title, abstract, url, entities of title and abstract. ``behaviors.tsv``: number
of the impression, user, time (``11/15/2019 8:55:22 AM``), ids clicked before (oldest first), and what was shown, each
with 1 for a click or 0: ``N55689-1 N35729-0``. Both are read as streams, and only clicks are kept of what was shown.

Clicks before the log have an order but no times. The published parts say a user's earlier clicks again at each of the
user's impressions; those of the earliest impression are taken, once, before all clicks of the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions, LogOptions
from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pandas
    import pyarrow as pa

NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
BEHAVIORS = ("impression", "user", "time", "history", "shown")
_CLOCK = "%m/%d/%Y %I:%M:%S %p"
_BLOCK = 1 << 22  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class MINDConfig:
    """`paths` are folders with both files, such as MINDsmall_train and MINDsmall_dev; their clicks become one log. The
    test part of MIND says of nothing whether it was clicked, and is refused.

    `text` is made of title, abstract, category and subcategory. With `history` the clicks before the log come first,
    and events have an order instead of times; without, clicks of the log alone count, with their times. Of several
    clicks of one user on one article the first counts, or with `duplicates` "keep" all do. The catalog has all news of
    the files, clicked or not.
    """

    paths: tuple[Path, ...]
    text: str | tuple[str, ...] = ("title", "abstract")
    history: bool = True
    duplicates: Literal["first", "keep"] = "first"

    def __post_init__(self) -> None:
        if not self.paths:
            raise ValueError("paths must name at least one folder of MIND")


def load_mind(config: MINDConfig) -> tuple[Catalog, Interactions]:
    """All news and the log of clicks; `DataError` for what is missing or not of this form."""
    import pandas as pd

    news = pd.concat([_news(folder / "news.tsv") for folder in config.paths]).drop_duplicates("news_id")
    catalog = Catalog.from_frame(
        news.reset_index(drop=True),
        item="news_id",
        text=config.text,
        keep=("title", "category", "subcategory"),
        source=str(config.paths[0] / "news.tsv"),
    )
    events = _events([folder / "behaviors.tsv" for folder in config.paths], history=config.history)
    log = Interactions.from_frame(
        events,
        catalog,
        user="user",
        item="item",
        time=None if config.history else "when",
        order="when" if config.history else None,
        options=LogOptions(duplicates=config.duplicates),
        source=", ".join(str(folder / "behaviors.tsv") for folder in config.paths),
    )
    return catalog, log


class Clicks(NamedTuple):
    """Events as columns of equal length; `when` sorts a user's: seconds of clicks, below 0 for those before the log."""

    users: "pa.Array"
    items: "pa.Array"
    when: Int64[np.ndarray, "events"]


def _events(files: list[Path], *, history: bool) -> "pandas.DataFrame":
    import pandas as pd
    import pyarrow as pa

    found = [clicks for file in files for clicks in _clicks(file)]
    if history:
        found = [*_earlier(files), *found]
    if not sum(len(clicks.items) for clicks in found):
        raise DataError(f"{files[0]}: no click in it")
    users, items = (pa.chunked_array([clicks[place] for clicks in found], pa.string()) for place in (0, 1))
    return pd.DataFrame(
        {
            "user": users.dictionary_encode().to_pandas(),
            "item": items.dictionary_encode().to_pandas(),
            "when": np.concatenate([clicks.when for clicks in found]),
        }
    )


def _clicks(file: Path) -> Iterator[Clicks]:
    """What was clicked of what was shown."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for first, batch in _lines(file, BEHAVIORS):
        times = _seconds(file, first, batch)
        items, owners = _words(batch.column("shown"))
        clicked = pc.ends_with(items, pattern="-1")
        known = pc.or_(clicked, pc.ends_with(items, pattern="-0"))
        if not pc.all(known, min_count=0).as_py():
            place = pc.index(known, False).as_py()
            raise DataError(
                f"{file}: row {first + int(owners[place])} (counted from 0): {items[place].as_py()!r} ends in neither "
                "-1 nor -0; the test part of MIND has no clicks, give train and dev"
            )
        rows = owners[clicked.to_numpy(zero_copy_only=False)]
        names = pc.utf8_slice_codeunits(items.filter(clicked), start=0, stop=-2)
        yield Clicks(batch.column("user").take(pa.array(rows)), names, times[rows])


def _earlier(files: list[Path]) -> Iterator[Clicks]:
    """The clicks that each user's earliest impression looks back on."""
    import pyarrow as pa
    import pyarrow.compute as pc

    users, times = [], []
    for file in files:
        for first, batch in _lines(file, BEHAVIORS):
            users.append(batch.column("user"))
            times.append(_seconds(file, first, batch))
    codes = pa.chunked_array(users, pa.string()).dictionary_encode().combine_chunks().indices.to_numpy()
    order = np.lexsort((np.concatenate(times), codes))
    wanted = np.zeros(len(codes), dtype=bool)
    wanted[order[np.unique(codes[order], return_index=True)[1]]] = True
    start = 0
    for file in files:
        for _, batch in _lines(file, BEHAVIORS):
            kept = batch.filter(pa.array(wanted[start : start + batch.num_rows]))
            start += batch.num_rows
            items, owners = _words(kept.column("history"))
            sizes = np.bincount(owners, minlength=kept.num_rows)
            before = np.arange(len(items)) - np.repeat(np.cumsum(sizes), sizes)
            yield Clicks(kept.column("user").take(pa.array(owners)), pc.cast(items, pa.string()), before)


def _words(cells: "pa.Array") -> tuple["pa.Array", Int64[np.ndarray, "words"]]:
    """Words of all cells, and the row of each."""
    import pyarrow.compute as pc

    lists = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(cells))
    words = lists.flatten()
    owners = np.repeat(np.arange(len(cells)), lists.value_lengths().to_numpy(zero_copy_only=False))
    real = pc.not_equal(words, "")
    return words.filter(real), owners[real.to_numpy(zero_copy_only=False)]


def _seconds(file: Path, first: int, batch: "pa.RecordBatch") -> Int64[np.ndarray, "rows"]:
    import pyarrow as pa
    import pyarrow.compute as pc

    times = pc.strptime(batch.column("time"), format=_CLOCK, unit="s", error_is_null=True)
    if times.null_count:
        row = pc.index(times.is_null(), True).as_py()
        text = batch.column("time")[row].as_py()
        raise DataError(f"{file}: row {first + row} (counted from 0): {text!r} is no time like 11/15/2019 8:55:22 AM")
    seconds: np.ndarray = times.cast(pa.int64()).to_numpy(zero_copy_only=False)
    return seconds


def _news(file: Path) -> "pandas.DataFrame":
    import pyarrow as pa

    batches = [batch for _, batch in _lines(file, NEWS)]
    if not batches:
        raise DataError(f"{file}: no news in it")
    frame: pandas.DataFrame = pa.Table.from_batches(batches).select(NEWS[:5]).to_pandas()
    return frame


def _lines(file: Path, names: tuple[str, ...]) -> Iterator[tuple[int, "pa.RecordBatch"]]:
    """Batches of a file without a header, each with the number of its first row."""
    import pyarrow as pa
    import pyarrow.csv as csv

    if not file.is_file():
        raise DataError(f"{file}: no such file; a folder of MIND holds news.tsv and behaviors.tsv")
    read = csv.ReadOptions(column_names=list(names), block_size=_BLOCK, use_threads=False)
    parse = csv.ParseOptions(delimiter="\t", quote_char=False)
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    first = 0
    try:
        with csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as reader:
            for batch in reader:
                yield first, batch
                first += batch.num_rows
    except pa.ArrowInvalid as error:
        raise DataError(f"{file}: not lines of {', '.join(names)} ({' '.join(str(error).split())})") from error
