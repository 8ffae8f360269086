from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_rec.artifacts import read_manifest, write_bytes, write_json, write_manifest
from llm_rec.errors import ArtifactError
from llm_rec.store import EmbeddingStore, ShardLayout, read_shard, seal, shard_path, write_shard


def make_store(folder: Path, vectors: np.ndarray, shard_rows: int) -> EmbeddingStore:
    folder.mkdir(parents=True, exist_ok=True)
    layout = ShardLayout(num_items=len(vectors), shard_rows=shard_rows)
    for shard in range(layout.num_shards):
        first, last = layout.bounds(shard)
        write_shard(shard_path(folder, shard), vectors[first:last], encoded=last - first)
    seal(folder, layout, vectors.shape[1], inputs={"catalog": "c"}, details={})
    return EmbeddingStore.open(folder)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((10, 3)).astype(np.float32)


def test_all_is_the_vectors_below_a_zero_row(tmp_path: Path, vectors: np.ndarray) -> None:
    store = make_store(tmp_path, vectors, 4)
    np.testing.assert_array_equal(store.all(), np.concatenate([np.zeros((1, 3), np.float32), vectors]))
    assert (store.num_items, store.dim, store.layout.num_shards) == (10, 3, 3)


def test_rows_gives_any_rows_in_the_given_order(tmp_path: Path, vectors: np.ndarray) -> None:
    store = make_store(tmp_path, vectors, 4)
    wanted = np.array([10, 0, 3, 3, 5, 1])
    np.testing.assert_array_equal(store.rows(wanted), store.all()[wanted])
    assert store.rows(np.array([], dtype=np.int64)).shape == (0, 3)


@pytest.mark.parametrize("row", [-1, 11])
def test_a_row_outside_the_catalog_is_named(tmp_path: Path, vectors: np.ndarray, row: int) -> None:
    with pytest.raises(ArtifactError, match=rf"item row {row} is not in this store of 10 items \(rows 0 to N\)"):
        make_store(tmp_path, vectors, 4).rows(np.array([1, row]))


def test_shards_are_memory_mapped_and_read_only(tmp_path: Path, vectors: np.ndarray) -> None:
    shard = make_store(tmp_path, vectors, 4).shard(1)
    assert isinstance(shard, np.memmap)
    assert not shard.flags.writeable


def test_equal_vectors_give_equal_files_and_fingerprints_and_one_bit_changes_both(
    tmp_path: Path, vectors: np.ndarray
) -> None:
    first, second = make_store(tmp_path / "a", vectors, 4), make_store(tmp_path / "b", vectors, 4)
    assert first.fingerprint == second.fingerprint
    assert shard_path(first.path, 0).read_bytes() == shard_path(second.path, 0).read_bytes()
    vectors[7, 1] = np.nextafter(vectors[7, 1], np.float32(9))
    assert make_store(tmp_path / "c", vectors, 4).fingerprint != first.fingerprint


def test_a_missing_shard_is_named(tmp_path: Path, vectors: np.ndarray) -> None:
    make_store(tmp_path, vectors, 4)
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ArtifactError, match=r"shard-00001.safetensors is missing; encode again with overwrite"):
        EmbeddingStore.open(tmp_path)
    with pytest.raises(ArtifactError, match=r"shard-00001.safetensors is missing; the store is damaged"):
        read_shard(shard_path(tmp_path, 1))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"\x02\x00\x00\x00\x00\x00\x00\x00no"])
def test_a_file_that_is_no_shard_is_named(tmp_path: Path, damage: bytes) -> None:
    write_bytes(tmp_path / "x.safetensors", damage)
    with pytest.raises(ArtifactError, match=r"x.safetensors is not a safetensors file or is damaged; encode again"):
        read_shard(tmp_path / "x.safetensors")


def test_a_cut_shard_is_named(tmp_path: Path, vectors: np.ndarray) -> None:
    write_shard(tmp_path / "x.safetensors", vectors)
    raw = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(raw[:-4])
    with pytest.raises(ArtifactError, match=r"x.safetensors is shorter than its header says"):
        read_shard(tmp_path / "x.safetensors")


def test_another_safetensors_file_is_named(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"weights": np.zeros(3, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(ArtifactError, match=r"holds no float32 tensor named 'vectors'"):
        read_shard(tmp_path / "x.safetensors")


def test_verify_names_the_shard_whose_bytes_changed(tmp_path: Path, vectors: np.ndarray) -> None:
    store = make_store(tmp_path, vectors, 4)
    store.verify()
    raw = bytearray(shard_path(tmp_path, 2).read_bytes())
    raw[-1] ^= 1
    shard_path(tmp_path, 2).write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"damaged shards: shard-00002.safetensors; encode again"):
        EmbeddingStore.open(tmp_path).verify()


def test_a_half_finished_store_says_how_far_it_is(tmp_path: Path, vectors: np.ndarray) -> None:
    make_store(tmp_path, vectors, 4)
    (tmp_path / "manifest.json").unlink()
    write_json(tmp_path / "plan.json", {"layout": {"num_items": 10, "shard_rows": 4}})
    shard_path(tmp_path, 0).rename(tmp_path / "draft-00000.safetensors")
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(ArtifactError, match=r"is half finished: 2 of 3 shards are there; run the same encode command"):
        EmbeddingStore.open(tmp_path)
    write_json(tmp_path / "plan.json", [])
    with pytest.raises(ArtifactError, match=r"plan.json is not the plan of an embedding store"):
        EmbeddingStore.open(tmp_path)


def test_a_folder_without_a_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no embeddings here \(it has no manifest.json\)"):
        EmbeddingStore.open(tmp_path)


def test_a_manifest_without_sizes_is_an_error(tmp_path: Path, vectors: np.ndarray) -> None:
    make_store(tmp_path, vectors, 4)
    manifest = read_manifest(tmp_path)
    del manifest.details["shard_rows"]
    write_manifest(tmp_path, manifest)
    with pytest.raises(ArtifactError, match=r"the manifest says no shard_rows; encode again"):
        EmbeddingStore.open(tmp_path)


def test_shard_rows_must_be_positive() -> None:
    with pytest.raises(ValueError, match="shard_rows must be at least 1, got 0"):
        ShardLayout(num_items=3, shard_rows=0)


@given(items=st.integers(0, 200), shard_rows=st.integers(1, 50))
def test_the_bounds_of_all_shards_cover_every_item_once(items: int, shard_rows: int) -> None:
    layout = ShardLayout(num_items=items, shard_rows=shard_rows)
    covered = [p for shard in range(layout.num_shards) for p in range(*layout.bounds(shard))]
    assert covered == list(range(items))
