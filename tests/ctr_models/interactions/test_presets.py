import dataclasses
import inspect

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor

from ctr_models.interactions import module_presets, presets
from ctr_models.layers import MLPConfig
from ctr_models.model import CTRModel
from tests.ctr_models.interactions.textbook import textbook_logits
from tests.ctr_models.interactions.worlds import (
    FIELDS,
    tiny_backbones,
    tiny_batch,
    tiny_model,
    tiny_module_presets,
    tiny_presets,
)

PRESETS = {**tiny_presets(), **tiny_module_presets()}
EVERY = {**PRESETS, **tiny_backbones(1), **{f"{name}_x3": c for name, c in tiny_backbones(3).items()}}


def _gradients(model: CTRModel, logits: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_equals_its_textbook_equation_in_value_and_gradient(name: str) -> None:
    model, batch = tiny_model(PRESETS[name]), tiny_batch()
    found, expected = model(batch).squeeze(1), textbook_logits(name, model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    gradients, references = _gradients(model, found), _gradients(model, expected)
    for parameter, reference in references.items():
        torch.testing.assert_close(
            gradients[parameter], reference, rtol=1e-8, atol=1e-8, msg=lambda m, p=parameter: f"{p}: {m}"
        )


@pytest.mark.parametrize("name", EVERY)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model, batch = tiny_model(EVERY[name], seed=1), tiny_batch(64)
    idle = [key for key, gradient in _gradients(model, model(batch)).items() if not gradient.any()]
    assert idle == []


def test_idle_blocks_of_triangular_weights_are_no_parameters() -> None:
    for name in ("fwfm", "fvfm", "fmfm"):
        model = tiny_model(PRESETS[name], seed=1)
        weight = model.towers[0].interactions[0].stack.first.weights.left
        (gradient,) = torch.autograd.grad(model(tiny_batch(64)).square().sum(), [weight])
        assert gradient.ne(0).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_row_alone_has_the_logit_it_has_in_a_batch(name: str) -> None:
    model = tiny_model(EVERY[name])
    torch.testing.assert_close(model(tiny_batch(5))[:1], model(_first_row(5)), rtol=1e-10, atol=1e-10)


def _first_row(rows: int):
    batch = tiny_batch(rows)
    return dataclasses.replace(
        batch, ids=batch.ids[:1], numbers=batch.numbers[:1], dense=batch.dense[:1], labels=batch.labels[:1]
    )


@pytest.mark.parametrize("name", EVERY)
def test_saved_and_loaded_model_is_equal_to_the_bit(name: str, tmp_path) -> None:
    model, other = tiny_model(EVERY[name], seed=0), tiny_model(EVERY[name], seed=1)
    save_model(model, str(tmp_path / "model.safetensors"))
    load_model(other, str(tmp_path / "model.safetensors"))
    assert torch.equal(model(tiny_batch()), other(tiny_batch()))


@pytest.mark.parametrize("name", EVERY)
def test_bf16_stays_close(name: str) -> None:
    model, batch = tiny_model(EVERY[name], dtype=torch.float32), tiny_batch(32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        exact = model(batch)
        rough = model.to(torch.bfloat16)(batch).float()
    assert (rough - exact).abs().max() <= 0.05 * exact.abs().max() + 0.02


@pytest.mark.parametrize("name", EVERY)
def test_autocast_trains_and_stays_close(name: str) -> None:
    model, batch = tiny_model(EVERY[name], dtype=torch.float32), tiny_batch(32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(batch)
    assert (rough - exact).abs().max() <= 0.05 * exact.abs().max() + 0.02
    rough.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", [name for name in EVERY if name != "lr"])
def test_towers_never_read_a_value_back_to_the_host(name: str) -> None:
    config = EVERY[name]
    fields = torch.randn(config.num_tables, 5, FIELDS, config.dim, device="meta")
    for tower in tiny_model(config, dtype=torch.float32).to("meta").towers:
        assert tower(fields).shape == (5, 1)


@pytest.mark.parametrize(
    "name", ["dcn_v2", "pfl", "ipnn", "cin", "fibinet", "finalmlp", "eulernet", "multi_xdeepfm_x3"]
)
def test_two_outputs_share_everything_but_the_head(name: str) -> None:
    model = tiny_model(dataclasses.replace(EVERY[name], num_outputs=2))
    assert model(tiny_batch()).shape == (3, 2)


def test_every_preset_function_is_tested() -> None:
    functions = {
        name
        for module in (presets, module_presets)
        for name, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not name.startswith("_") and name != "crosses"
    }
    known = {"opnn": "opnn_mat"}
    assert {known.get(name, name) for name in functions} <= set(PRESETS)


def test_dropout_acts_in_training_alone() -> None:
    config = presets.dnn(dim=3, hidden=MLPConfig(widths=(50,), dropout=0.5))
    model, batch = tiny_model(config), tiny_batch()
    assert torch.equal(model(batch), model(batch))
    assert not torch.equal(model.train()(batch), model(batch))
