"""Explicit, saved steps from raw vectors to ones a recommender can use: centre, standardise, PCA, length, width.

Pooled states of decoders point almost all one way (mean cosine about .96), and single dimensions of some models never
change; so steps are fitted on the catalog's own vectors, streamed shard by shard, and stored beside the result, where
`Transform.load` finds them for new items. Zero vectors (padding, items without text) take no part in any statistic and
stay zero through every step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

import numpy as np
from jaxtyping import Bool, Float32, Float64

from llm_rec.artifacts import fingerprint, read_manifest, replacing, write_artifact
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, DataError
from llm_rec.store import KIND, EmbeddingStore, manifest_of, read_facts, shard_path, write_shard

_FILE = "transform.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class CentreConfig:
    """x - mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StandardiseConfig:
    """(x - mean) / max(std, floor * root mean square of all stds), dimension by dimension.

    The floor (our choice) keeps dimensions that never change near zero; without it they are divided by zero.
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must be between 0 and 1, got {self.floor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PCAConfig:
    """(x - mean) V: the `dim` directions of largest variance, largest first.

    With `whiten` each is divided by its standard deviation, so the result has the identity as its covariance.
    Directions with less than `floor` of the largest variance carry rounding noise: whitening sets them to zero instead
    of blowing them up (our choice). A direction's sign is fixed: its largest component is positive.
    """

    dim: int
    whiten: bool = False
    floor: float = 1e-7

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must be between 0 and 1, got {self.floor}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TruncateConfig:
    """The first `dim` components, for models trained to be cut (Matryoshka, arXiv 2205.13147)."""

    dim: int

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, got {self.dim}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NormaliseConfig:
    """x / |x|."""


TransformConfig = CentreConfig | StandardiseConfig | PCAConfig | TruncateConfig | NormaliseConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformSteps:
    """Steps in the order in which they are applied."""

    steps: tuple[TransformConfig, ...]


@dataclass(frozen=True, eq=False)
class _Moments:
    """Number, mean and covariance of the vectors that are not zero."""

    count: int
    mean: Float64[np.ndarray, "dim"]
    covariance: Float64[np.ndarray, "dim dim"]


Parameters = dict[str, Float64[np.ndarray, "..."]]


class Transform:
    """Fitted steps. `apply` is the same function on the catalog's vectors and on those of new items."""

    def __init__(self, steps: Sequence[TransformConfig], parameters: Sequence[Parameters]) -> None:
        self.steps = tuple(steps)
        self.parameters = tuple(parameters)

    def apply(self, vectors: Float32[np.ndarray, "rows width"]) -> Float32[np.ndarray, "rows dim"]:
        """Computed in float64; zero rows stay zero."""
        return np.asarray(self._apply64(vectors), dtype=np.float32)

    def _apply64(self, vectors: Float32[np.ndarray, "rows width"]) -> Float64[np.ndarray, "rows dim"]:
        zero = _is_zero(vectors)
        values = vectors.astype(np.float64)
        for step, parameters in zip(self.steps, self.parameters, strict=True):
            values = _apply(step, parameters, values)
            values[zero] = 0.0
        return values

    def save(self, folder: Path) -> None:
        """Write the fitted numbers into `folder`; the steps themselves stand in the manifest of the store there."""
        from safetensors.numpy import save_file

        tensors = {f"{i}.{name}": value for i, p in enumerate(self.parameters) for name, value in p.items()}
        with replacing(folder / _FILE) as partial:
            save_file(tensors, partial)

    @classmethod
    def load(cls, path: Path | str) -> "Transform":
        """The fitted steps of the transformed store at `path`; `ArtifactError` when that store was not transformed."""
        from safetensors.numpy import load_file

        folder = Path(path)
        steps = read_manifest(folder, KIND).details.get("steps")
        if steps is None or not (folder / _FILE).is_file():
            raise ArtifactError(f"{folder} holds vectors as they were encoded; no transform was fitted there")
        configs = from_plain(TransformSteps, {"steps": steps}).steps
        parameters: list[Parameters] = [{} for _ in configs]
        for key, value in load_file(folder / _FILE).items():
            index, name = key.split(".")
            parameters[int(index)][name] = value
        return cls(configs, parameters)


def fit_transform(
    store: EmbeddingStore, steps: Sequence[TransformConfig], path: Path | str, *, overwrite: bool = False
) -> EmbeddingStore:
    """Fit `steps` one after the other on `store`, write the transformed vectors and the fitted numbers to `path`.

    Memory holds one shard and one covariance; each step with statistics reads the store once. The new store's manifest
    names the source store and the steps. Raises `DataError` where a step asks for more dimensions than there are, and
    `ArtifactError` where `path` exists (see `overwrite`).
    """
    transform = fit(store, steps)
    plain = _plain_steps(steps)
    inputs = {**store.manifest.inputs, "embeddings": store.fingerprint}
    name = fingerprint(KIND, store.fingerprint, {"steps": plain})
    details: dict[str, Plain] = {"num_items": store.num_items, "shard_rows": store.layout.shard_rows, "steps": plain}
    with write_artifact(
        Path(path), kind=KIND, fingerprint=name, inputs=inputs, details=details, overwrite=overwrite
    ) as folder:
        dim = store.dim
        for shard, vectors in enumerate(store.shards()):
            transformed = transform.apply(vectors)
            dim = transformed.shape[1]
            facts = read_facts(shard_path(store.path, shard))
            write_shard(
                shard_path(folder, shard),
                transformed,
                encoded=facts.encoded,
                duplicates=facts.duplicates,
                empty_texts=facts.empty_texts,
                non_finite=facts.non_finite,
            )
        transform.save(folder)
        # the manifest is written when this block ends, so it sees the counts of the shards just written
        details.update(manifest_of(folder, store.layout, dim, inputs=inputs, details={}).details)
    return EmbeddingStore.open(path)


def fit(store: EmbeddingStore, steps: Sequence[TransformConfig]) -> Transform:
    """Fit the steps in order, each on the vectors as the steps before it leave them."""
    fitted = Transform((), ())
    width = store.dim
    for step in steps:
        parameters = _fit(step, store, fitted, width)
        fitted = Transform((*fitted.steps, step), (*fitted.parameters, parameters))
        width = step.dim if isinstance(step, PCAConfig | TruncateConfig) else width
    return fitted


def _fit(step: TransformConfig, store: EmbeddingStore, before: Transform, width: int) -> Parameters:
    match step:
        case CentreConfig():
            return {"mean": _moments(store, before, width).mean}
        case StandardiseConfig():
            moments = _moments(store, before, width)
            std = np.sqrt(np.diagonal(moments.covariance).clip(min=0.0))
            floor = step.floor * np.sqrt(np.square(std).mean())
            return {"mean": moments.mean, "scale": 1.0 / np.maximum(std, max(float(floor), np.finfo(np.float64).tiny))}
        case PCAConfig():
            _require_width("PCA", step.dim, width)
            return _principal(step, _moments(store, before, width))
        case TruncateConfig():
            _require_width("truncation", step.dim, width)
            return {}
        case NormaliseConfig():
            return {}
        case _:
            assert_never(step)


def _apply(
    step: TransformConfig, parameters: Parameters, values: Float64[np.ndarray, "rows width"]
) -> Float64[np.ndarray, "rows dim"]:
    match step:
        case CentreConfig():
            return values - parameters["mean"]
        case StandardiseConfig():
            return (values - parameters["mean"]) * parameters["scale"]
        case PCAConfig():
            return (values - parameters["mean"]) @ parameters["directions"]
        case TruncateConfig():
            return values[:, : step.dim]
        case NormaliseConfig():
            norms = np.sqrt(np.square(values).sum(axis=1, keepdims=True))
            return values / np.where(norms > 0, norms, 1.0)
        case _:
            assert_never(step)


def _require_width(what: str, dim: int, width: int) -> None:
    if dim > width:
        raise DataError(f"{what} to {dim} dimensions, but the vectors have {width}; set dim to at most {width}")


def _principal(step: PCAConfig, moments: _Moments) -> Parameters:
    variances, directions = np.linalg.eigh(moments.covariance)
    variances, directions = variances[::-1][: step.dim], directions[:, ::-1][:, : step.dim]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    if step.whiten:
        kept = variances > step.floor * max(float(variances[0]), np.finfo(np.float64).tiny)
        directions = directions * np.where(kept, 1.0 / np.sqrt(np.where(kept, variances, 1.0)), 0.0)
    return {"mean": moments.mean, "directions": np.ascontiguousarray(directions), "variances": variances.copy()}


def _moments(store: EmbeddingStore, before: Transform, width: int) -> _Moments:
    """Mean and (population) covariance in one pass, shard by shard in order, by Chan's pairwise update."""
    count, mean, scatter = 0, np.zeros(width), np.zeros((width, width))
    for vectors in _values(store, before._apply64):
        if not len(vectors):
            continue
        total = count + len(vectors)
        shard_mean = vectors.mean(axis=0)
        centred = vectors - shard_mean
        shift = shard_mean - mean
        scatter += centred.T @ centred + np.outer(shift, shift) * (count * len(vectors) / total)
        mean = mean + shift * (len(vectors) / total)
        count = total
    if count < 2:
        raise DataError(f"{store.path} has {count} vectors that are not zero; fitting a transform needs at least 2")
    return _Moments(count=count, mean=mean, covariance=scatter / count)


def _values(
    store: EmbeddingStore, apply: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Float64[np.ndarray, "rows width"]]:
    return (apply(vectors[~_is_zero(vectors)]) for vectors in store.shards())


def _is_zero(vectors: Float32[np.ndarray, "rows width"]) -> Bool[np.ndarray, "rows"]:
    zero: np.ndarray = np.logical_not(vectors.any(axis=1))
    return zero


def _plain_steps(steps: Sequence[TransformConfig]) -> Plain:
    plain = to_plain(TransformSteps(steps=tuple(steps)))
    return plain["steps"] if isinstance(plain, dict) else plain
