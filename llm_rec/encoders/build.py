"""From a config to its encoder."""

from typing import assert_never

import torch

from llm_rec.encoders.causal import CausalEncoder, CausalEncoderConfig
from llm_rec.encoders.hashing import HashingEncoder, HashingEncoderConfig
from llm_rec.encoders.protocol import TextEncoder
from llm_rec.encoders.sentence import SentenceEncoder, SentenceEncoderConfig

EncoderConfig = SentenceEncoderConfig | CausalEncoderConfig | HashingEncoderConfig


def build_encoder(config: EncoderConfig, device: str | torch.device | None = None) -> TextEncoder:
    """The encoder of a config, on `device` (by default this process's GPU, else the CPU; hashing has no device)."""
    match config:
        case SentenceEncoderConfig():
            return SentenceEncoder(config, device)
        case CausalEncoderConfig():
            return CausalEncoder(config, device)
        case HashingEncoderConfig():
            return HashingEncoder(config)
        case _:
            assert_never(config)
