"""A trained model of a click log as one artefact: how it is built, its schema, its encoders, its weights.

```
<folder>/manifest.json  <settings>.json  schema.json  encoders.json  model.safetensors
```

Nothing of the training data is needed to load or to score; nothing that is loaded is executed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ctr_models.schema import Schema
from llm_rec.artifacts import fingerprint, read_json, read_manifest, write_artifact, write_json
from llm_rec.codec import from_plain, to_plain
from llm_rec.data.columns import ClickLog, FittedColumn, read_encoders, write_encoders
from llm_rec.errors import ArtifactError, ConfigError

_SCHEMA, _ENCODERS, _WEIGHTS = "schema.json", "encoders.json", "model.safetensors"
Saved = TypeVar("Saved")
Module = TypeVar("Module", bound=nn.Module)


class Form(NamedTuple):
    """The kind of an artefact, as its manifest says it and as people do, and the file of its settings."""

    kind: str
    words: str
    settings: str


def save_model(
    folder: Path | str, form: Form, saved: object, model: nn.Module, log: ClickLog, *, overwrite: bool = False
) -> None:
    """Write `model`, built as `saved` says, with the encoders of its log: whole or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = (part for name, value in sorted(state.items()) for part in (name, value.numpy().tobytes()))
    digest = fingerprint(form.kind, {"saved": to_plain(saved), "log": log.fingerprint}, *weights)
    inputs = {"log": log.fingerprint}
    with write_artifact(
        Path(folder), kind=form.kind, fingerprint=digest, inputs=inputs, overwrite=overwrite
    ) as partial:
        write_json(partial / form.settings, saved)
        write_json(partial / _SCHEMA, log.schema)
        write_encoders(partial / _ENCODERS, log.columns)
        save_file(state, partial / _WEIGHTS)


def load_model(
    folder: Path | str, form: Form, saved_as: type[Saved], build: Callable[[Saved, Schema], Module]
) -> tuple[Saved, Schema, tuple[FittedColumn, ...], Module]:
    """Settings, schema, encoders and the model that `build` makes, with its weights, in evaluation mode.

    `ArtifactError` when the folder is damaged or something else.
    """
    folder = Path(folder)
    read_manifest(folder, form.kind)
    try:
        saved = from_plain(saved_as, read_json(folder / form.settings))
        schema = from_plain(Schema, read_json(folder / _SCHEMA))
        model = build(saved, schema)
    except (OSError, ConfigError) as error:
        raise ArtifactError(f"{folder}: not a saved {form.words} ({error}); train it again") from error
    try:
        model.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{folder / _WEIGHTS}: not the weights of this model ({error}); train it again") from error
    return saved, schema, read_encoders(folder / _ENCODERS), model.eval()
