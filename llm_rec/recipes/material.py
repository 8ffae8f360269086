"""What a model may be made from: a catalog, a split of the log, text embeddings, semantic IDs."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from llm_rec.data import Catalog, FrequencyBuckets, LeaveOneOutConfig, Split, SplitConfig, make_split
from llm_rec.errors import ArtifactError
from llm_rec.recipes.workspace import Workspace
from llm_rec.sequential.items import ItemSources
from llm_rec.store import EmbeddingStore
from semantic_ids.code_table import CodeTable

CODES_KIND = "codes"
CODES_FILE = "codes.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaterialConfig:
    """Which artefacts of a workspace a run is made from; a name left None is not used."""

    split: SplitConfig = field(default_factory=LeaveOneOutConfig)
    embeddings: str | None = "text"
    codes: str | None = None


@dataclass(frozen=True, eq=False)
class Material:
    """Artefacts of one catalog, checked to belong together. `inputs` names their fingerprints."""

    catalog: Catalog
    split: Split
    embeddings: Float32[np.ndarray, "items_plus_one width"] | None
    codes: CodeTable | None
    inputs: dict[str, str]

    def sources(self) -> ItemSources:
        """The same as tensors, for building item vectors."""
        return ItemSources.from_split(
            self.split,
            embeddings=self.embeddings,
            codes=None if self.codes is None else self.codes.codes,
            codebook_sizes=None if self.codes is None else self.codes.codebook_sizes,
        )

    def buckets(self, number: int = 10) -> FrequencyBuckets:
        """Equal-mass buckets of the train counts, for slices of a report."""
        return FrequencyBuckets.fit(self.split.train_counts, number)


def open_material(workspace: Workspace, config: MaterialConfig) -> Material:
    """Read what `config` names; `ArtifactError` when something is missing or was made from another catalog."""
    catalog = workspace.load_catalog()
    log = workspace.load_interactions(catalog)
    inputs = {"catalog": catalog.fingerprint, "interactions": log.fingerprint}
    embeddings, codes = None, None
    if config.embeddings is not None:
        store = open_store(workspace.embeddings(config.embeddings), catalog)
        embeddings, inputs["embeddings"] = store.all(), store.fingerprint
    if config.codes is not None:
        path = workspace.codes(config.codes)
        manifest = workspace.need(path, CODES_KIND, f"llm-rec index --name {config.codes}")
        manifest.require_input("catalog", catalog.fingerprint, where=path)
        codes, inputs["codes"] = CodeTable.load(path / CODES_FILE), manifest.fingerprint
    return Material(catalog, make_split(log, config.split), embeddings, codes, inputs)


def open_store(path: Path, catalog: Catalog) -> EmbeddingStore:
    """The embedding store at `path`, refused when it belongs to another catalog."""
    if not path.exists():
        raise ArtifactError(f"{path}: no embeddings here; run `llm-rec encode --name {path.name}` first")
    store = EmbeddingStore.open(path)
    store.manifest.require_input("catalog", catalog.fingerprint, where=path)
    if store.num_items != len(catalog):
        raise ArtifactError(f"{path} holds {store.num_items} items but the catalog has {len(catalog)}; encode it again")
    return store
