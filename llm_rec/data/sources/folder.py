"""Tables of your own: a plain folder of two parquet files, or any two files with named columns."""

from dataclasses import dataclass, field
from pathlib import Path

from llm_rec.data.catalog import Catalog
from llm_rec.data.interactions import Interactions, LogOptions, read_log
from llm_rec.errors import DataError

_ITEMS = "items.parquet"
_INTERACTIONS = "interactions.parquet"
_CLOCKS = ("time", "timestamp")


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderConfig:
    """A folder with ``items.parquet`` (item_id, texts) and ``interactions.parquet`` (user_id, item_id, order or time).

    `text` is a template, a column or several; None means every text column in the order of the file. With neither
    `time` nor `order`, a column called time or timestamp is taken, else one called order, else the order of the rows.
    """

    path: Path
    text: str | tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    user: str = "user_id"
    item: str = "item_id"
    time: str | None = None
    order: str | None = None
    options: LogOptions = field(default_factory=LogOptions)


@dataclass(frozen=True, kw_only=True, slots=True)
class FramesConfig:
    """Two files (parquet, csv, tsv or jsonl, told by their names) and the names of their columns.

    `log_item` is the item column of the interactions when it is called otherwise than in the items.
    """

    items: Path
    interactions: Path
    text: str | tuple[str, ...]
    item: str = "item_id"
    keep: tuple[str, ...] = ()
    user: str = "user_id"
    log_item: str | None = None
    time: str | None = None
    order: str | None = None
    options: LogOptions = field(default_factory=LogOptions)


def load_folder(config: FolderConfig) -> tuple[Catalog, Interactions]:
    """Catalog and log of a folder; `DataError` names what is missing."""
    import pyarrow.parquet as pq

    items, interactions = config.path / _ITEMS, config.path / _INTERACTIONS
    for file in (items, interactions):
        if not file.is_file():
            raise DataError(f"{file}: no such file; the folder must hold {_ITEMS} and {_INTERACTIONS}")
    text = text_columns(items, config.item) if config.text is None else config.text
    catalog = Catalog.from_parquet(items, item=config.item, text=text, keep=config.keep)
    time, order = config.time, config.order
    if time is None and order is None:
        names = pq.read_schema(interactions).names
        time = next((name for name in _CLOCKS if name in names), None)
        order = "order" if time is None and "order" in names else None
    log = Interactions.from_parquet(
        interactions, catalog, user=config.user, item=config.item, time=time, order=order, options=config.options
    )
    return catalog, log


def load_frames(config: FramesConfig) -> tuple[Catalog, Interactions]:
    """Catalog and log of two files."""
    from llm_rec.data import tables

    match tables.file_format(config.items):
        case "parquet":
            read = Catalog.from_parquet
        case "csv":
            read = Catalog.from_csv
        case "jsonl":
            read = Catalog.from_jsonl
    catalog = read(config.items, item=config.item, text=config.text, keep=config.keep)
    log = read_log(
        config.interactions,
        catalog,
        user=config.user,
        item=config.log_item or config.item,
        time=config.time,
        order=config.order,
        options=config.options,
    )
    return catalog, log


def text_columns(path: Path, item: str) -> list[str]:
    """The text columns of a parquet file except the id, in the order of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    names = [
        f.name for f in schema if f.name != item and (pa.types.is_string(f.type) or pa.types.is_large_string(f.type))
    ]
    if not names:
        raise DataError(
            f"{path}: no text column besides {item!r} (columns: {', '.join(schema.names)}); name one by text"
        )
    return names
