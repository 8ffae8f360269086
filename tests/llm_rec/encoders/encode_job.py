"""One encode job as its own process: ``encode_job.py OUT ENCODER ITEMS [MODEL]``; killed and spawned by the tests."""

import sys
from pathlib import Path

from llm_rec.data.catalog import Catalog
from llm_rec.encoders import (
    CausalEncoderConfig,
    EncodeConfig,
    EncoderConfig,
    HashingEncoderConfig,
    SentenceEncoderConfig,
    build_encoder,
    encode_catalog,
)

WORDS = ["red", "kettle", "quiet", "lamp", "folding", "guitar", "organic", "soap", "tiny", "puzzle"]


def job_catalog(items: int) -> Catalog:
    """Titles of very different lengths; every fifth repeats an earlier one, mostly of another shard; some are empty."""
    texts = [" ".join(WORDS[(i * 7 + k * k) % 10] for k in range(2 + i % 11)) + f" {i}" for i in range(items)]
    texts = [texts[i // 3] if i % 5 == 4 else text for i, text in enumerate(texts)]
    texts = ["" if i % 50 == 7 else text for i, text in enumerate(texts)]
    return Catalog([f"item{i}" for i in range(items)], texts)


def job_encoder(name: str, model: str) -> EncoderConfig:
    if name == "sentence":
        return SentenceEncoderConfig(model=model)
    if name == "causal":
        return CausalEncoderConfig(model=model)
    return HashingEncoderConfig(dim=32)


JOB_CONFIG = EncodeConfig(shard_rows=64, tokens_per_batch=256)

if __name__ == "__main__":
    out, name, items, *model = sys.argv[1:]
    encoder = build_encoder(job_encoder(name, *(model or [""])), "cpu")
    encode_catalog(job_catalog(int(items)), encoder, Path(out), JOB_CONFIG)
