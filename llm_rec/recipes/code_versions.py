"""Versions of an index: which item has which codes since when, what a version was made from, how it differs from it.

``slots.parquet`` beside a code table holds a row for every item that has ever had codes: ``item_id``, ``code_0`` ...,
``arrived`` and ``left`` (versions; 0 for an item that is there). Items are known by their raw ids, so the catalog of
the next version may come in any order. ``migration.parquet`` maps old codes to new ones, ``stability.json`` counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64

from llm_rec.artifacts import Manifest, fingerprint, write_json
from llm_rec.codec import Plain
from llm_rec.data import Catalog
from llm_rec.encoders.transforms import Transform
from llm_rec.errors import ArtifactError
from llm_rec.recipes.material import CODES_FILE, CODES_KIND
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable
from semantic_ids.growth import CodeSlots
from semantic_ids.stability import Stability, stability

QUANTIZER_FILE = "quantizer.safetensors"
SLOTS_FILE = "slots.parquet"
MIGRATION_FILE = "migration.parquet"
STABILITY_FILE = "stability.json"


@dataclass(frozen=True, eq=False)
class CodeVersion:
    """Codes of the workspace with their history: slot s belongs to item_ids[s - 1]."""

    path: Path
    manifest: Manifest
    slots: CodeSlots
    item_ids: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.path.name

    def slots_of(self, catalog: Catalog) -> Int64[np.ndarray, " items"]:
        """Slot of each item of `catalog`, 0 for one that never had codes."""
        rows = catalog.rows(self.item_ids)
        known = np.zeros(len(catalog) + 1, dtype=np.int64)
        known[rows] = np.arange(1, len(rows) + 1)
        return known[1:]

    def require_some(self, known: Int64[np.ndarray, " items"]) -> None:
        """Raise `ArtifactError` when a catalog (its `slots_of`) has no item in common with these codes."""
        if not known.any():
            raise ArtifactError(
                f"the catalog has no item of codes {self.name} (they know {self.item_ids[0]!r} and "
                f"{len(self.item_ids) - 1} more); item ids must stay the same from version to version"
            )

    def lineage(self, how: str) -> list[Plain]:
        """This version and those that it comes from, the oldest first, as the manifest of the next one names them."""
        before = self.manifest.details.get("lineage")
        mine: dict[str, Plain] = {
            "name": self.name,
            "version": self.slots.version,
            "fingerprint": self.manifest.fingerprint,
            "catalog": self.manifest.inputs["catalog"],
            "next": how,
        }
        return [*(before if isinstance(before, list) else []), mine]


def read_version(place: Workspace, name: str, catalog: Catalog) -> CodeVersion:
    """The codes `name`, whatever catalog they were made from.

    Codes written before items were kept beside them are known to be of the first items of `catalog` when those have
    the fingerprint of their catalog; otherwise `ArtifactError`.
    """
    path = place.codes(name)
    manifest = place.need(path, CODES_KIND, f"llm-rec index --name {name}")
    table = CodeTable.load(path / CODES_FILE)
    if (path / SLOTS_FILE).is_file():
        return CodeVersion(path, manifest, *_read_slots(path / SLOTS_FILE, table, _version(manifest)))
    ids = catalog.item_ids[: table.num_items]
    if Catalog(ids, catalog.texts[: table.num_items]).fingerprint != manifest.inputs["catalog"]:
        raise ArtifactError(
            f"{path} holds no item ids (an older llm-rec wrote it), and the catalog does not begin with the "
            f"{table.num_items} items it was made from; index that catalog again, with its embeddings"
        )
    return CodeVersion(path, manifest, CodeSlots.first(table), ids)


def write_slots(folder: Path, slots: CodeSlots, item_ids: Sequence[str]) -> None:
    """Write ``slots.parquet``."""
    columns: dict[str, pa.Array] = {"item_id": pa.array(item_ids, type=pa.large_string())}
    columns |= {f"code_{book}": pa.array(column) for book, column in enumerate(slots.table.items.T)}
    columns |= {"arrived": pa.array(slots.arrived), "left": pa.array(slots.left)}
    pq.write_table(pa.table(columns), folder / SLOTS_FILE)


def write_comparison(folder: Path, older: CodeVersion, table: CodeTable, catalog: Catalog) -> Stability:
    """Compare `table` with the codes that its items had in `older`: ``migration.parquet`` and ``stability.json``.

    The migration has a row for every item of either version, those of `catalog` first; codes are null where a version
    does not have the item. An item that came back counts as one of the older version: its codes were reserved.
    """
    known = older.slots_of(catalog)
    there = older.slots.left == 0
    there[known[known > 0] - 1] = True
    before = older.slots.table_of(np.flatnonzero(there) + 1)
    ids = np.array(older.item_ids, dtype=object)[there]
    rows = catalog.rows(ids)
    old_rows = np.zeros(len(catalog) + 1, dtype=np.int64)
    old_rows[rows] = np.arange(1, len(ids) + 1)
    gone = np.flatnonzero(rows == 0) + 1
    old, new = np.append(old_rows[1:], gone), np.append(np.arange(1, len(catalog) + 1), np.zeros_like(gone))
    columns = {"item_id": pa.array([*catalog.item_ids, *ids[gone - 1]], type=pa.large_string())}
    columns |= _nullable("old", before.codes[old], old == 0) | _nullable("new", table.codes[new], new == 0)
    pq.write_table(pa.table(columns), folder / MIGRATION_FILE)
    found = stability(before, table, old_rows[1:])
    compared: dict[str, Plain] = {"old": older.name, "old_fingerprint": older.manifest.fingerprint}
    write_json(folder / STABILITY_FILE, {**compared, **found.to_plain()})
    return found


def inputs_of(catalog: Catalog, store: EmbeddingStore) -> dict[str, str]:
    """What an index is made from, and what the vectors of new items must share: the encoder, and the fitted transform
    of the embeddings where they have one.
    """
    inputs = {"catalog": catalog.fingerprint, "embeddings": store.fingerprint}
    if "encoder" in store.manifest.inputs:
        inputs["encoder"] = store.manifest.inputs["encoder"]
    if "steps" in store.manifest.details:
        fitted = Transform.load(store.path).parameters
        numbers = (part for p in fitted for name, value in sorted(p.items()) for part in (name, value.tobytes()))
        inputs["transform"] = fingerprint("transform", {"steps": store.manifest.details["steps"]}, *numbers)
    return inputs


def _version(manifest: Manifest) -> int:
    version = manifest.details.get("version")
    return version if isinstance(version, int) else 1


def _read_slots(path: Path, table: CodeTable, version: int) -> tuple[CodeSlots, tuple[str, ...]]:
    try:
        columns = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: not readable as parquet ({error}); index the catalog again") from error
    codes = np.zeros((len(columns) + 1, table.num_books), dtype=np.int32)
    for book in range(table.num_books):
        codes[1:, book] = columns[f"code_{book}"].to_numpy()
    slots = CodeSlots(
        table=CodeTable(codes=codes, codebook_sizes=table.codebook_sizes, digit=table.digit, details=table.details),
        arrived=columns["arrived"].to_numpy().astype(np.int32),
        left=columns["left"].to_numpy().astype(np.int32),
        version=version,
    )
    return slots, tuple(columns["item_id"].to_pylist())


def _nullable(side: str, codes: np.ndarray, absent: Bool[np.ndarray, " rows"]) -> dict[str, pa.Array]:
    return {f"{side}_{book}": pa.array(column, mask=absent) for book, column in enumerate(codes.T)}
