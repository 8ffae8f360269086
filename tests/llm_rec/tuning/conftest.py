"""A planted world whose items go together across words, and tiny models over its words."""

from pathlib import Path

import numpy as np
import pytest

from llm_rec.data import Catalog, Interactions, LeaveOneOutConfig, Split, make_split
from llm_rec.encoders import CausalEncoderConfig, SentenceEncoderConfig
from tests.llm_rec.encoders.tiny_models import make_bert, make_llama

# Items of the same needs share no word: only who takes what tells that a tent and a stove go together.
NEEDS = [("tent", "stove"), ("brush", "canvas"), ("drill", "plank"), ("flute", "score")]
COLOURS = ["red", "blue", "green", "black", "white", "brown"]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """48 items of 4 needs; the last has no text, the one before it the text of the first."""
    items = [(need, noun, colour) for need, nouns in enumerate(NEEDS) for noun in nouns for colour in COLOURS]
    texts = [f"{colour}. {noun}. item {number}" for number, (_, noun, colour) in enumerate(items)]
    texts[-1], texts[-2] = "", texts[0]
    return Catalog([f"i{n}" for n in range(len(items))], texts, {"noun": [noun for _, noun, _ in items]})


@pytest.fixture(scope="session")
def split(catalog: Catalog) -> Split:
    """80 users who stay with one need for all of their 6 events."""
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(12)[:6] + 12 * (user % 4) + 1 for user in range(80)])
    users = [f"u{u}" for u in range(80)]
    offsets = np.arange(0, 481, 6)
    log = Interactions(users, offsets, items, None, num_items=48, catalog=catalog.fingerprint)
    return make_split(log, LeaveOneOutConfig())


@pytest.fixture(scope="session")
def sentence(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> SentenceEncoderConfig:
    return SentenceEncoderConfig(model=str(make_bert(tmp_path_factory.mktemp("bert"), list(catalog.texts))))


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory, catalog: Catalog) -> CausalEncoderConfig:
    folder: Path = make_llama(tmp_path_factory.mktemp("llama"), list(catalog.texts))
    return CausalEncoderConfig(model=str(folder), pooling="last")
