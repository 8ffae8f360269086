"""Every trained recommender that can be kept: its kind, and reading it without knowing which it is."""

from pathlib import Path
from typing import TypeAlias, assert_never

import numpy as np

from llm_rec.artifacts import canonical_json, fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import from_plain
from llm_rec.errors import ArtifactError, ConfigError
from llm_rec.generative.hybrid import HybridConfig, HybridRecommender
from llm_rec.generative.model import GenerativeModel
from llm_rec.pad.model import PADModel
from llm_rec.sequential.model import SequentialModel

DenseModel: TypeAlias = SequentialModel | PADModel
Model: TypeAlias = DenseModel | GenerativeModel | HybridRecommender
HYBRID = "hybrid_model"
_CONFIG, _COUNTS = "config.json", "train_counts.npy"


def kind_of(model: Model) -> str:
    """The word for it in a manifest."""
    match model:
        case PADModel():
            return "pad"
        case SequentialModel():
            return "sequential"
        case GenerativeModel():
            return "generative"
        case HybridRecommender():
            return "hybrid"
        case _:
            assert_never(model)


def save_model(model: Model, path: Path | str, *, overwrite: bool = False) -> None:
    """Write `model` as one artefact, which `load_model` reads; a hybrid with both of its models."""
    if isinstance(model, HybridRecommender):
        _save_hybrid(model, Path(path), overwrite=overwrite)
    else:
        model.save_pretrained(path, overwrite=overwrite)


def load_model(path: Path | str) -> Model:
    """The model at `path`, whichever of the trained kinds it is."""
    path = Path(path)
    kind = read_manifest(path).kind
    match kind:
        case "sequential_model":
            return SequentialModel.from_pretrained(path)
        case "pad_model":
            return PADModel.from_pretrained(path)
        case "generative_model":
            return GenerativeModel.from_pretrained(path)
        case "hybrid_model":
            return _load_hybrid(path)
        case _:
            raise ArtifactError(f"{path} holds a {kind}, not a trained model")


def _save_hybrid(hybrid: HybridRecommender, path: Path, *, overwrite: bool) -> None:
    dense = hybrid.dense
    if not isinstance(dense, DenseModel):
        raise ArtifactError(f"the dense side is a {type(dense).__name__}; only sequential models and PAD are kept")
    counts, config = hybrid.train_counts, canonical_json(hybrid.config)
    states = [tensor for model in (dense, hybrid.generative) for tensor in model.state_dict().values()]
    digest = fingerprint(HYBRID, config, counts.tobytes(), *(tensor.cpu().numpy().tobytes() for tensor in states))
    with write_artifact(path, kind=HYBRID, fingerprint=digest, overwrite=overwrite) as partial:
        dense.save_pretrained(partial / "dense")
        hybrid.generative.save_pretrained(partial / "generative")
        write_json(partial / _CONFIG, hybrid.config)
        np.save(partial / _COUNTS, counts, allow_pickle=False)


def _load_hybrid(path: Path) -> HybridRecommender:
    dense = load_model(path / "dense")
    if not isinstance(dense, DenseModel):
        raise ArtifactError(f"{path / 'dense'} holds a {kind_of(dense)} model, not a dense one; save the hybrid again")
    generative = GenerativeModel.from_pretrained(path / "generative")
    try:
        config = from_plain(HybridConfig, read_json(path / _CONFIG))
        counts = np.load(path / _COUNTS, allow_pickle=False)
        return HybridRecommender(dense, generative, counts, config)
    except (OSError, ValueError, ConfigError) as error:
        raise ArtifactError(f"{path}: not a hybrid as it was saved ({error}); save it again") from error
