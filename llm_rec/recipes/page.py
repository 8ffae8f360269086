"""What a comparison page shows beside its table: gates of PAD runs, code usage, a map of the embeddings."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from llm_rec.analysis.codes import code_usage
from llm_rec.analysis.gates import gate_by_bucket
from llm_rec.analysis.spectrum import principal_plane
from llm_rec.artifacts import read_manifest
from llm_rec.data import FrequencyBuckets
from llm_rec.errors import ArtifactError
from llm_rec.pad.model import PADModel
from llm_rec.recipes.material import CODES_FILE, CODES_KIND, open_material
from llm_rec.recipes.runs import load_run_model, read_settings_of
from llm_rec.recipes.workspace import Workspace
from llm_rec.report.html import CodeUsage, EmbeddingMap, GateWeights, Page
from llm_rec.report.report import Comparison
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable


def page_of(place: Workspace, names: Sequence[str], comparison: Comparison) -> Page:
    """The page of runs `names`, with every figure the workspace has data for."""
    catalog = place.load_catalog()
    tables = _code_tables(place.root / "codes", catalog.fingerprint)
    first_codes = next(iter(tables.values())).items[:, 0].astype(np.int64) if tables else None
    gates = [gate for name in names for gate in _gates(place, name)]
    many = "models" if len(names) > 1 else "model"
    return Page(
        title=f"{len(names)} {many} on {len(catalog):,} items",
        summary="Every held-out target was ranked against the whole catalog; items that training hardly saw are apart.",
        comparison=comparison,
        gates=tuple(gates),
        code_usage=tuple(
            CodeUsage(quantizer=n, books=code_usage(t.items, t.codebook_sizes)) for n, t in tables.items()
        ),
        embedding_map=_map(place, catalog.texts, catalog.fingerprint, first_codes),
    )


def _gates(place: Workspace, name: str) -> list[GateWeights]:
    """Mean gate weights by frequency bucket, of a PAD run; nothing for other runs."""
    model = load_run_model(place, name)
    if not isinstance(model, PADModel):
        return []
    counts = open_material(place, read_settings_of(place.run(name)).material).split.train_counts
    buckets = FrequencyBuckets.fit(counts)
    with torch.no_grad():
        weights = model.gate(torch.arange(1, len(counts))).double().numpy()
    by_bucket = gate_by_bucket(weights, buckets.buckets[1:], buckets.number)
    return [GateWeights(model=name, experts=list(model.experts), weights=by_bucket)]


def _code_tables(folder: Path, catalog: str) -> dict[str, CodeTable]:
    """The code tables of a workspace that belong to `catalog`, by name."""
    tables = {}
    for path in sorted(folder.glob("[!.]*")):
        try:
            read_manifest(path, CODES_KIND).require_input("catalog", catalog, where=path)
        except ArtifactError:
            continue  # of another catalog, or not codes: nothing this page could show
        tables[path.name] = CodeTable.load(path / CODES_FILE)
    return tables


def _map(
    place: Workspace, texts: Sequence[str], catalog: str, codes: Int64[np.ndarray, "items"] | None
) -> EmbeddingMap | None:
    """The text embeddings on their principal plane, coloured by the first code."""
    path = place.embeddings("text")
    if codes is None or not path.exists():
        return None
    store = EmbeddingStore.open(path)
    store.manifest.require_input("catalog", catalog, where=path)
    points = principal_plane(torch.from_numpy(store.all()[1:].copy()))
    return EmbeddingMap(points=points, codes=codes, titles=texts)
