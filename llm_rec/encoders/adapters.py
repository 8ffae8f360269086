"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) of transformers: trained, saved in peft's format, merged.

A folder with ``adapter_config.json`` and ``adapter_model.safetensors`` is an adapter, as `peft.PeftModel` reads it.
One written by this toolkit has a ``manifest.json`` too, which names the base model by its weights.
"""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from llm_rec.artifacts import MANIFEST, read_json, read_manifest, replacing, write_json
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.runtime import weights_digest
from llm_rec.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

KIND = "adapter"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoRAConfig:
    """W x + (alpha / rank) B A dropout(x), with B = 0 at the start, beside the frozen W of each adapted layer.

    `target_modules` are ends of layer names (None: every linear layer but those of a pooler, which no vector passes).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if self.target_modules is not None and not self.target_modules:
            raise ValueError("target_modules is empty; name at least one layer, or leave it out")


@runtime_checkable
class TunableEncoder(TextEncoder, Protocol):
    """An encoder whose vectors are a differentiable function of a transformer."""

    model: nn.Module
    device: torch.device

    @property
    def transformer(self) -> nn.Module:
        """The part of `model` that an adapter goes into."""
        ...

    def vectors(
        self, ids: Int64[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float32[Tensor, "batch dim"]:
        """Vectors of right- or left-padded token rows; gradients flow where they are wanted."""
        ...


class Adapter(nn.Module):
    """A fresh adapter inside the transformer of `encoder`, which it changes in place.

    A is drawn from torch's global generator. The parameters are those of the adapter alone: frozen weights are part of
    no checkpoint. Training mode reaches the whole transformer, whose dropout belongs to training.
    """

    def __init__(self, encoder: TunableEncoder, config: LoRAConfig, *, base_name: str) -> None:
        from peft import LoraConfig

        super().__init__()
        self.base = weights_digest(encoder.transformer)
        encoder.model.requires_grad_(False)
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.target_modules) if config.target_modules else "all-linear",
            exclude_modules=_poolers(encoder.transformer) if config.target_modules is None else None,
            task_type="FEATURE_EXTRACTION",
        )
        try:
            wrapped = _wrap(encoder.transformer, lora)
        except ValueError as error:
            raise ConfigError(f"{base_name} cannot be given this adapter: {error}") from error
        lora.base_model_name_or_path = base_name
        self._wrapped = (wrapped,)  # in a tuple, which nn.Module does not look into
        trained = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
        self.weights = nn.ParameterDict({name.replace(".", "/"): p for name, p in trained.items()})
        self.train(False)

    def train(self, mode: bool = True) -> "Adapter":
        self._wrapped[0].train(mode)
        super().train(mode)
        return self

    def save(self, folder: Path) -> None:
        """Write the two files of peft's format into `folder`."""
        from safetensors.torch import save_file

        settings = dict(self._wrapped[0].peft_config["default"].to_dict())
        settings["inference_mode"] = True
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
        write_json(folder / CONFIG_FILE, {name: value for name, value in plain.items() if name != "auto_mapping"})
        state = _lora_state(self._wrapped[0])
        with replacing(folder / WEIGHTS_FILE) as partial:
            save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, partial)


def _wrap(transformer: nn.Module, config: "LoraConfig") -> "PeftModel":
    """LoRA layers inside `transformer`; ValueError where it has none of the layers that `config` names."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name that is on its way out
        return PeftModel(transformer, config)


def _lora_state(wrapped: "PeftModel") -> dict[str, Tensor]:
    """The adapter by the names of peft's files. Embedding layers are left out: to look for them peft goes online."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    return state


def _poolers(transformer: nn.Module) -> str | None:
    """A pattern over layers inside poolers, where there are such."""
    inside = any("pooler" in name.split(".") for name, _ in transformer.named_modules())
    return r"(.*\.)?pooler\..*" if inside else None


def adapter_digest(folder: Path) -> str:
    """SHA-256 of the adapter's weights as they lie on disk."""
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def check_adapter(folder: Path) -> None:
    """`ConfigError` unless `folder` holds an adapter."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            why = f"it has no {name}" if folder.is_dir() else "the folder does not exist"
            raise ConfigError(f"{folder}: no adapter here ({why}); make one with `llm-rec tune-encoder`")


def merge_adapter(transformer: nn.Module, folder: Path, model: str) -> str:
    """Add the adapter of `folder` to the weights of `transformer`, in place; returns the digest of the adapter.

    The weights should be float32: sums of half precision lose what an adapter adds (see `cast_parameters`).
    Raises `ConfigError` when there is no adapter, or when it was made for another model than this one, called `model`.
    """
    from peft import set_peft_model_state_dict

    check_adapter(folder)
    _require_base(folder, transformer, model)
    config = _read_config(folder)
    try:
        wrapped = _wrap(transformer, config)
    except ValueError as error:
        raise ConfigError(f"{folder} holds an adapter that does not fit {model}: {error}") from error
    tensors = _read_weights(folder)
    _require_shapes(folder, wrapped, tensors, model)
    set_peft_model_state_dict(wrapped, tensors)
    wrapped.merge_and_unload()
    return adapter_digest(folder)


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Parameters alone: buffers keep their precision, which positions and frequencies need."""
    for parameter in module.parameters():
        parameter.data = parameter.data.to(dtype)


def _require_base(folder: Path, transformer: nn.Module, model: str) -> None:
    if not (folder / MANIFEST).is_file():
        return
    made_for, here = read_manifest(folder, KIND).inputs.get("base"), weights_digest(transformer)
    if made_for != here:
        raise ConfigError(
            f"{folder} was tuned on a model with weights {str(made_for)[:16]}, but those of {model} are {here[:16]}; "
            "name the model that it was tuned on"
        )


def _read_config(folder: Path) -> "LoraConfig":
    from peft import LoraConfig, PeftConfig

    if not isinstance(read_json(folder / CONFIG_FILE), dict):
        raise ArtifactError(f"{folder / CONFIG_FILE}: not a JSON object; the file is damaged")
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{folder / CONFIG_FILE} is no adapter config that peft reads: {error}") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"{folder} holds an adapter of kind {config.peft_type}, only LoRA can be merged here")
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder / WEIGHTS_FILE}: cannot be read ({error}); tune the adapter again") from error


def _require_shapes(folder: Path, wrapped: "PeftModel", tensors: Mapping[str, Tensor], model: str) -> None:
    own = {name: tuple(value.shape) for name, value in _lora_state(wrapped).items()}
    stored = {name: tuple(value.shape) for name, value in tensors.items()}
    different = sorted(name for name in own.keys() | stored.keys() if own.get(name) != stored.get(name))
    if different:
        name = different[0]
        raise ConfigError(
            f"{folder} holds an adapter that does not fit {model}: {name} is {stored.get(name, 'absent')} in the file, "
            f"{own.get(name, 'absent')} in the model"
        )
