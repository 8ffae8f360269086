"""Approximate retrieval finds what the exact product finds: all of it when flat, nearly all of it by HNSW."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llm_rec.errors import ArtifactError, LlmRecError
from llm_rec.metrics.exact import Candidates, best_items
from llm_rec.serving.index import ItemIndex

pytest.importorskip("faiss")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    table = np.random.default_rng(0).standard_normal((601, 16)).astype(np.float32)
    table[0] = 0
    return table


@pytest.fixture(scope="module")
def users() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((40, 16)).astype(np.float32)


def exact(users: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return best_items(torch.from_numpy(users), Candidates.of(torch.from_numpy(vectors)), k).rows.numpy()


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


def test_flat_equals_the_exact_lists(vectors: np.ndarray, users: np.ndarray) -> None:
    rows, scores = ItemIndex.build(vectors, "flat").search(users, 10)
    assert np.array_equal(rows, exact(users, vectors, 10))
    assert np.allclose(scores, np.take_along_axis(users @ vectors.T, rows, axis=1), atol=1e-5)


def test_hnsw_finds_nearly_all(vectors: np.ndarray, users: np.ndarray) -> None:
    rows, _ = ItemIndex.build(vectors, "hnsw").search(users, 10)
    assert recall(rows, exact(users, vectors, 10)) > 0.8


def test_ivf_finds_row_numbers_of_the_catalog(vectors: np.ndarray) -> None:
    few = vectors[:61]
    rows, scores = ItemIndex.build(few, "ivf").search(few[1:], 60)
    found = rows > 0
    assert rows.max() <= 60
    assert np.allclose(scores[found], (few[1:] @ few.T)[np.nonzero(found)[0], rows[found]], atol=1e-5)
    assert (~found).any(), "one list is probed, so places stay empty: row 0"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_a_saved_index_answers_the_same(kind, vectors: np.ndarray, users: np.ndarray, tmp_path: Path) -> None:
    index = ItemIndex.build(vectors, kind)
    index.save(tmp_path / "items.faiss")
    before, after = index.search(users, 5), ItemIndex.load(tmp_path / "items.faiss").search(users, 5)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_catalog_without_items_is_refused() -> None:
    with pytest.raises(LlmRecError, match="no items to index"):
        ItemIndex.build(np.zeros((1, 4), np.float32))


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="items.faiss: no such file"):
        ItemIndex.load(tmp_path / "items.faiss")
    (tmp_path / "items.faiss").write_bytes(b"no index at all")
    with pytest.raises(ArtifactError, match="items.faiss: faiss cannot read it"):
        ItemIndex.load(tmp_path / "items.faiss")
