"""The encoder-decoder, by the T5 of transformers: this file is its only door beside the encoders of texts.

Built from a config, never from a hub. Embeddings and the head belong to `GenerativeModel`, because its inputs are sums
of token and position vectors; the stacks here take vectors and give vectors.
"""

from dataclasses import dataclass
from inspect import signature
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ctr_models.dropout import Dropout


@dataclass(frozen=True, kw_only=True, slots=True)
class T5ShapeConfig:
    """Sizes of the two stacks. The defaults are TIGER's: 4 + 4 layers, width 128, 6 heads of 64, feed-forward 1024.

    They make 4.5 million weights without the vocabulary; the 13 million that are reported for TIGER need more than
    these sizes.
    """

    dim: int = 128
    num_layers: int = 4
    num_decoder_layers: int = 4
    num_heads: int = 6
    head_dim: int = 64
    feed_forward_dim: int = 1024
    feed_forward: Literal["relu", "gated-gelu"] = "relu"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_decoder_layers", "num_heads", "head_dim", "feed_forward_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0..1 (1 excluded), got {self.dropout}")


class Encoded(NamedTuple):
    """Histories as the decoder reads them; the mask is False where there is nothing."""

    states: Float[Tensor, "rows length dim"]
    mask: Bool[Tensor, "rows length"]


class T5Network(nn.Module):
    """Encoder and decoder stacks of a `T5ForConditionalGeneration`, and its table of token vectors."""

    def __init__(self, config: T5ShapeConfig, vocabulary: int) -> None:
        super().__init__()
        from transformers import T5Config, T5ForConditionalGeneration  # seconds to import: only who builds one waits

        built = T5ForConditionalGeneration(
            T5Config(
                vocab_size=vocabulary,
                d_model=config.dim,
                d_kv=config.head_dim,
                d_ff=config.feed_forward_dim,
                num_layers=config.num_layers,
                num_decoder_layers=config.num_decoder_layers,
                num_heads=config.num_heads,
                dropout_rate=config.dropout,
                feed_forward_proj=config.feed_forward,
            )
        )
        self.tokens: nn.Embedding = built.shared
        self.encoder: nn.Module = built.encoder
        self.decoder: nn.Module = built.decoder
        _draw_faster(built)
        del built.encoder.embed_tokens, built.decoder.embed_tokens  # stacks get vectors; one table, one name in files
        words = signature(type(built.decoder).forward).parameters
        self.cache_word = "cache" if "cache" in words else "past_key_values"  # transformers changed the word in 5.24

    def encode(self, vectors: Float[Tensor, "rows length dim"], mask: Bool[Tensor, "rows length"]) -> Encoded:
        return Encoded(self.encoder(inputs_embeds=vectors, attention_mask=additive(mask)).last_hidden_state, mask)

    def decode(self, vectors: Float[Tensor, "rows steps dim"], encoded: Encoded) -> Float[Tensor, "rows steps dim"]:
        """All steps at once: step t sees the steps up to t."""
        out: Tensor = self.decoder(
            inputs_embeds=vectors,
            encoder_hidden_states=encoded.states,
            encoder_attention_mask=additive(encoded.mask),
            use_cache=False,
        ).last_hidden_state
        return out


def _draw_faster(module: nn.Module) -> None:
    """Give every dropout module the house's drawing, which takes about a sixth off a small training step on a CPU."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(parent, name, Dropout(child.p))


def additive(mask: Bool[Tensor, "rows length"]) -> Float[Tensor, "rows 1 1 length"]:
    """What is added to attention. Given whole, because transformers reads the values of a mask of two axes to see
    whether it needs one, and waits for the device."""
    return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)[:, None, None]


class Decoding:
    """Decoding one step at a time: keys and values of earlier steps and of the histories are kept."""

    def __init__(self, network: T5Network, encoded: Encoded) -> None:
        from transformers import DynamicCache, EncoderDecoderCache

        self._network, self._encoded = network, encoded
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, vectors: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
        """States of the next step of every row."""
        out: Tensor = self._network.decoder(
            inputs_embeds=vectors[:, None],
            encoder_hidden_states=self._encoded.states,
            encoder_attention_mask=additive(self._encoded.mask),
            use_cache=True,
            **{self._network.cache_word: self._cache},
        ).last_hidden_state
        return out[:, 0]

    def take(self, rows: Int64[Tensor, "new_rows"], *, within_histories: bool) -> None:
        """Go on with these rows, in this order. `within_histories`: new row i reads the same history as row i did, so
        that what is kept of the histories, by far the larger part, stays where it is."""
        places = cast(torch.LongTensor, rows)
        self._cache.self_attention_cache.reorder_cache(places)
        if not within_histories:
            self._cache.cross_attention_cache.reorder_cache(places)
            self._encoded = Encoded(*(part.index_select(0, rows) for part in self._encoded))
