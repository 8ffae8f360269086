"""Approximate retrieval: the item vectors of a recommender as a faiss index (extra ``llm-rec[faiss]``).

Use it when the exact product is too slow (millions of items); below that `Recommender.recommend` is fast enough.
"""

from pathlib import Path
from types import ModuleType
from typing import Literal, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from llm_rec.artifacts import replacing
from llm_rec.errors import ArtifactError, DataError, LlmRecError

IndexKind = Literal["flat", "hnsw", "ivf"]


@runtime_checkable
class FaissIndex(Protocol):
    """The part of faiss' index that is used here."""

    def add(self, vectors: Float32[np.ndarray, "items width"]) -> None: ...

    def train(self, vectors: Float32[np.ndarray, "items width"]) -> None: ...

    def search(self, vectors: Float32[np.ndarray, "users width"], k: int) -> tuple[np.ndarray, np.ndarray]: ...


class ItemIndex:
    """Inner-product search over item vectors; found positions are item rows (1..N)."""

    def __init__(self, index: FaissIndex) -> None:
        self._index = index

    @classmethod
    def build(cls, item_vectors: Float32[np.ndarray, "items_plus_one width"], kind: IndexKind = "flat") -> "ItemIndex":
        """Index rows 1..N (row 0, padding, is left out). ``flat`` is exact; ``hnsw`` and ``ivf`` are approximate."""
        faiss = _faiss()
        items, width = item_vectors.shape[0] - 1, item_vectors.shape[1]
        if not items:
            raise DataError("there are no items to index; row 0 is padding")
        lists = max(1, min(4096, int(4 * items**0.5)))
        recipe = {"flat": "Flat", "hnsw": "HNSW32", "ivf": f"IVF{lists},Flat"}[kind]
        index = cast(FaissIndex, faiss.index_factory(width, recipe, faiss.METRIC_INNER_PRODUCT))
        vectors = np.ascontiguousarray(item_vectors[1:], dtype=np.float32)
        index.train(vectors)
        index.add(vectors)
        return cls(index)

    def search(
        self, user_vectors: Float32[np.ndarray, "users width"], k: int
    ) -> tuple[Int64[np.ndarray, "users k"], Float32[np.ndarray, "users k"]]:
        """Item rows and scores, best first; row 0 where the index found fewer than `k`."""
        scores, found = self._index.search(np.ascontiguousarray(user_vectors, dtype=np.float32), k)
        return found.astype(np.int64) + 1, scores

    def save(self, path: Path | str) -> None:
        """Write the index as one file."""
        with replacing(Path(path)) as partial:
            _faiss().write_index(self._index, str(partial))

    @classmethod
    def load(cls, path: Path | str) -> "ItemIndex":
        """Read what `save` wrote; `ArtifactError` when the file is missing or is no index."""
        if not Path(path).is_file():
            raise ArtifactError(f"{path}: no such file; build the index and save it first")
        try:
            return cls(_faiss().read_index(str(path)))
        except RuntimeError as error:
            raise ArtifactError(f"{path}: faiss cannot read it ({error}); build the index again") from error


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise LlmRecError("faiss is not installed; pip install 'llm-rec[faiss]'") from error
    module: ModuleType = faiss
    return module
