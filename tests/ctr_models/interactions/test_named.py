"""The table of names: complete, and every preset builds and scores rows of a real schema at its default size."""

import inspect

import pytest
import torch

from ctr_models.batch import FeatureBatch
from ctr_models.embeddings import LinearTerm, schema_vectors
from ctr_models.interactions import module_presets, multi_embedding, presets
from ctr_models.interactions.interaction import TransformedConfig, build_interaction
from ctr_models.interactions.named import PRESETS, preset
from ctr_models.interactions.network import FlattenConfig, ProductNetwork
from ctr_models.interactions.senet import SENetConfig
from ctr_models.model import CTRModel, build_ctr_model
from ctr_models.schema import Categorical, Schema

SIZES = (956, 4084, 9, 9, 4, 5, 4, 11, 82, 235)  # ids of the ten fields of frappe, padding and unknown among them
FRAPPE = Schema(fields=tuple(Categorical(name=f"f{i}", size=size) for i, size in enumerate(SIZES)))
ROWS = sum(SIZES)


def build(name: str) -> CTRModel:
    return build_ctr_model(preset(name, FRAPPE), FRAPPE, build_sources=schema_vectors, build_linear=LinearTerm)


def parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in build(name).parameters())


def test_every_preset_function_has_a_name() -> None:
    functions = {
        name
        for module in (presets, module_presets, multi_embedding)
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert functions - {"crosses", "scaled"} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_name_scores_rows_of_a_schema(name: str) -> None:
    torch.manual_seed(0)
    ids = torch.stack([torch.randint(0, size, (3,)) for size in SIZES], 1)
    batch = FeatureBatch(ids, torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(3, 1))
    logits = build(name).eval()(batch)
    assert logits.shape == (3, 1)
    assert logits.isfinite().all()


def test_field_aware_models_follow_the_schema() -> None:
    three = Schema(fields=FRAPPE.fields[:3])
    assert preset("ffm", FRAPPE) == presets.ffm(num_fields=10)
    assert preset("ffm", three) == presets.ffm(num_fields=3)
    assert preset("gwpfm", three) == presets.gwpfm((0, 1, 2))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lr", ROWS + 1),
        ("fm", 11 * ROWS + 1),
        ("fmfm", 11 * ROWS + 1 + 45 * 100),
        ("fibinet", 11 * ROWS + 1 + 2 * 45 * 100 + 2 * 10 * 3 + (900 * 500 + 500) + 2 * (500 * 500 + 500) + 500),
        ("afm", 11 * ROWS + 1 + (10 * 16 + 16) + 16 + 10),
        ("autoint", 10 * ROWS + 1 + 4 * (10 + 64 + 64) * 64 + 10 * 64),
        ("crossnet_mix", 10 * ROWS + 1 + 3 * (4 * (2 * 100 * 32 + 32 * 32 + 100) + 100) + 100),
        ("xdeepint", 10 * ROWS + 1 + 3 * 10 * 10 + 10),
        ("gdcn", 10 * ROWS + 1 + 4 * (2 * 100 * 100 + 100) + (100 * 500 + 500) + 2 * (500 * 500 + 500) + 500),
        (
            "multi_finalmlp",
            10 * ROWS + 1 + 2 * (100 * 400 + 400 + 800) + 2 * (400 * 400 + 400 + 800) + 2 * 400 + 400 * 400,
        ),
    ],
)
def test_parameter_counts_on_ten_fields(name: str, expected: int) -> None:
    assert parameters(name) == expected


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="^no preset is called 'dcnv2'; did you mean 'dcn_v2'\\?$"):
        preset("dcnv2", FRAPPE)
    with pytest.raises(ValueError, match="^no preset is called '%%'; known: lr, fm, fwfm, "):
        preset("%%", FRAPPE)


def test_a_transform_needs_to_be_named() -> None:
    with pytest.raises(ValueError, match="^transforms must name at least one; without any use the interaction itself$"):
        TransformedConfig(transforms=(), interaction=FlattenConfig())


def test_transforms_come_one_after_the_other() -> None:
    torch.manual_seed(0)
    gate = SENetConfig(excitation="sigmoid")
    module = build_interaction(TransformedConfig(transforms=(gate, gate), interaction=FlattenConfig()), 2, 5, 3)
    fields = torch.randn(2, 4, 5, 3)
    first, second = module.transforms
    assert module.width == 15
    assert torch.equal(module(fields), second(first(fields)).flatten(2))


def test_gdcn_can_start_as_its_released_code() -> None:
    torch.manual_seed(0)
    config = presets.gdcn(dim=100, initial_bias="uniform").towers[0].interactions[0]
    layers = ProductNetwork(config, 1, 10, 100).stack.layers
    bias = torch.cat([layer.bias.detach().flatten() for layer in layers])
    assert 0 <= bias.min() < 0.01
    assert 0.99 < bias.max() <= 1
    torch.testing.assert_close(bias.mean(), torch.tensor(0.5), atol=0.03, rtol=0)
