"""The catalog: which items exist, in which order, and what text describes each of them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int64

from llm_rec.artifacts import fingerprint, read_manifest, write_artifact
from llm_rec.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import pandas

    from llm_rec.data.tables import FileFormat

_TABLE = "items.parquet"
_RESERVED = ("item_id", "text")


class Catalog:
    """N items with one text each. Item row `r` (1..N) is the r-th item everywhere in the toolkit; row 0 is padding.

    Item ids are strings: 7 and "7" name the same item. `columns` holds further texts by item (a category, say) for
    analysis; they are no part of what the catalog *is*, so the fingerprint leaves them out.

    >>> catalog = Catalog(["a", "b"], ["red shoe", "blue hat"])
    >>> catalog.rows(["b", "z", "a"]).tolist()
    [2, 0, 1]
    """

    def __init__(
        self, item_ids: Sequence[str], texts: Sequence[str], columns: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.item_ids = tuple(item_ids)
        self.texts = tuple(texts)
        self.columns = {name: tuple(values) for name, values in (columns or {}).items()}
        for name, values in {"texts": self.texts, **self.columns}.items():
            if len(values) != len(self.item_ids):
                raise DataError(f"catalog has {len(self.item_ids)} item ids but {len(values)} {name}; give one an item")

    @classmethod
    def from_frame(
        cls,
        frame: "pandas.DataFrame",
        *,
        item: str,
        text: str | Sequence[str],
        keep: Sequence[str] = (),
        empty_text: Literal["allow", "error"] = "allow",
        source: str = "frame",
    ) -> "Catalog":
        """Items in the order of the rows of `frame`.

        `text` is one column, several (joined with ". "), or a template such as ``"{title} by {brand}"``; a null cell is
        an empty piece. HTML entities are unescaped and white space is made single blanks. `keep` names columns to carry
        along in `columns`. Items whose text comes out empty are listed by `empty_text_rows`, or refused.

        Raises `DataError` for a missing column, null, empty, fractional or repeated ids, and a frame without rows.
        """
        from llm_rec.data import tables

        tables.require_columns(frame.columns, [item, *tables.template_columns(text), *keep], source)
        if not len(frame):
            raise DataError(f"{source}: no rows; a catalog needs at least one item")
        for name in keep:
            if name in _RESERVED:
                raise DataError(f"keep: the name {name!r} is taken by the catalog itself; rename that column")
        ids = tables.id_strings(frame[item], source)
        repeated = tables.repeated(ids)
        fix = "an item may occur once; drop the repeats, or check that this is the item column"
        tables.refuse_rows(repeated, ids, f"{source}: column {item!r}: duplicate id", fix)
        texts = tables.render_texts(frame, text)
        if empty_text == "error":
            empty = np.fromiter((not t for t in texts), dtype=bool, count=len(texts))
            tables.refuse_rows(
                empty, ids, f"{source}: empty text (item ids shown)", 'fill them, or pass empty_text="allow"'
            )
        return cls(ids, texts, {name: tables.clean_texts(frame[name]) for name in keep})

    @classmethod
    def from_parquet(
        cls,
        path: Path | str,
        *,
        item: str,
        text: str | Sequence[str],
        keep: Sequence[str] = (),
        empty_text: Literal["allow", "error"] = "allow",
    ) -> "Catalog":
        """Like `from_frame`, from a parquet file; only the named columns are read."""
        return cls._from_file(Path(path), "parquet", item, text, keep, empty_text)

    @classmethod
    def from_csv(
        cls,
        path: Path | str,
        *,
        item: str,
        text: str | Sequence[str],
        keep: Sequence[str] = (),
        empty_text: Literal["allow", "error"] = "allow",
    ) -> "Catalog":
        """Like `from_frame`, from a file with a header line: commas, or tabs in a ``.tsv``. Ids stay as written."""
        return cls._from_file(Path(path), "csv", item, text, keep, empty_text)

    @classmethod
    def from_jsonl(
        cls,
        path: Path | str,
        *,
        item: str,
        text: str | Sequence[str],
        keep: Sequence[str] = (),
        empty_text: Literal["allow", "error"] = "allow",
    ) -> "Catalog":
        """Like `from_frame`, from a file with one JSON object a line."""
        return cls._from_file(Path(path), "jsonl", item, text, keep, empty_text)

    @classmethod
    def _from_file(
        cls,
        path: Path,
        form: "FileFormat",
        item: str,
        text: str | Sequence[str],
        keep: Sequence[str],
        empty_text: Literal["allow", "error"],
    ) -> "Catalog":
        from llm_rec.data import tables

        frame = tables.read_table(path, form, [item, *tables.template_columns(text), *keep], ids=[item])
        return cls.from_frame(frame, item=item, text=text, keep=keep, empty_text=empty_text, source=str(path))

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self.item_ids, start=1)}

    def rows(self, item_ids: Iterable[object]) -> Int64[np.ndarray, "ids"]:
        """Rows of raw ids, 0 for an unknown one."""
        return np.fromiter((self._row_of.get(str(item), 0) for item in item_ids), dtype=np.int64)

    @cached_property
    def empty_text_rows(self) -> Int64[np.ndarray, "empty"]:
        """Rows of the items that have no text: no encoder can say anything about them."""
        return np.array([row for row, text in enumerate(self.texts, start=1) if not text], dtype=np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any id, any text, or their order."""
        return fingerprint("catalog", "\x1f".join(self.item_ids), "\x1f".join(self.texts))

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write the catalog as an artefact: `items.parquet` (item_id, text, kept columns) and its manifest."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        details = {"items": len(self), "empty_texts": len(self.empty_text_rows)}
        with write_artifact(
            Path(path), kind="catalog", fingerprint=self.fingerprint, details=details, overwrite=overwrite
        ) as folder:
            columns = {"item_id": self.item_ids, "text": self.texts, **self.columns}
            table = pa.table({name: pa.array(values, type=pa.large_string()) for name, values in columns.items()})
            pq.write_table(table, folder / _TABLE)

    @classmethod
    def load(cls, path: Path | str) -> "Catalog":
        """Read a saved catalog; `ArtifactError` when its rows are not the ones its manifest speaks of."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        manifest = read_manifest(path, "catalog")
        try:
            columns = pq.read_table(path / _TABLE).to_pydict()
        except (pa.ArrowInvalid, OSError) as error:
            raise ArtifactError(
                f"{path / _TABLE}: not readable as parquet ({error}); build the catalog again"
            ) from error
        catalog = cls(columns.pop("item_id", ()), columns.pop("text", ()), columns)
        if catalog.fingerprint != manifest.fingerprint:
            raise ArtifactError(
                f"{path} says it holds catalog {manifest.fingerprint}, but its rows are {catalog.fingerprint}; "
                "the file was changed: build the catalog again"
            )
        return catalog
