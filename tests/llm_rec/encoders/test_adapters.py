"""Adapters: trained beside frozen weights, written as peft writes them, merged on loading, part of the name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from llm_rec.artifacts import write_artifact
from llm_rec.data.catalog import Catalog
from llm_rec.encoders import (
    Adapter,
    CausalEncoderConfig,
    LoRAConfig,
    SentenceEncoder,
    SentenceEncoderConfig,
    TunableEncoder,
    build_encoder,
    encode_catalog,
)
from llm_rec.encoders.adapters import CONFIG_FILE, KIND, WEIGHTS_FILE, adapter_digest
from llm_rec.errors import ArtifactError, ConfigError

BOTH = pytest.mark.parametrize("kind", ["sentence", "causal"])


@pytest.fixture
def config_of(bert_folder: Path, llama_folder: Path):
    return {
        "sentence": SentenceEncoderConfig(model=str(bert_folder)),
        "causal": CausalEncoderConfig(model=str(llama_folder), pooling="last"),
    }


def built(config) -> TunableEncoder:
    encoder = build_encoder(config, "cpu")
    assert isinstance(encoder, TunableEncoder)
    return encoder


def tuned(config, folder: Path, *, scale: float = 0.05, seed: int = 0, lora: LoRAConfig | None = None) -> Adapter:
    """An adapter whose B is no longer zero, saved in `folder`."""
    torch.manual_seed(seed)
    adapter = Adapter(built(config), lora or LoRAConfig(rank=3), base_name=config.model)
    with torch.no_grad():
        for value in adapter.parameters():
            value.add_(scale * torch.randn(value.shape))
    folder.mkdir()
    adapter.save(folder)
    return adapter


@BOTH
def test_a_fresh_adapter_changes_no_vector_and_holds_the_only_trainable_weights(kind, config_of, title_texts) -> None:
    plain, encoder = built(config_of[kind]), built(config_of[kind])
    adapter = Adapter(encoder, LoRAConfig(rank=2), base_name="x")
    np.testing.assert_allclose(encoder.encode(title_texts), plain.encode(title_texts), atol=1e-6)
    trainable = [p for p in encoder.model.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in adapter.parameters()}
    assert sum(p.numel() for p in adapter.parameters()) < sum(p.numel() for p in plain.model.parameters()) / 4


@BOTH
def test_gradients_reach_every_weight_of_the_adapter_and_no_other(kind, config_of, tmp_path, title_texts) -> None:
    encoder = built(config_of[kind])
    adapter = Adapter(encoder, LoRAConfig(rank=2), base_name="x")
    with torch.no_grad():
        for value in adapter.parameters():
            value.add_(0.05 * torch.randn(value.shape))
    tokens = encoder.tokenize(title_texts[:8])
    ids, mask = map(torch.from_numpy, tokens.padded(np.arange(8)))
    (encoder.vectors(ids, mask) * torch.randn(8, encoder.dim)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapter.parameters())
    assert all(p.grad is None for p in encoder.model.parameters() if not p.requires_grad)


@BOTH
def test_the_mode_of_an_adapter_is_that_of_its_transformer(kind, config_of) -> None:
    encoder = built(config_of[kind])
    adapter = Adapter(encoder, LoRAConfig(rank=2, dropout=0.5), base_name="x")
    assert not any(m.training for m in encoder.transformer.modules())
    adapter.train()
    assert all(m.training for m in encoder.transformer.modules())
    adapter.eval()
    assert not any(m.training for m in encoder.transformer.modules())


@BOTH
def test_an_encoder_with_an_adapter_gives_the_vectors_it_was_tuned_to(kind, config_of, tmp_path, title_texts) -> None:
    config = config_of[kind]
    torch.manual_seed(0)
    encoder = built(config)
    adapter = Adapter(encoder, LoRAConfig(rank=3), base_name=config.model)
    with torch.no_grad():
        for value in adapter.parameters():
            value.add_(0.05 * torch.randn(value.shape))
    adapter.save(tmp_path)
    loaded = built(replace(config, adapter=tmp_path)).encode(title_texts)
    np.testing.assert_allclose(loaded, encoder.encode(title_texts), atol=1e-5)
    assert np.abs(loaded - built(config).encode(title_texts)).max() > 0.01


@BOTH
def test_other_tools_read_the_adapter(kind, config_of, tmp_path: Path) -> None:
    config = replace(config_of[kind], normalize=False)
    tuned(config, tmp_path / "a")
    model = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(config.model), str(tmp_path / "a"))
    encoder = built(replace(config, adapter=tmp_path / "a"))
    tokens = encoder.tokenize(["red kettle 5"])
    with torch.no_grad():
        states = model(input_ids=torch.from_numpy(tokens.values)[None]).last_hidden_state[0]
    expected = states.mean(0) if kind == "sentence" else states[-1]
    np.testing.assert_allclose(encoder.encode(["red kettle 5"])[0], expected.numpy(), atol=1e-5)


@BOTH
def test_the_adapter_is_part_of_the_fingerprint(kind, config_of, tmp_path: Path) -> None:
    config = config_of[kind]
    tuned(config, tmp_path / "a", seed=0)
    tuned(config, tmp_path / "b", seed=1)
    found = [built(replace(config, adapter=tmp_path / name)).fingerprint() for name in ("a", "b", "a")]
    assert found[0] == found[2]
    assert len({built(config).fingerprint(), *found}) == 3


def test_an_adapter_that_changes_nothing_still_has_its_own_fingerprint(bert_folder: Path, tmp_path: Path) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    Adapter(built(config), LoRAConfig(rank=2), base_name="x").save(tmp_path)
    assert built(replace(config, adapter=tmp_path)).fingerprint() != built(config).fingerprint()


def test_stores_of_two_adapters_never_mix(bert_folder: Path, tmp_path: Path, title_texts) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    tuned(config, tmp_path / "a", seed=0)
    tuned(config, tmp_path / "b", seed=1)
    catalog = Catalog([str(i) for i in range(8)], title_texts[:8])
    encode_catalog(catalog, built(replace(config, adapter=tmp_path / "a")), tmp_path / "store")
    with pytest.raises(ArtifactError, match="finished store made otherwise \\(encoder: "):
        encode_catalog(catalog, built(replace(config, adapter=tmp_path / "b")), tmp_path / "store")


@BOTH
def test_half_precision_is_merged_in_float32(kind, config_of, tmp_path: Path, title_texts) -> None:
    config = config_of[kind]
    tuned(config, tmp_path / "a")
    exact = built(replace(config, adapter=tmp_path / "a"))
    half = built(replace(config, adapter=tmp_path / "a", dtype="bfloat16"))
    pairs = zip(exact.model.parameters(), half.model.parameters(), strict=True)
    assert all(torch.equal(a.to(torch.bfloat16), b) for a, b in pairs)
    assert half.fingerprint() != exact.fingerprint()


def test_a_missing_adapter_says_what_is_missing(bert_folder: Path, tmp_path: Path) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder), adapter=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"none: no adapter here \(the folder does not exist\); make one with `llm-"):
        SentenceEncoder(config, "cpu")
    with pytest.raises(ConfigError, match=r"no adapter here \(it has no adapter_config.json\)"):
        SentenceEncoder(replace(config, adapter=tmp_path), "cpu")


def test_an_adapter_of_another_architecture_is_refused(config_of, tmp_path: Path) -> None:
    tuned(config_of["causal"], tmp_path / "a", lora=LoRAConfig(target_modules=("gate_proj",)))
    with pytest.raises(ConfigError, match="holds an adapter that does not fit .*gate_proj"):
        built(replace(config_of["sentence"], adapter=tmp_path / "a"))


def test_an_adapter_of_another_width_or_with_other_layers_names_the_tensor(config_of, tmp_path: Path) -> None:
    config = config_of["sentence"]
    tuned(config, tmp_path / "a")
    path = tmp_path / "a" / WEIGHTS_FILE
    tensors = load_file(path)
    name = next(n for n in tensors if "lora_A" in n)
    save_file({**tensors, name: torch.zeros(3, 7)}, path)
    with pytest.raises(ConfigError, match=rf"{name} is \(3, 7\) in the file, \(3, 32\) in the model"):
        built(replace(config, adapter=tmp_path / "a"))
    save_file({n: t for n, t in tensors.items() if n != name}, path)
    with pytest.raises(ConfigError, match=rf"{name} is absent in the file, \(3, 32\) in the model"):
        built(replace(config, adapter=tmp_path / "a"))
    path.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="adapter_model.safetensors: cannot be read .*; tune the adapter again"):
        built(replace(config, adapter=tmp_path / "a"))


def test_an_adapter_of_a_model_with_other_weights_is_refused(bert_folder: Path, tmp_path: Path) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    with write_artifact(tmp_path / "a", kind=KIND, fingerprint="f", inputs={"base": "0123456789abcdefX"}) as folder:
        Adapter(built(config), LoRAConfig(rank=2), base_name="x").save(folder)
    with pytest.raises(ConfigError, match="was tuned on a model with weights 0123456789abcdef, but those of .* are"):
        built(replace(config, adapter=tmp_path / "a"))


def test_other_kinds_of_adapter_are_refused(bert_folder: Path, tmp_path: Path) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    tuned(config, tmp_path / "a")
    settings = {"peft_type": "IA3", "target_modules": ["query"], "feedforward_modules": []}
    (tmp_path / "a" / CONFIG_FILE).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="holds an adapter of kind .*IA3, only LoRA can be merged here"):
        built(replace(config, adapter=tmp_path / "a"))
    (tmp_path / "a" / CONFIG_FILE).write_text("[]")
    with pytest.raises(ArtifactError, match="adapter_config.json: not a JSON object; the file is damaged"):
        built(replace(config, adapter=tmp_path / "a"))


def test_layers_that_a_model_lacks_are_named(bert_folder: Path) -> None:
    encoder = built(SentenceEncoderConfig(model=str(bert_folder)))
    with pytest.raises(ConfigError, match="my-model cannot be given this adapter: .*no_such_layer"):
        Adapter(encoder, LoRAConfig(target_modules=("no_such_layer",)), base_name="my-model")


def test_equal_adapters_are_equal_bytes(bert_folder: Path, tmp_path: Path) -> None:
    config = SentenceEncoderConfig(model=str(bert_folder))
    for name in ("a", "b"):
        tuned(config, tmp_path / name)
    assert adapter_digest(tmp_path / "a") == adapter_digest(tmp_path / "b")
    assert (tmp_path / "a" / CONFIG_FILE).read_bytes() == (tmp_path / "b" / CONFIG_FILE).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"target_modules": ()}, "target_modules is empty; name at least one layer, or leave it out"),
    ],
)
def test_settings_of_an_adapter_are_checked(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LoRAConfig(**options)
