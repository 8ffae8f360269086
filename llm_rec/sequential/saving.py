"""Recommenders on disk: settings and weights as one artefact, and what a damaged one says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar, cast

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import Plain, from_plain, to_plain
from llm_rec.errors import ArtifactError, ConfigError

T = TypeVar("T")
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def write_model(
    folder: Path | str,
    kind: str,
    saved: object,
    module: nn.Module,
    catalog: str | None,
    *,
    marks: tuple[str, ...] = (),
    overwrite: bool,
) -> None:
    """Settings `saved` and tensors of `module` as one artefact of `kind`, named by both and by `marks`."""
    plain = cast(dict[str, Plain], to_plain(saved))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    digest = fingerprint(*marks, plain, *(tensor.numpy().tobytes() for tensor in state.values()))
    inputs = {} if catalog is None else {"catalog": catalog}
    with write_artifact(Path(folder), kind=kind, fingerprint=digest, inputs=inputs, overwrite=overwrite) as partial:
        write_json(partial / CONFIG, plain)
        save_file(state, partial / WEIGHTS)


def read_settings(saved_as: type[T], folder: Path | str, kind: str) -> T:
    """The settings beside the weights; `ArtifactError` when they are damaged, or of an artefact of another kind."""
    path = Path(folder)
    read_manifest(path, kind)
    try:
        return from_plain(saved_as, read_json(path / CONFIG))
    except (OSError, ConfigError) as error:
        raise ArtifactError(f"{path / CONFIG}: not the settings of a model ({error}); save it again") from error


@contextmanager
def reading_weights(folder: Path | str) -> Iterator[Path]:
    """The file of weights; what goes wrong with it inside the block is an `ArtifactError`."""
    path = Path(folder) / WEIGHTS
    try:
        yield path
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()  # torch lists every tensor; one is enough
        raise ArtifactError(f"{path}: not the weights of this model ({reason}); save it again") from error
