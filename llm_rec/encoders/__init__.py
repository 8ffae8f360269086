"""Text encoders: the only rooms that know transformers, sentence-transformers and peft."""

from llm_rec.encoders.adapters import Adapter, LoRAConfig, TunableEncoder
from llm_rec.encoders.build import EncoderConfig, build_encoder
from llm_rec.encoders.catalog import encode_catalog
from llm_rec.encoders.causal import CausalEncoder, CausalEncoderConfig, smollm2
from llm_rec.encoders.hashing import HashingEncoder, HashingEncoderConfig
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.sentence import SentenceEncoder, SentenceEncoderConfig
from llm_rec.encoders.shard_job import EncodeConfig

__all__ = [
    "Adapter",
    "CausalEncoder",
    "CausalEncoderConfig",
    "EncodeConfig",
    "EncoderConfig",
    "HashingEncoder",
    "HashingEncoderConfig",
    "LoRAConfig",
    "SentenceEncoder",
    "SentenceEncoderConfig",
    "TextEncoder",
    "TunableEncoder",
    "build_encoder",
    "encode_catalog",
    "smollm2",
]
