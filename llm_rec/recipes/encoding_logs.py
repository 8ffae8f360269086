"""Click logs for the table of feature encodings: one raw data set, its numbers encoded in one way or another.

Census-income has seven numeric columns. Frappe has none, but its apps have a rating and a price, and texts, from which
the similarity of a row's user and app is made (`llm_rec.ctr.similarity`); ``items.parquet`` beside ``ctr.parquet``
holds `item_id`, `name`, `category`, `short desc`, `rating` and `price`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctr_models.encode import EncoderConfig
from llm_rec.artifacts import fingerprint, replacing
from llm_rec.codec import to_plain
from llm_rec.ctr.similarity import SimilaritySource, left_out_items
from llm_rec.data.catalog import Catalog
from llm_rec.data.log_encoding import encode_log, log_fingerprint
from llm_rec.data.log_spec import ByColumnConfig, ClickSource, ColumnSpec
from llm_rec.data.sources.census import NUMBERS, CensusConfig, census_income
from llm_rec.data.sources.frappe import FrappeConfig, frappe
from llm_rec.encoders import EncoderConfig as TextEncoderConfig
from llm_rec.encoders import build_encoder
from llm_rec.encoders.catalog import encode_catalog
from llm_rec.encoders.shard_job import EncodeConfig
from llm_rec.errors import DataError
from llm_rec.recipes.click_logs import Kind, kind_of, quick_log
from llm_rec.store import EmbeddingStore

if TYPE_CHECKING:
    import pyarrow

APP_NUMBERS = ("rating", "price")
APP_TEXTS = ("name", "category", "short desc")
SIMILARITY = "similarity"
NOTHING = "unknown"  # what frappe's table of apps says where it knows nothing
EVENT = "log_row"  # rows of one event: a positive and the negatives that were drawn for it


def encoding_source(
    data: Path, out: Path, encoder: TextEncoderConfig, numbers: EncoderConfig | None, similarity: EncoderConfig | None
) -> ClickSource:
    """The files of `data` with its numeric columns encoded by `numbers`; frappe has them, and the column of
    `similarity`, when they are asked for. What is made on the way lies below `out`.
    """
    kind: Kind = kind_of(data)
    if kind == "census" and numbers is not None and similarity is None:
        found = census_income(CensusConfig(path=data))
        columns = [replace(c, encoder=numbers) if c.name in NUMBERS else c for c in found.spec.columns]
        return ClickSource(found.files, replace(found.spec, columns=tuple(columns)))
    if kind != "frappe":
        raise DataError(f"{data}: frappe has a similarity and may have no numbers, census-income the other way round")
    found = frappe(FrappeConfig(path=frappe_with_apps(data, out, encoder)))
    more = [] if numbers is None else [ColumnSpec(name=name, encoder=numbers) for name in APP_NUMBERS]
    more += [] if similarity is None else [ColumnSpec(name=SIMILARITY, encoder=similarity)]
    return ClickSource(found.files, replace(found.spec, columns=(*found.spec.columns, *more)))


def encoding_log(source: ClickSource, name: str, logs: Path, *, quick: bool = False) -> Path:
    """The folder of the encoded log, below `logs`, made when it is not there yet."""
    path = logs / f"{name}-{log_fingerprint(source.files, source.spec)}"
    if not path.exists():
        encode_log(source.files, source.spec, path)
    return quick_log(path, logs) if quick else path


def frappe_with_apps(data: Path, out: Path, encoder: TextEncoderConfig) -> Path:
    """A folder with frappe's ``ctr.parquet`` and, for every row, the app's rating and price and the cosine of its user
    and app; null where there is none. Texts are encoded below `out`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    apps = pq.read_table(data / "items.parquet", columns=["item_id", *APP_TEXTS, *APP_NUMBERS])
    catalog = app_catalog({name: apps[name].to_pylist() for name in apps.column_names})
    store = encode_catalog(catalog, build_encoder(encoder), out / "embeddings" / catalog.fingerprint, EncodeConfig())
    rows = pq.read_table(data / "ctr.parquet")
    settings = {"encoder": to_plain(encoder, tagged=True), "rows": rows.num_rows}
    folder = out / "raw" / f"{data.name}-{fingerprint(catalog.fingerprint, store.fingerprint, settings)}"
    file = folder / "ctr.parquet"
    if file.is_file():
        return folder
    places = catalog.rows(rows["item"].to_pylist())
    for name in APP_NUMBERS:
        values = [None, *map(_number, apps[name].to_pylist())]
        rows = rows.append_column(name, pa.array([values[place] for place in places.tolist()], pa.float64()))
    cosines = row_similarity(rows, places, store)
    rows = rows.append_column(SIMILARITY, pa.array(cosines, pa.float64(), mask=np.isnan(cosines)))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        pq.write_table(rows, partial)
    return folder


def row_similarity(rows: "pyarrow.Table", places: np.ndarray, store: EmbeddingStore) -> np.ndarray:
    """Cosines of users and apps over all rows; a user is what the user's train positives say, but for the row's own."""
    users = np.unique(np.array(rows["user"].to_pylist()), return_inverse=True)[1]
    train = np.isin(rows["split"].to_pylist(), ByColumnConfig().train)
    positive = rows["label"].to_numpy() > 0.5
    events = rows[EVENT].to_numpy() if EVENT in rows.column_names else np.arange(len(users))
    history = train & positive & (places > 0)
    source = SimilaritySource.of_history(users[history], places[history], store.all(), int(users.max()) + 1)
    own = left_out_items(places, positive, train, events.astype(np.int64))
    return source.cosines(users, places, own)


def app_catalog(columns: Mapping[str, Sequence[str]]) -> Catalog:
    """Apps with their texts; no text where nothing is known."""
    pieces = zip(*(columns[name] for name in APP_TEXTS), strict=True)
    texts = [". ".join(piece for piece in known if piece and piece != NOTHING) for known in pieces]
    return Catalog([str(item) for item in columns["item_id"]], texts)


def _number(text: str) -> float | None:
    """A rating, or a price in whatever currency ("Free" is 0).

    >>> _number("Free"), _number("$2.99"), _number("3,59 €"), _number("4.5"), _number("unknown")
    (0.0, 2.99, 3.59, 4.5, None)
    """
    if text == "Free":
        return 0.0
    found = re.search(r"\d+(?:[.,]\d+)?", text)
    return None if found is None else float(found[0].replace(",", "."))
