from pathlib import Path

import numpy as np
import pytest

from llm_rec.codec import from_plain, to_plain
from llm_rec.encoders.transforms import (
    CentreConfig,
    NormaliseConfig,
    PCAConfig,
    StandardiseConfig,
    Transform,
    TransformConfig,
    TransformSteps,
    TruncateConfig,
    fit_transform,
)
from llm_rec.errors import ArtifactError, DataError
from llm_rec.store import EmbeddingStore, ShardLayout, seal, shard_path, write_shard

EVERY_STEP: list[TransformConfig] = [
    CentreConfig(),
    StandardiseConfig(),
    PCAConfig(dim=4),
    PCAConfig(dim=4, whiten=True),
    TruncateConfig(dim=3),
    NormaliseConfig(),
]


def store_of(folder: Path, vectors: np.ndarray, shard_rows: int = 7) -> EmbeddingStore:
    folder.mkdir()
    layout = ShardLayout(num_items=len(vectors), shard_rows=shard_rows)
    for shard in range(layout.num_shards):
        first, last = layout.bounds(shard)
        empty = int((~vectors[first:last].any(axis=1)).sum())
        write_shard(shard_path(folder, shard), vectors[first:last], encoded=last - first - empty, empty_texts=empty)
    seal(folder, layout, vectors.shape[1], inputs={"catalog": "c", "encoder": "e"}, details={})
    return EmbeddingStore.open(folder)


@pytest.fixture
def vectors() -> np.ndarray:
    """Collapsed like a decoder's: a large common mean, correlated dimensions, one constant, one zero vector."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((60, 8)) @ rng.standard_normal((8, 8)) + 20.0
    vectors[:, 5] = 1e-8
    vectors[17] = 0.0
    return vectors.astype(np.float32)


@pytest.fixture
def store(tmp_path: Path, vectors: np.ndarray) -> EmbeddingStore:
    return store_of(tmp_path / "raw", vectors)


def real(vectors: np.ndarray) -> np.ndarray:
    return np.delete(vectors, 17, axis=0).astype(np.float64)


def test_centring_subtracts_the_mean_of_the_vectors_that_are_not_zero(store, vectors, tmp_path) -> None:
    out = fit_transform(store, [CentreConfig()], tmp_path / "t").all()[1:]
    np.testing.assert_allclose(real(out), real(vectors) - real(vectors).mean(axis=0), atol=1e-5)


def test_standardising_divides_by_the_deviation_but_never_by_nothing(store, vectors, tmp_path) -> None:
    out = real(fit_transform(store, [StandardiseConfig()], tmp_path / "t").all()[1:])
    std = real(vectors).std(axis=0)
    moving = std > 1e-3
    expected = (real(vectors) - real(vectors).mean(axis=0))[:, moving] / std[moving]
    np.testing.assert_allclose(out[:, moving], expected, atol=1e-5)
    assert np.abs(out[:, ~moving]).max() < 1e-3


def test_pca_equals_the_singular_value_decomposition(store, vectors, tmp_path) -> None:
    out = real(fit_transform(store, [PCAConfig(dim=3)], tmp_path / "t").all()[1:])
    centred = real(vectors) - real(vectors).mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:3].T
    signs = np.sign((expected * out).sum(axis=0))
    np.testing.assert_allclose(out, expected * signs, atol=1e-4)


def test_whitening_gives_the_identity_covariance_and_zeroes_directions_without_variance(store, tmp_path) -> None:
    out = real(fit_transform(store, [PCAConfig(dim=8, whiten=True)], tmp_path / "t").all()[1:])
    np.testing.assert_allclose(out.T @ out / len(out), np.diag([1.0] * 7 + [0.0]), atol=1e-4)


def test_whitening_undoes_the_collapse(store, vectors, tmp_path) -> None:
    steps = [PCAConfig(dim=7, whiten=True), NormaliseConfig()]
    out = real(fit_transform(store, steps, tmp_path / "t").all()[1:])
    before = real(vectors) / np.linalg.norm(real(vectors), axis=1, keepdims=True)
    assert mean_cosine(before) > 0.9
    assert abs(mean_cosine(out)) < 0.05


def mean_cosine(units: np.ndarray) -> float:
    gram = units @ units.T
    return float((gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)))


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: type(step).__name__)
def test_zero_vectors_stay_zero_through_every_step(store, tmp_path, step) -> None:
    out = fit_transform(store, [CentreConfig(), step], tmp_path / "t")
    assert not out.all()[[0, 18]].any()
    assert np.isfinite(out.all()).all()
    assert out.report == store.report


@pytest.mark.parametrize("step", EVERY_STEP, ids=lambda step: type(step).__name__)
def test_loaded_steps_give_new_items_what_the_store_got(store, vectors, tmp_path, step) -> None:
    steps = [step, NormaliseConfig()]
    out = fit_transform(store, steps, tmp_path / "t")
    loaded = Transform.load(tmp_path / "t")
    assert loaded.steps == tuple(steps)
    np.testing.assert_allclose(loaded.apply(vectors), out.all()[1:], atol=1e-6)


def test_the_result_does_not_depend_on_the_shards(vectors, tmp_path) -> None:
    steps = [StandardiseConfig(), PCAConfig(dim=4, whiten=True)]
    one = fit_transform(store_of(tmp_path / "a", vectors, 60), steps, tmp_path / "ta").all()
    many = fit_transform(store_of(tmp_path / "b", vectors, 1), steps, tmp_path / "tb").all()
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_the_manifest_names_the_source_the_steps_and_the_new_width(store, tmp_path) -> None:
    steps = [PCAConfig(dim=4)]
    out = fit_transform(store, steps, tmp_path / "t")
    assert out.dim == 4
    assert out.manifest.inputs == {"catalog": "c", "encoder": "e", "embeddings": store.fingerprint}
    assert out.manifest.details["steps"] == [{"kind": "pca", "dim": 4, "whiten": False, "floor": 1e-7}]
    assert fit_transform(store, steps, tmp_path / "again").fingerprint == out.fingerprint
    assert fit_transform(store, [PCAConfig(dim=3)], tmp_path / "other").fingerprint != out.fingerprint


def test_an_existing_folder_is_kept_unless_overwrite(store, tmp_path) -> None:
    fit_transform(store, [CentreConfig()], tmp_path / "t")
    with pytest.raises(ArtifactError, match="already exists"):
        fit_transform(store, [NormaliseConfig()], tmp_path / "t")
    assert fit_transform(store, [TruncateConfig(dim=2)], tmp_path / "t", overwrite=True).dim == 2


@pytest.mark.parametrize(("step", "what"), [(PCAConfig(dim=9), "PCA"), (TruncateConfig(dim=9), "truncation")])
def test_more_dimensions_than_there_are_is_an_error(store, tmp_path, step, what) -> None:
    with pytest.raises(DataError, match=f"{what} to 9 dimensions, but the vectors have 8; set dim to at most 8"):
        fit_transform(store, [step], tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_a_raw_store_has_no_transform(store) -> None:
    with pytest.raises(ArtifactError, match="holds vectors as they were encoded; no transform was fitted there"):
        Transform.load(store.path)


def test_statistics_need_two_vectors(tmp_path) -> None:
    lonely = store_of(tmp_path / "raw", np.eye(3, dtype=np.float32)[:1])
    with pytest.raises(DataError, match="has 1 vectors that are not zero; fitting a transform needs at least 2"):
        fit_transform(lonely, [CentreConfig()], tmp_path / "t")


def test_steps_survive_json() -> None:
    steps = TransformSteps(steps=tuple(EVERY_STEP))
    assert from_plain(TransformSteps, to_plain(steps)) == steps


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: StandardiseConfig(floor=0.0), "floor must be between 0 and 1, got 0.0"),
        (lambda: PCAConfig(dim=0), "dim must be at least 1, got 0"),
        (lambda: PCAConfig(dim=2, floor=1.0), "floor must be between 0 and 1, got 1.0"),
        (lambda: TruncateConfig(dim=0), "dim must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_named(build, message) -> None:
    with pytest.raises(ValueError, match=message):
        build()
