from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from llm_rec.data.catalog import Catalog
from llm_rec.encoders import CausalEncoder, CausalEncoderConfig, encode_catalog, smollm2
from llm_rec.encoders.transforms import CentreConfig, NormaliseConfig, PCAConfig, fit_transform
from llm_rec.errors import ConfigError


def naive(folder: Path, text: str, pooling: str, *, end: bool = False) -> np.ndarray:
    """One text, no padding, transformers' own forward."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
    return (states.mean(dim=0) if pooling == "mean" else states[-1]).numpy()


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("append_eos", [False, True])
def test_batched_vectors_equal_unpadded_forwards(
    llama_folder: Path, title_texts: list[str], pooling, padding_side, append_eos
) -> None:
    config = CausalEncoderConfig(
        model=str(llama_folder),
        pooling=pooling,
        padding_side=padding_side,
        prefix="Title: ",
        append_eos=append_eos,
        normalize=False,
    )
    texts = title_texts[:6]
    assert len({len(text.split()) for text in texts}) > 3
    expected = np.stack([naive(llama_folder, "Title: " + text, pooling, end=append_eos) for text in texts])
    np.testing.assert_allclose(CausalEncoder(config, "cpu").encode(texts), expected, atol=2e-5)


def test_normalised_truncated_vectors_are_the_first_components_at_length_one(llama_folder, title_texts) -> None:
    whole = CausalEncoder(CausalEncoderConfig(model=str(llama_folder), normalize=False), "cpu").encode(title_texts)
    cut = CausalEncoder(CausalEncoderConfig(model=str(llama_folder), truncate_dim=8), "cpu")
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    assert cut.dim == 8
    np.testing.assert_allclose(cut.encode(title_texts), expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_text_without_tokens_is_zero_and_leaves_the_others_alone(llama_folder, pooling, padding_side) -> None:
    config = CausalEncoderConfig(model=str(llama_folder), pooling=pooling, padding_side=padding_side)
    encoder = CausalEncoder(config, "cpu")
    both = encoder.encode(["", "red kettle"])
    assert not both[0].any()
    np.testing.assert_allclose(both[1], encoder.encode(["red kettle"])[0], atol=1e-6)
    assert encoder.encode([]).shape == (0, 32)


def test_long_texts_are_cut_and_still_end_with_the_end_token(llama_folder) -> None:
    encoder = CausalEncoder(CausalEncoderConfig(model=str(llama_folder), max_length=5, append_eos=True), "cpu")
    tokens = encoder.tokenize(["red kettle " * 20, "red"])
    assert tokens.lengths[0] == 5
    end = encoder.tokenizer.eos_token_id
    assert [tokens.values[stop - 1] for stop in tokens.offsets[1:]] == [end, end]


def test_half_precision_stays_near_single(llama_folder, title_texts) -> None:
    config = CausalEncoderConfig(model=str(llama_folder))
    single = CausalEncoder(config, "cpu").encode(title_texts)
    half = CausalEncoder(replace(config, dtype="bfloat16"), "cpu").encode(title_texts)
    assert (single * half).sum(axis=1).min() > 0.999


def test_the_fingerprint_covers_weights_and_settings_but_not_the_place(llama_folder, tmp_path) -> None:
    config = CausalEncoderConfig(model=str(llama_folder))
    base = CausalEncoder(config, "cpu")
    variants = [
        replace(config, pooling="last"),
        replace(config, prefix="x"),
        replace(config, max_length=9),
        replace(config, normalize=False),
        replace(config, truncate_dim=3),
        replace(config, dtype="bfloat16"),
        replace(config, append_eos=True),
    ]
    prints = {CausalEncoder(variant, "cpu").fingerprint() for variant in variants}
    assert len(prints | {base.fingerprint()}) == 8
    moved = tmp_path / "moved"
    base.model.save_pretrained(moved)
    base.tokenizer.save_pretrained(moved)
    assert CausalEncoder(replace(config, model=str(moved)), "cpu").fingerprint() == base.fingerprint()
    with torch.no_grad():
        base.model.norm.weight[0] += 1e-3
    base.model.save_pretrained(moved)
    assert CausalEncoder(replace(config, model=str(moved)), "cpu").fingerprint() != base.fingerprint()


def test_the_environment_names_torch_and_threads(llama_folder) -> None:
    environment = CausalEncoder(CausalEncoderConfig(model=str(llama_folder)), "cpu").environment()
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == torch.get_num_threads()


def test_a_folder_without_a_model_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded as a transformers decoder"):
        CausalEncoder(CausalEncoderConfig(model=str(tmp_path)), "cpu")


def test_more_components_than_the_model_has_is_an_error(llama_folder) -> None:
    with pytest.raises(ConfigError, match="truncate_dim is 33 but .* gives vectors of 32; set at most 32"):
        CausalEncoder(CausalEncoderConfig(model=str(llama_folder), truncate_dim=33), "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"max_length": 1}, "max_length must be at least 2, got 1"), ({"truncate_dim": 0}, "at least 1, got 0")],
)
def test_settings_out_of_range_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        CausalEncoderConfig(model="x", **settings)


def mean_cosine(vectors: np.ndarray) -> float:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gram = units @ units.T
    return float((gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_vectors_of_a_real_decoder_are_collapsed_until_they_are_whitened(tmp_path, pooling, record_property) -> None:
    pytest.importorskip("gguf", reason="reading the decoder needs gguf")
    try:
        config = smollm2(pooling)
    except ConfigError as error:
        pytest.skip(str(error))
    makers = ["Sony", "Bosch", "Lego", "Casio", "Nivea", "Yamaha", "Philips", "Barilla", "Osprey", "Moleskine"]
    things = [
        "headphones",
        "drill",
        "castle set",
        "watch",
        "hand cream",
        "guitar",
        "kettle",
        "pasta",
        "backpack",
        "diary",
    ]
    texts = [f"{maker} {thing}, {size}" for maker in makers for thing in things for size in ("small", "large", "red")]
    catalog = Catalog([str(i) for i in range(len(texts))], texts)
    raw = encode_catalog(catalog, CausalEncoder(config, "cpu"), tmp_path / "raw")
    centred = fit_transform(raw, [CentreConfig()], tmp_path / "centred")
    white = fit_transform(raw, [PCAConfig(dim=64, whiten=True), NormaliseConfig()], tmp_path / "white")
    figures = [mean_cosine(store.all()[1:]) for store in (raw, centred, white)]
    record_property("mean_cosine_raw_centred_white", figures)
    # last tokens of these titles are one of three words, so they stay further apart than the means
    assert figures[0] > (0.8 if pooling == "mean" else 0.5)
    assert abs(figures[1]) < 0.05
    assert abs(figures[2]) < 0.05
