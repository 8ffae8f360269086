"""``llm-rec index --grow``: codes for the items that came, from the quantiser that made the codes of the others."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from llm_rec.artifacts import fingerprint, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, to_plain
from llm_rec.data import Catalog
from llm_rec.errors import ArtifactError
from llm_rec.recipes.code_versions import (
    QUANTIZER_FILE,
    SLOTS_FILE,
    CodeVersion,
    inputs_of,
    read_version,
    write_comparison,
    write_slots,
)
from llm_rec.recipes.material import CODES_FILE, CODES_KIND
from llm_rec.recipes.workspace import Workspace
from llm_rec.store import EmbeddingStore
from semantic_ids.collisions import LastCosts
from semantic_ids.growth import Grown, grow
from semantic_ids.health import health
from semantic_ids.quantizers import Quantizer, load_quantizer

HEALTH_FILE = "health.json"
GROWTH_FILE = "growth.json"
Departed = Literal["refuse", "reserve"]
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What a growth did. `moved_on`: the share of items already there whose vectors the quantiser would give other
    codes today, because their texts changed; they keep their codes. `sharing`: new items that found no free code on the
    last level, where the way of collisions looks for one.
    """

    version: int
    grown_from: str
    new: int
    left: int
    returned: int
    reserved: int
    sharing: int
    moved_on: float


def grow_codes(
    place: Workspace,
    catalog: Catalog,
    store: EmbeddingStore,
    *,
    older: str,
    name: str,
    departed: Departed,
    overwrite: bool,
) -> None:
    """Write codes `name` of the workspace's catalog: items that codes `older` know keep theirs, new ones get theirs.

    Nothing is learned: quantiser, way of collisions and history come from `older`. Where that way looks for codes on
    the last level, new items take free ones as balanced assignment gives them; under sinkhorn too, which would move old
    items (our choice: LC-Rec does not speak of growth). A version that is there already, or codes `older` that are of
    this catalog already and would be replaced, are left as they are.

    Raises `ArtifactError` when vectors are of another encoder or of a transform that was fitted again, when the catalog
    shares no item with the older codes, or lost some and `departed` is not "reserve".
    """
    from_, path = read_version(place, older, catalog), place.codes(name)
    inputs = inputs_of(catalog, store)
    settings = {key: from_.manifest.details[key] for key in ("quantizer", "collisions", "seed")}
    settings["grown_from"] = from_.manifest.fingerprint
    mark = fingerprint(CODES_KIND, settings, store.fingerprint)
    if path == from_.path and from_.manifest.inputs["catalog"] == catalog.fingerprint:
        return
    if path.exists() and read_manifest(path, CODES_KIND).fingerprint == mark:
        return
    quantizer = load_quantizer(from_.path / QUANTIZER_FILE)
    _require_same_space(from_, store, quantizer, inputs)
    known = from_.slots_of(catalog)
    _require_catalog(from_, known, departed)
    details: dict[str, Plain] = {
        **settings,
        "version": from_.slots.version + 1,
        "lineage": from_.lineage("grown"),
    }
    with write_artifact(
        path, kind=CODES_KIND, fingerprint=mark, inputs=inputs, details=details, overwrite=overwrite
    ) as folder:
        _fill(folder, from_, catalog, store.all()[1:], quantizer, known, {**settings, "inputs": to_plain(inputs)})


def _fill(
    folder: Path,
    older: CodeVersion,
    catalog: Catalog,
    vectors: Float32[np.ndarray, "items dim"],
    quantizer: Quantizer,
    known: Int64[np.ndarray, " items"],
    details: Mapping[str, Plain],
) -> None:
    """Encode the new items, place them, and write the whole version into `folder`."""
    way = str(older.manifest.details["collisions"])
    places = way.startswith(("sinkhorn", "balanced"))
    codes, new = quantizer.encode(vectors), np.flatnonzero(known == 0)
    costs = _costs(quantizer, vectors[new], codes[new], len(older.item_ids)) if places else None
    grown = grow(older.slots, known, codes[new], costs)
    table = grown.slots.table_of(grown.rows).with_details(details)
    semantic = table.items[:, : codes.shape[1]].astype(np.int64)
    compared = codes.shape[1] - places  # the last code may be another than the nearest
    stayed = known > 0
    changed = (semantic[stayed, :compared] != codes[stayed, :compared]).any(1)
    table.save(folder / CODES_FILE)
    shutil.copyfile(older.path / QUANTIZER_FILE, folder / QUANTIZER_FILE)
    write_json(
        folder / HEALTH_FILE, health(table, vectors=vectors, reconstructed=quantizer.decode(semantic)).to_plain()
    )
    write_slots(folder, grown.slots, [*older.item_ids, *(catalog.item_ids[row] for row in new)])
    write_comparison(folder, older, table, catalog)
    write_json(folder / GROWTH_FILE, _growth(older, grown, known, float(changed.mean())))


def _costs(quantizer: Quantizer, vectors: np.ndarray, codes: np.ndarray, before: int) -> LastCosts:
    """Distances of new items, which are the rows after `before` of the grown slots."""

    def costs(rows: Int64[np.ndarray, "colliding"]) -> Float[Tensor, "colliding last_codes"]:
        return quantizer.last_costs(vectors[rows - before - 1], codes[rows - before - 1])

    return costs


def _growth(older: CodeVersion, grown: Grown, known: np.ndarray, moved_on: float) -> Growth:
    before, after = older.slots.left, grown.slots.left[: len(older.slots.left)]
    return Growth(
        version=grown.slots.version,
        grown_from=older.name,
        new=int((known == 0).sum()),
        left=int(((before == 0) & (after > 0)).sum()),
        returned=int(((before > 0) & (after == 0)).sum()),
        reserved=len(grown.slots.reserved),
        sharing=len(grown.unplaced),
        moved_on=moved_on,
    )


def _require_same_space(
    older: CodeVersion, store: EmbeddingStore, quantizer: Quantizer, inputs: Mapping[str, str]
) -> None:
    """New vectors must come from the same encoder and the same fitted transform as those the quantiser learned on."""
    anew = f"or learn new codes with --migrate-from {older.name}"
    if quantizer.input_dim != store.dim:
        raise ArtifactError(
            f"codes {older.name} are of vectors {quantizer.input_dim} wide, but embeddings {store.path.name} are "
            f"{store.dim} wide; encode the catalog as it was encoded for them, {anew}"
        )
    if not (older.path / SLOTS_FILE).is_file():
        return  # written before encoders were noted
    made = older.manifest.inputs
    if made.get("encoder") != inputs.get("encoder"):
        raise ArtifactError(
            f"codes {older.name} are of vectors of encoder {made.get('encoder')}, but embeddings {store.path.name} are "
            f"of encoder {inputs.get('encoder')}; encode the catalog with the same encoder, {anew}"
        )
    if made.get("transform") != inputs.get("transform"):
        raise ArtifactError(
            f"codes {older.name} are of vectors after transform {made.get('transform')}, but embeddings "
            f"{store.path.name} are after {inputs.get('transform')}: its steps were fitted again on this catalog, "
            f"which moves every vector; grow codes of embeddings that have no transform, {anew}"
        )


def _require_catalog(older: CodeVersion, known: np.ndarray, departed: Departed) -> None:
    older.require_some(known)
    there = older.slots.left == 0
    there[known[known > 0] - 1] = False
    lost = np.flatnonzero(there)
    if len(lost) and departed == "refuse":
        names = ", ".join(repr(older.item_ids[slot]) for slot in lost[:_NAMED])
        more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        raise ArtifactError(
            f"the catalog lost {len(lost)} items that codes {older.name} have: {names}{more}; pass --departed reserve "
            "to go on without them, with their codes kept from others, or check the catalog"
        )
