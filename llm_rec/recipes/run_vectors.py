"""Item vectors of a trained recommender as embeddings: what behaviour says about items, for letter to align with."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from llm_rec.artifacts import fingerprint, write_artifact
from llm_rec.codec import Plain
from llm_rec.data import Split
from llm_rec.errors import ConfigError
from llm_rec.recipes.material import open_material
from llm_rec.recipes.runs import load_run_model, read_settings_of
from llm_rec.recipes.workspace import Workspace
from llm_rec.serving.models import DenseModel, Model, kind_of
from llm_rec.store import KIND, EmbeddingStore, ShardLayout, manifest_of, shard_path, write_shard

_SHARD_ROWS = 65_536


def encode_run(place: Workspace, run: str, name: str, *, overwrite: bool = False) -> EmbeddingStore:
    """Write ``workspace/embeddings/<name>``: the item vectors of a sequential run or of PAD, which its inner products
    rank by. Items without a train event get a zero vector: behaviour says nothing about them.
    """
    settings = read_settings_of(place.run(run))
    model = load_run_model(place, run)
    material = open_material(place, settings.material)
    return save_item_vectors(
        item_vectors(model),
        material.split,
        place.embeddings(name),
        inputs={"catalog": material.catalog.fingerprint, "interactions": material.inputs["interactions"]},
        details={"run": run, "seed": settings.seed},
        overwrite=overwrite,
    )


@torch.no_grad()
def item_vectors(model: Model) -> Float32[np.ndarray, "items_plus_one dim"]:
    """What the inner products of `model` rank by, row 0 padding; `ConfigError` for one that ranks otherwise."""
    if not isinstance(model, DenseModel):
        raise ConfigError(f"a {kind_of(model)} run ranks by no item vectors; name a sequential run, or one of pad")
    return model.eval().item_vectors().float().cpu().numpy()


def save_item_vectors(
    vectors: Float32[np.ndarray, "items_plus_one dim"],
    split: Split,
    path: Path,
    *,
    inputs: dict[str, str],
    details: dict[str, Plain],
    overwrite: bool = False,
) -> EmbeddingStore:
    """`vectors` as an embedding store at `path`, zero for items that `split` never trains on."""
    if len(vectors) != split.num_items + 1:
        raise ConfigError(f"the model knows {len(vectors) - 1} items but the catalog has {split.num_items}")
    known = np.where(split.train_counts[1:, None] > 0, vectors[1:], np.float32(0))
    layout = ShardLayout(num_items=len(known), shard_rows=_SHARD_ROWS)
    facts: dict[str, Plain] = dict(details)
    mark = fingerprint(KIND, known.tobytes())
    with write_artifact(path, kind=KIND, fingerprint=mark, inputs=inputs, details=facts, overwrite=overwrite) as folder:
        for shard in range(layout.num_shards):
            first, last = layout.bounds(shard)
            write_shard(shard_path(folder, shard), known[first:last], encoded=last - first)
        facts.update(manifest_of(folder, layout, known.shape[1], inputs=inputs, details=details).details)
    return EmbeddingStore.open(path)
